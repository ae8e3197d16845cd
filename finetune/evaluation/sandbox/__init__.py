"""Runs generated code with its unit tests where it can do no harm; `evaluation.run_code` turns it on.

`isolation` finds out how this machine can shut a process in and proves that it does, `run` runs programs, `inside` is
what runs within: guard (shuts the process in), judge (runs the tests), candidate (runs the foreign code).
"""
