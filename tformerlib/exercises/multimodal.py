"""Checks of the exercises in the chapter on CLIP."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..objectives.pairing import pair_loss
from . import exercise, expect


@exercise("multimodal-loss")
def loss(answer: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    """answer(x (B, E), y (B, E), tau) is the mean of the cross-entropies by rows and by columns of cosines / tau."""
    x, y = torch.randn(2, 5, 7)
    found = answer(x, y, 0.5)
    expect(isinstance(found, Tensor) and found.ndim == 0, "it did not return one number as a tensor")
    expect(bool((answer(3 * x, y, 0.5) - found).abs() < 1e-4), "with longer vectors it becomes another number")
    matched = answer(torch.eye(5), torch.eye(5), 0.01).item()
    expect(abs(matched) < 1e-3, f"for five pairs that fit perfectly, at tau = 0.01, it is {matched:.3f}")
    equal = answer(torch.ones(5, 7), torch.ones(5, 7), 0.5).item()
    expect(abs(equal - math.log(5)) < 1e-4, f"where all five pairs are alike it is {equal:.3f}, not ln 5")
    expect(bool((answer(x, y, 0.5) - answer(y, x, 0.5)).abs() < 1e-4), "pictures and texts can't change places")
    warm, cold = (answer(torch.eye(5), torch.eye(5), tau).item() for tau in (1.0, 0.25))
    expect(warm > cold, f"for pairs that fit it is {cold:.3f} at tau = 0.25 and {warm:.3f} at tau = 1: not smaller")
    whole = pair_loss(F.normalize(x, dim=-1) @ F.normalize(y, dim=-1).mT / 0.5)
    expect(bool((found - whole).abs() < 1e-4), f"for five random pairs it is {found:.4f}, not {whole:.4f}")


@exercise("multimodal-classifier")
def classifier(answer: Callable[[Tensor], Tensor]) -> None:
    """answer(vectors (T, M, E)) are the means of the normalized vectors over the prompts, normalized: (M, E)."""
    vectors = torch.randn(3, 4, 6)
    found = answer(vectors)
    expect(isinstance(found, Tensor) and found.shape == (4, 6), "for 3 prompts of 4 classes it has not one row a class")
    lengths = found.norm(dim=-1)
    expect(bool((lengths - 1).abs().max() < 1e-5), f"the first class's vector has the length {lengths[0]:.3f}")
    louder = vectors * torch.tensor([1.0, 9.0, 1.0])[:, None, None]
    expect(bool((answer(louder) - found).abs().max() < 1e-4), "a prompt with longer vectors has more say")
    one = answer(vectors[:1])
    expect(bool((one - F.normalize(vectors[0], dim=-1)).abs().max() < 1e-5), "one prompt alone is not itself")
    right = F.normalize(F.normalize(vectors, dim=-1).mean(0), dim=-1)
    expect(bool((found - right).abs().max() < 1e-5), "it is not the direction of the mean of the three")


@exercise("multimodal-share")
def share(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """answer(scores (B, B), rows) is the part of the pair loss that belongs to these pairs."""
    scores = 3 * torch.randn(6, 6)
    parts = [torch.tensor([0, 4]), torch.tensor([1]), torch.tensor([2, 3, 5])]
    total, whole = sum(float(answer(scores, rows)) for rows in parts), pair_loss(scores).item()
    expect(abs(total - whole) < 1e-4, f"the shares of 2, 1 and 3 of 6 pairs add up to {total:.4f}, not to {whole:.4f}")
    hidden = scores.clone()
    hidden[1:, 1:] = 50.0  # neither row nor column 0
    before, after = (float(answer(x, torch.tensor([0]))) for x in (scores, hidden))
    expect(abs(before - after) < 1e-4, "the share of pair 0 changes with scores that pair 0 has no part in")
    away = scores.clone()
    away[0, 5] += 4.0
    moved = float(answer(away, torch.tensor([0])))
    expect(moved > before + 1e-3, "the share of pair 0 does not see the text of pair 5")
    away = scores.clone()
    away[5, 0] += 4.0
    moved = float(answer(away, torch.tensor([0])))
    expect(moved > before + 1e-3, "the share of pair 0 does not see the picture of pair 5")
