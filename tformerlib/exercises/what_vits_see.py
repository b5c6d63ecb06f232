"""Checks of the exercises in the chapter on what ViTs see."""

from collections.abc import Callable

import torch
from torch import Tensor

from . import exercise, expect


@exercise("see-gram")
def table(answer: Callable[[Tensor], Tensor]) -> None:
    """answer(x (n, ...)) is the products of all pairs of examples, (n, n), with a diagonal of zeros."""
    x = torch.randn(5, 3, 2)
    given = x.clone()
    found = answer(x)
    expect(isinstance(found, Tensor), f"it returned a {type(found).__name__}, not a tensor")
    expect(found.shape == (5, 5), f"for a layer (5, 3, 2) the table has the shape {tuple(found.shape)}, not (5, 5)")
    expect(torch.equal(x, given), "the layer's output was changed")
    expect(bool((found.diagonal() == 0).all()), "the diagonal is not zero")
    pair = (x[1] * x[3]).sum()
    expect(
        bool((found[1, 3] - pair).abs() < 1e-4), f"examples 1 and 3 have a product of {pair:.3f}, not {found[1, 3]:.3f}"
    )
    expect(bool((found - found.mT).abs().max() < 1e-5), "the table is not symmetric")
    flat = answer(torch.randn(4, 7))
    expect(flat.shape == (4, 4), f"for a layer (4, 7) the table has the shape {tuple(flat.shape)}, not (4, 4)")


@exercise("see-distance")
def distance(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """answer(weights (H, N, N), places (N, 2)) is each head's mean weighted distance, (H)."""
    places = torch.tensor([[0.0, 0.0], [0.0, 3.0], [4.0, 0.0]])
    itself, ahead = torch.eye(3), torch.eye(3)[[1, 2, 0]]
    found = answer(torch.stack([itself, ahead]), places)
    expect(isinstance(found, Tensor), f"it returned a {type(found).__name__}, not a tensor")
    expect(found.shape == (2,), f"for two heads it has the shape {tuple(found.shape)}, not (2,)")
    expect(bool(found[0].abs() < 1e-5), f"a head that looks at its own token has a distance of {found[0]:.2f}, not 0")
    expect(
        bool((found[1] - 4).abs() < 1e-4),
        f"a head that looks from (0, 0) to (0, 3) to (4, 0) and back, so 3, 5 and 4 pixels, has {found[1]:.2f}, not 4",
    )
    sharp = torch.tensor([[[1.0, 0, 0], [0.5, 0.5, 0], [0.2, 0.3, 0.5]]])
    wanted = (0 + 1.5 + 0.2 * 4 + 0.3 * 5) / 3
    expect(bool((answer(sharp, places)[0] - wanted).abs() < 1e-4), "rows are queries: their weights sum to one")
