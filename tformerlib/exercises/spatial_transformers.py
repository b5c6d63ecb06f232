"""Checks of the exercises in the chapter on spatial transformers."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..layers.warps import centers, sample
from . import exercise, expect


@exercise("stn-sample")
def look(answer: Callable[[Tensor, float, float], Tensor]) -> None:
    """answer(image (H, W), x, y) is the bilinear value at x columns and y rows from the first pixel; zero outside."""
    image = torch.randn(5, 8)
    whole = float(answer(image, 6.0, 3.0))
    expect(abs(whole - image[3, 6].item()) < 1e-5, f"at x = 6, y = 3 it gives {whole:.3f}, not the pixel's value")
    last = float(answer(image, 7.0, 4.0))
    expect(abs(last - image[4, 7].item()) < 1e-5, "at the last pixel it does not give that pixel")
    for x, y in ((2.25, 1.5), (0.9, 3.1), (6.6, 0.2), (7.75, 2.0), (-0.5, 4.5), (-3.0, 2.0), (9.5, 20.0)):
        at = torch.tensor([(2 * x + 1) / 8 - 1, (2 * y + 1) / 5 - 1]).view(1, 1, 1, 2)
        wanted, got = sample(image[None, None], at).item(), float(answer(image, x, y))
        expect(abs(got - wanted) < 1e-4, f"at x = {x}, y = {y} it gives {got:.3f}; the four weights give {wanted:.3f}")
    place = torch.tensor(2.25, requires_grad=True)
    value = answer(image, place, 1.5)  # type: ignore[arg-type]
    expect(isinstance(value, Tensor) and value.requires_grad, "the value has no gradient by x")
    (slope,) = torch.autograd.grad(value, place)
    steep = (0.5 * (image[1, 3] - image[1, 2]) + 0.5 * (image[2, 3] - image[2, 2])).item()
    expect(abs(slope.item() - steep) < 1e-4, f"its derivative by x is {slope:.3f} where the pixels say {steep:.3f}")


@exercise("stn-turn")
def turn(answer: Callable[[float, float, float], Tensor]) -> None:
    """answer(angle, x, y) is the (2, 3) matrix with which the view turns about the place (x, y), which stays."""
    for angle, x, y in (
        (0.0, 0.3, -0.2),
        (math.pi / 2, 0.0, 0.0),
        (0.7, 0.0, 0.0),
        (0.7, 0.4, -0.1),
        (-2.0, -0.5, 0.6),
    ):
        theta = torch.as_tensor(answer(angle, x, y), dtype=torch.float32)
        expect(theta.shape == (2, 3), f"it has the shape {tuple(theta.shape)}, not (2, 3)")
        stays = theta @ torch.tensor([x, y, 1.0])
        expect(
            bool((stays - torch.tensor([x, y])).abs().max() < 1e-5),
            f"at angle {angle:.1f} the place ({x}, {y}) looks at ({stays[0]:.2f}, {stays[1]:.2f}), not at itself",
        )
        right = theta[:, 0]  # where a step to the right leads
        expect(
            abs(right.norm().item() - 1) < 1e-5,
            f"at angle {angle:.1f} a step of length 1 has length {right.norm():.2f}",
        )
        found = math.atan2(right[1].item(), right[0].item())
        expect(abs(found - angle) < 1e-4, f"for angle {angle:.2f} a step to the right leads off at {found:.2f}")
        expect(abs(theta[:, :2].det().item() - 1) < 1e-4, f"at angle {angle:.1f} the view is mirrored or squeezed")


@exercise("stn-compose")
def compose(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """answer(first, second), both (B, 2, 3), is the warp that resamples by first and then its output by second."""
    first, second = (torch.eye(2, 3) + 0.3 * torch.randn(4, 2, 3) for _ in range(2))
    got = answer(first, second)
    expect(isinstance(got, Tensor) and got.shape == (4, 2, 3), f"it gives {getattr(got, 'shape', got)}, not (4, 2, 3)")
    same = torch.eye(2, 3).expand(4, 2, 3)
    for one, two, what in ((same, second, "first"), (first, same, "second")):
        wanted = second if what == "first" else first
        expect(
            bool((answer(one, two) - wanted).abs().max() < 1e-5), f"where the {what} changes nothing, the other is lost"
        )
    at = torch.cat([centers(3, 5), torch.ones(15, 1)], 1)
    middle = at @ second.mT  # where the last view looks in the one before
    wanted = torch.cat([middle, torch.ones(4, 15, 1)], 2) @ first.mT
    error = (at @ got.mT - wanted).abs().max().item()
    expect(error < 1e-4, f"places differ by up to {error:.2f} from those of one warp after the other")
