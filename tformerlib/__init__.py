"""The library of The Reproducible Transformer: attention, models built on it, and what chapters need to test them."""

from .description import describe
from .exercises import check
from .peers.compare import compare_models
from .published import load_published
from .registry import create_model, list_models
from .run.profiles import parameters

__version__ = "0.1.0"
__all__ = ["check", "compare_models", "create_model", "describe", "list_models", "load_published", "parameters"]
