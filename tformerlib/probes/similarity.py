"""Centered kernel alignment: how alike two representations of the same examples are (Kornblith et al. 2019).

What is compared is not features with features, which may be rotated or permuted, but which examples each layer holds
to be alike. Raghu et al. (2021) use it to compare layers within and between networks, over minibatches.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from .layers import outputs_of


def gram(x: Tensor) -> Tensor:
    """Products of all pairs of examples (n, ...) in float64: (n, n). All tokens and channels of an example count."""
    flat = x.flatten(1).double()
    return flat @ flat.T


def hsic(k: Tensor, l: Tensor) -> Tensor:
    """Unbiased estimate of the Hilbert-Schmidt independence criterion from two Gram matrices (n, n).

    (tr KL + 1'K1 1'L1 / ((n-1)(n-2)) - 2 1'KL1 / (n-2)) / (n(n-3)), with K and L without their diagonals (Song et al.
    2012, eq. 5; Raghu et al. 2021, eq. 2). It may be negative where there is no dependence.

    Raises:
        ValueError: matrices that are not square and equal, or of fewer than four examples.
    """
    n = len(k)
    if k.shape != l.shape or k.shape != (n, n):
        raise ValueError(f"k {tuple(k.shape)} and l {tuple(l.shape)} are not two square matrices of one size")
    if n < 4:
        raise ValueError(f"n={n} examples: the unbiased estimate needs four or more")
    k, l = (m - torch.diag_embed(m.diagonal()) for m in (k, l))
    pairs = (k * l).sum() + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k.sum(0) * l.sum(0)).sum()
    return pairs / (n * (n - 3))


def cka(x: Tensor, y: Tensor) -> float:
    """Similarity of two representations (n, ...) and (n, ...) of the same examples: 1 where one is the other, rotated.

    >>> x = torch.randn(20, 5)
    >>> round(cka(x, 3 * x @ torch.linalg.qr(torch.randn(5, 5))[0]), 6)
    1.0
    """
    k, l = gram(x), gram(y)
    return (hsic(k, l) / (hsic(k, k) * hsic(l, l)).sqrt()).item()


def cka_map(
    batches: Iterable[Tensor],
    model: nn.Module,
    layers: Sequence[str],
    other: nn.Module | None = None,
    other_layers: Sequence[str] | None = None,
) -> Tensor:
    """CKA of every layer of a model with every layer of another, or of itself: (layers, other layers).

    Each of the three estimates is averaged over the batches, and only then divided (Nguyen et al. 2021): averaging the
    ratios would be another, biased number.

    Args:
        batches: inputs, each of four or more examples; both models get the same.  layers: names of submodules.

    Raises:
        ValueError: no batches, or names that a model does not have.
    """
    other, other_layers = other or model, other_layers or layers
    cross = torch.zeros(len(layers), len(other_layers), dtype=torch.float64)
    own, theirs = torch.zeros(len(layers), dtype=torch.float64), torch.zeros(len(other_layers), dtype=torch.float64)
    count = 0
    for x in batches:
        a = [gram(y) for y in outputs_of(model, layers, x).values()]
        b = a if other is model and list(layers) == list(other_layers) else [
            gram(y) for y in outputs_of(other, other_layers, x).values()
        ]  # fmt: skip
        own += torch.stack([hsic(k, k) for k in a])
        theirs += torch.stack([hsic(k, k) for k in b])
        cross += torch.stack([torch.stack([hsic(k, l) for l in b]) for k in a])
        count += 1
    if not count:
        raise ValueError("no batches: nothing to compare")
    return cross / (own[:, None] * theirs).sqrt()
