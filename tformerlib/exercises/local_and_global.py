"""Checks of the exercises in the chapter on attention near and far."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from . import exercise, expect


@exercise("local-ring")
def ring_places(answer: Callable[[int, int], set[tuple[int, int]]]) -> None:
    """answer(window, expand): the places around a window, counted from its upper left token, each once."""
    for window, expand in ((7, 3), (4, 2), (3, 1), (5, 0)):
        found = answer(window, expand)
        expect(isinstance(found, set), f"it returned a {type(found).__name__}, not a set")
        count = (window + 2 * expand) ** 2 - window**2
        expect(len(found) == count, f"for window={window}, expand={expand} there are {len(found)} places, not {count}")
        inside = [(y, x) for y, x in found if 0 <= y < window and 0 <= x < window]
        expect(not inside, f"for window={window}, expand={expand} it holds {inside[:1]}, which is in the window itself")
        far = [place for place in found if min(place) < -expand or max(place) >= window + expand]
        expect(not far, f"for window={window}, expand={expand} it holds {far[:1]}, which is beyond the ring")


@exercise("local-pool")
def pool(answer: Callable[[Tensor], Tensor]) -> None:
    """answer(x (H, W)): the mean of the 3 x 3 around each place, counting what is on the map alone, minus x."""
    constant = answer(torch.full((4, 5), 2.0))
    expect(constant.shape == (4, 5), f"for a map of (4, 5) it has the shape {tuple(constant.shape)}")
    expect(not constant.abs().gt(1e-5).any(), "a constant map leaves something: look at its border")
    x = torch.randn(5, 7)
    y = answer(x)
    middle = x[1:4, 2:5].mean() - x[2, 3]
    expect(bool((y[2, 3] - middle).abs() < 1e-5), f"in the middle it gives {y[2, 3]:.3f}, where {middle:.3f} is right")
    corner = x[:2, :2].mean() - x[0, 0]
    expect(bool((y[0, 0] - corner).abs() < 1e-5), f"in the corner it gives {y[0, 0]:.3f}, where {corner:.3f} is right")
    edge = x[:2, 2:5].mean() - x[0, 3]
    expect(bool((y[0, 3] - edge).abs() < 1e-5), f"at the upper edge it gives {y[0, 3]:.3f}, where {edge:.3f} is right")


@exercise("local-fold")
def fold(answer: Callable[[nn.Conv2d, nn.BatchNorm2d], nn.Conv2d]) -> None:
    """answer(conv, norm): one convolution that does what both do, the norm in eval mode."""
    for bias, stride, eps in ((True, 1, 1e-5), (False, 2, 1e-2)):
        conv, norm = nn.Conv2d(3, 5, 3, stride, 1, bias=bias), nn.BatchNorm2d(5, eps=eps).eval()
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            assert tensor is not None
            nn.init.normal_(tensor, 1.0)
        assert norm.running_var is not None
        nn.init.uniform_(norm.running_var, 0.1, 2.0)
        before = conv.weight.detach().clone()
        one = answer(conv, norm)
        expect(isinstance(one, nn.Conv2d), f"it returned a {type(one).__name__}, not a convolution")
        expect(torch.equal(conv.weight, before), "the convolution that was given has changed")
        x = torch.randn(2, 3, 6, 6)
        expected, found = norm(conv(x)), one(x)
        expect(found.shape == expected.shape, f"with stride={stride} it gives {tuple(found.shape)}")
        error = (found - expected).abs().max().item()
        expect(error < 1e-4, f"with bias={bias} and eps={eps} the outputs differ by {error:.2g}")
