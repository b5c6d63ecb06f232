"""Weights published for other implementations: rename, reshape, then load strictly.

The rules of a paper are in the file of its name; models know nothing of them.
"""

from .rules import Rules, convert, load_published, published

__all__ = ["Rules", "convert", "load_published", "published"]
