"""Losses that are the idea of a paper."""
