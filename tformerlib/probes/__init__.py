"""Looking into trained models: how alike layers are, and what happens when a layer or a part of an image goes."""

from .layers import outputs_of, without
from .perturbations import blurred, fgsm, noisy, occluded, pgd, shuffled
from .similarity import cka, cka_map, hsic

__all__ = [
    "blurred",
    "cka",
    "cka_map",
    "fgsm",
    "hsic",
    "noisy",
    "occluded",
    "outputs_of",
    "pgd",
    "shuffled",
    "without",
]
