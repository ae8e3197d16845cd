"""Raw rows of each format as conversations; one file per kind of row. Called by formats.py and preferences.py."""
