"""Chats through a tokenizer's template: text, what of it is learned, and previews. Called by encode.py and jobs."""
