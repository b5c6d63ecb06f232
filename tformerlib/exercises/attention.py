"""Checks of the exercises in the chapter on attention."""

from collections.abc import Callable

import torch
from torch import Tensor

from . import exercise, expect


@exercise("attention-weights")
def weights(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """answer(q (B, N, D), k (B, M, D)) is softmax(q k^T / sqrt(D)) over the keys, (B, N, M)."""
    q, k = torch.randn(2, 3, 7), torch.randn(2, 5, 7)
    p = answer(q, k)
    expect(isinstance(p, Tensor), f"it returned a {type(p).__name__}, not a tensor")
    expect(p.shape == (2, 3, 5), f"for q (2, 3, 7) and k (2, 5, 7) it has the shape {tuple(p.shape)}, not (2, 3, 5)")
    total = p.sum(-1)
    expect(bool((total - 1).abs().max() < 1e-5), f"the weights of one query sum to {total[0, 0]:.3f}, not to 1")
    expect(bool((p >= 0).all()), "some weights are negative")
    ratio = (p[0, 0, 0] / p[0, 0, 1]).log() / ((q[0, 0] * (k[0, 0] - k[0, 1])).sum())
    expect(abs(ratio.item() - 7**-0.5) < 1e-3, f"the scores are scaled by {ratio:.3f} where the width is 7")
    same = torch.ones(1, 2, 4)
    expect(bool((answer(same, same) - 0.5).abs().max() < 1e-5), "two equal keys do not get equal weights")
    huge = answer(1e4 * torch.randn(1, 2, 7), k[:1])
    expect(bool(huge.isfinite().all()), "with large scores it gives NaN: subtract the largest score of each row first")
    padded = answer(torch.zeros(0, 3, 7), torch.zeros(0, 5, 7))
    expect(padded.shape == (0, 3, 5), "it fails for a batch of no sentence")
