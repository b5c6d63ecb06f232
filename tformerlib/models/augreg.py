"""AugReg: the sizes of ViT for which Steiner et al. (2022) studied data, augmentation and regularization.

The model is ViT. What they add is how to train it: `training.augment.Recipe` has mixup and RandAugment; dropout and
drop_path are arguments, both 0.1 or both 0 in the study.
"""

from typing import Any

from ..registry import register
from .vit import BASE, LARGE, Stem, ViT

TINY: dict[str, Any] = {"dim": 192, "depth": 12, "heads": 3}
SMALL: dict[str, Any] = {"dim": 384, "depth": 12, "heads": 6}


@register
def vit_tiny_patch16(**overrides: Any) -> ViT:
    """Ti/16: 5.7 M parameters (Steiner et al. 2022)."""
    return ViT(**TINY | overrides)


@register
def vit_small_patch16(**overrides: Any) -> ViT:
    """S/16: 22.1 M parameters (Steiner et al. 2022)."""
    return ViT(**SMALL | overrides)


@register
def vit_small_patch32(**overrides: Any) -> ViT:
    """S/32: 22.9 M parameters (Steiner et al. 2022)."""
    return ViT(**SMALL | {"patch": 32} | overrides)


@register
def vit_base_patch8(**overrides: Any) -> ViT:
    """B/8: 86.6 M parameters; released later than the study (Steiner et al. 2022), trained as it says."""
    return ViT(**BASE | {"patch": 8} | overrides)


@register
def vit_tiny_r_s16_p8(**overrides: Any) -> ViT:
    """R+Ti/16: 6.3 M parameters (Steiner et al. 2022). The stem of a ResNet, then patches of 8 x 8 of its map.

    Each is 32 x 32 pixels wide.
    """
    return ViT(**TINY | {"patch": 8, "stem": lambda: Stem(())} | overrides)


@register
def vit_small_r26_s32(**overrides: Any) -> ViT:
    """R26+S/32: 36.4 M parameters (Steiner et al. 2022). Two bottlenecks in each of four stages."""
    return ViT(**SMALL | {"patch": 1, "stem": lambda: Stem((2, 2, 2, 2))} | overrides)


@register
def vit_large_r50_s32(**overrides: Any) -> ViT:
    """R50+L/32: 329.0 M parameters (Steiner et al. 2022). All four stages of a ResNet-50."""
    return ViT(**LARGE | {"patch": 1, "stem": lambda: Stem((3, 4, 6, 3))} | overrides)
