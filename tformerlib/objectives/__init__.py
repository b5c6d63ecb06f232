"""Losses that are a paper's idea."""
