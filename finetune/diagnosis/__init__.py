"""Checks of the machine and the installation for `python -m finetune doctor`; each yields findings and raises nothing
that the caller has to know."""
