"""The loss of CLIP: which text of a batch belongs to which image (Radford et al. 2021, fig. 3)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def pair_loss(logits: Tensor) -> Tensor:
    """Cross-entropy of scores (B, B) whose row i belongs to column i, by rows and by columns, averaged (fig. 3).

    Raises:
        ValueError: scores that are not a square.
    """
    if logits.ndim != 2 or logits.shape[0] != logits.shape[1]:
        raise ValueError(f"scores {tuple(logits.shape)} are not those of as many images as texts")
    pairs = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.mT, pairs)) / 2
