"""Rows out of files, folders and the hub, streamed and within budgets; one file per kind. Called by load.py."""
