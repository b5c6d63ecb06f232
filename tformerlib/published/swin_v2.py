"""Weights of Swin V2: the rules stand with those of Swin."""

from . import swin  # noqa: F401
