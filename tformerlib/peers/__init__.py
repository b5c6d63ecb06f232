"""Other people's implementations, and how ours are compared with them: wide weights, parity, recorded numbers."""

from .prepare import prepare

__all__ = ["prepare"]
