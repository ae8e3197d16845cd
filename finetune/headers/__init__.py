"""Checks of file headers before a native parser sees the file. Called by model, training, evaluation and export."""


class HeaderProblem(ValueError):
    """What is wrong with a file's header; the caller says which file and what to do."""
