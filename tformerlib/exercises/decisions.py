"""Checks of the exercises in the chapter on decisions."""

from collections.abc import Callable

import torch
from torch import Tensor

from . import exercise, expect


@exercise("decisions-returns")
def returns(answer: Callable[[Tensor], Tensor]) -> None:
    """answer(rewards (P, N)) is what is still to come at each step, its own reward included, (P, N)."""
    rewards = torch.tensor([[-1.0, -1, -1, -1], [0, 0, 0, 1], [5, 0, -2, 1]])
    found = answer(rewards.clone())
    expect(isinstance(found, Tensor), f"it returned a {type(found).__name__}, not a tensor")
    expect(found.shape == (3, 4), f"for rewards (3, 4) it has the shape {tuple(found.shape)}, not (3, 4)")
    expect(
        found[:, 0].tolist() == [-4, 1, 4],
        f"at the first step of the rewards 5, 0, -2, 1 everything is still to come, 4; it says {found[2, 0]:g}",
    )
    expect(
        found[:, -1].tolist() == [-1, 1, 1],
        f"at the last step its own reward is still to come, 1 in the third episode; it says {found[2, -1]:g}",
    )
    expect(found[2, 1].item() == -1, f"after 5 was fetched, 0, -2 and 1 are left, -1 in all; it says {found[2, 1]:g}")
    long = torch.ones(1, 50)
    expect(
        answer(long)[0, 0].item() == 50,
        f"fifty rewards of 1 are 50, without a discount; it says {answer(long)[0, 0]:g}",
    )
    expect(answer(torch.zeros(0, 3)).shape == (0, 3), "it fails for no episode at all")


@exercise("decisions-tokens")
def tokens(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """answer(R, s, a), each (B, N, C), is the sequence R, s, a, R, s, a, ..., (B, 3N, C)."""
    kind, step, width = torch.arange(3.0), torch.arange(5.0), torch.arange(4.0)
    three = [(100 * k + 10 * step[:, None] + width).expand(2, 5, 4).contiguous() for k in kind]
    found = answer(*three)
    expect(found.shape == (2, 15, 4), f"for three times (2, 5, 4) it has the shape {tuple(found.shape)}")
    names = [f"{'Rsa'[int(value // 100)]}{int(value % 100 // 10)}" for value in found[0, :, 0].tolist()]
    wanted = [f"{k}{n}" for n in range(5) for k in "Rsa"]
    expect(names == wanted, f"its tokens are {', '.join(names[:7])}, ... (their first numbers say so)")
    expect(torch.equal(found[1], found[0]), "the second episode of the batch comes out otherwise than the first")
    expect(bool((found[0, :, 1] == found[0, :, 0] + 1).all()), "the numbers inside a token are no longer its own")


@exercise("decisions-left")
def left(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """answer(target (P,), rewards (P, N - 1)) is the return token of each step while acting, (P, N)."""
    target, rewards = torch.tensor([10.0, -4.0]), torch.tensor([[3.0, 0, 2], [-1, -1, -1]])
    found = answer(target, rewards)
    expect(found.shape == (2, 4), f"after 3 rewards there are 4 steps; it has the shape {tuple(found.shape)}")
    expect(
        found[:, 0].tolist() == [10, -4], f"the first token is the request, 10 and -4; it says {found[:, 0].tolist()}"
    )
    expect(
        found[1].tolist() == [-4, -3, -2, -1],
        f"of a request of -4 with three rewards of -1, it makes {found[1].tolist()}",
    )
    expect(found[0].tolist() == [10, 7, 7, 5], f"of a request of 10 with rewards 3, 0, 2, it makes {found[0].tolist()}")
    expect(answer(target, rewards[:, :0]).tolist() == [[10], [-4]], "it fails before the first reward")
