"""Masked language modeling: which tokens are hidden, and what stands in their place (Devlin et al. 2019, sec. 3.1)."""

from collections.abc import Collection
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Masked(NamedTuple):
    """ids (B, N) as the model sees them; places (K,) among the B * N tokens that it is asked for; targets (K,)."""

    ids: Tensor
    places: Tensor
    targets: Tensor


def mask_tokens(
    ids: Tensor, *, vocab: int, mask: int, special: Collection[int], rate: float = 0.15,
    shares: tuple[float, float] = (0.8, 0.1), generator: torch.Generator | None = None,
) -> Masked:  # fmt: skip
    """Chooses 15 % of each row's tokens; of those 80 % become [MASK], 10 % a random token, and 10 % stay.

    As in the official code each row gets its own share, rounded, and at least one. Unlike there, a random token is
    never a special one: as padding it would be invisible.

    Args:
        ids: (B, N).  vocab: number of ids.  mask: the id of [MASK].
        special: ids that are never chosen and never put in: padding, [CLS], [SEP], [MASK].
        rate: share of the tokens that are chosen.  shares: of [MASK] and of random tokens among them.
        generator: where the draws come from, on the ids' device; torch's own by default.

    Raises:
        ValueError: ids outside the vocabulary, a rate outside (0, 1], shares that are no shares, nothing to choose, or
            a vocabulary of special ids alone.
    """
    if not 0 < rate <= 1:
        raise ValueError(f"rate={rate} is not in (0, 1]")
    if min(shares) < 0 or sum(shares) > 1:
        raise ValueError(f"shares={shares} are not two shares of one whole")
    known = torch.arange(vocab, device=ids.device)
    hidden = torch.tensor([mask, *special], device=ids.device)
    for what, numbers in (("ids", ids), ("special ids", hidden)):
        if numbers.numel() and (numbers.min() < 0 or numbers.max() >= vocab):
            raise ValueError(f"{what} from {numbers.min()} to {numbers.max()} are not all in 0 .. {vocab - 1}")
    ordinary, eligible = known[~torch.isin(known, hidden)], ~torch.isin(ids, hidden)
    if not len(ordinary):
        raise ValueError(f"all {vocab} ids are special: there is no token to put in")
    count = eligible.sum(1, keepdim=True)
    if not count.any():
        raise ValueError(f"none of the {ids.numel()} ids may be masked: all are special")

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=ids.device)

    wanted = (count * rate).round().clamp(min=1).minimum(count)
    order = draw(*ids.shape).masked_fill(~eligible, 2.0).argsort(1).argsort(1)  # each token's rank in a random order
    places = (order < wanted).flatten().nonzero()[:, 0]
    targets = ids.flatten()[places]
    fate = draw(len(places))
    strangers = ordinary[(draw(len(places)) * len(ordinary)).long()]
    shown = torch.where(fate < shares[0], mask, torch.where(fate < sum(shares), strangers, targets))
    return Masked(ids.flatten().index_copy(0, places, shown).view_as(ids), places, targets)


def next_tokens(ids: Tensor, *, pad: int = 0) -> Masked:
    """The same question for a left-to-right model: every token is asked for at the place before it."""
    asked = F.pad(ids[:, 1:] != pad, (0, 1)).flatten()
    places = asked.nonzero()[:, 0]
    return Masked(ids, places, ids.flatten()[places + 1])
