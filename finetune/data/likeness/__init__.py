"""Rows that repeat others, nearly or in part: near-duplicates and contamination. Called by duplicates.py, leaks.py."""
