"""Weights that other implementations of DeiT hold: those of ViT, with a second token and a second head."""

from .rules import published
from .vit import from_timm, from_transformers

published("DeiT", "timm")(from_timm)
published("DeiT", "transformers")(from_transformers)
