"""DeiT: ViT that learns from ImageNet alone, and from a teacher through a token of its own (Touvron et al. 2021).

Shape letters: B batch, N tokens, C width (`dim`).

Without distillation DeiT is ViT of the same size, trained by another recipe. With it, a second learned token goes
through all blocks beside the class token; its output has a head of its own, which learns the teacher's labels.
"""

from typing import Annotated, Any

from torch import Tensor, nn

from ..registry import Takes, register
from .augreg import SMALL, TINY
from .vit import BASE, ViT


class DeiT(ViT):
    """ViT with a distillation token after the class token. Arguments as ViT's, which has two tokens as its prefix.

    In training it returns what both heads say; in eval mode the mean of their logits. (The paper adds their softmax
    outputs, sec. 4; the official code takes the mean of the logits, and so do we.)
    """

    def __init__(
        self, *, classes: int = 1000, dim: int = 768, **vit: Annotated[Any, Takes(ViT, but=("prefix",))]
    ) -> None:
        super().__init__(classes=classes, dim=dim, prefix=2, **vit)
        self.teacher_head = nn.Linear(dim, classes)
        for weight in (self.prefix, self.head.weight, self.teacher_head.weight):
            nn.init.trunc_normal_(weight, std=0.02)
        nn.init.zeros_(self.teacher_head.bias)

    def heads(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, height, width) to two times logits (B, classes): of the class and of the distillation token."""
        x = self.tokens(image)
        return self.head(x[:, 0]), self.teacher_head(x[:, 1])

    def forward(self, image: Tensor) -> Any:
        """Images (B, 3, height, width) to both heads' logits in training, to their mean (B, classes) in eval mode."""
        label, teacher = self.heads(image)
        return (label, teacher) if self.training else (label + teacher) / 2


@register
def deit_tiny(**overrides: Any) -> ViT:
    """DeiT-Ti: 5.7 M parameters (Touvron et al. 2021, table 1)."""
    return ViT(**TINY | {"drop_path": 0.1} | overrides)


@register
def deit_small(**overrides: Any) -> ViT:
    """DeiT-S: 22.1 M parameters (Touvron et al. 2021, table 1)."""
    return ViT(**SMALL | {"drop_path": 0.1} | overrides)


@register
def deit_base(**overrides: Any) -> ViT:
    """DeiT-B: 86.6 M parameters (Touvron et al. 2021, table 1)."""
    return ViT(**BASE | {"drop_path": 0.1} | overrides)


@register
def deit_tiny_distilled(**overrides: Any) -> DeiT:
    """DeiT-Ti with a distillation token: 5.9 M parameters (Touvron et al. 2021)."""
    return DeiT(**TINY | {"drop_path": 0.1} | overrides)


@register
def deit_small_distilled(**overrides: Any) -> DeiT:
    """DeiT-S with a distillation token: 22.4 M parameters (Touvron et al. 2021)."""
    return DeiT(**SMALL | {"drop_path": 0.1} | overrides)


@register
def deit_base_distilled(**overrides: Any) -> DeiT:
    """DeiT-B with a distillation token: 87.3 M parameters (Touvron et al. 2021)."""
    return DeiT(**BASE | {"drop_path": 0.1} | overrides)
