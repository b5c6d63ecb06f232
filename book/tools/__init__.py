"""Executes chapters and assembles them; run as `python -m book.tools.<name>` from the repository root."""
