"""Weights of CCT: those of CVT, with another tokenizer."""

from .rules import published
from .vit_lite import from_official

published("CCT", "official")(from_official)
