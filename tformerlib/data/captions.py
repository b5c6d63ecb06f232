"""Pictures with captions, drawn and worded by rule: what images and texts are matched on without a download.

A picture shows one figure of one color on a noisy ground. Its caption names both, among words that say nothing of the
picture, as captions on the web do: who took it, where, with what.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .images import _bytes

COLORS = ("red", "green", "blue", "yellow", "purple", "white")
KINDS = ("disc", "ring", "square", "triangle", "cross", "bar")
PAIRS = len(COLORS) * len(KINDS)  # pair number p is color p // 6 and kind p % 6
_RGB = torch.tensor([[0.9, 0.15, 0.15], [0.15, 0.75, 0.2], [0.2, 0.3, 0.95], [0.9, 0.85, 0.15], [0.65, 0.2, 0.8],
                     [0.95, 0.95, 0.95]])  # fmt: skip

TEMPLATES = (
    "a photo of a {}",
    "a drawing of a {}",
    "my {} at home",
    "look at this {}",
    "one {} on a table",
    "the {} that we saw",
    "here is a {}",
    "a {} in the evening",
)
_PEOPLE = ("anna", "bela", "chen", "dora", "emil", "fatima", "goran", "hana", "ivan", "jia", "kofi", "lena")
_PLACES = ("accra", "berlin", "cairo", "delhi", "essen", "fez", "geneva", "hanoi", "izmir", "jaffa", "kyoto", "lima")
_TAGS = ("nice", "old", "new", "image", "file", "raw", "final", "copy", "large", "scan", "zoom", "flash")
PADDING, START, END = "<pad>", "<start>", "<end>"
LONGEST = 14  # ids of the longest caption, with its start and its end
WORDS: tuple[str, ...] = (
    PADDING, *COLORS, *KINDS, *sorted({w for t in TEMPLATES for w in t.split() if w != "{}"}), "by", "from", *_PEOPLE,
    *_PLACES, *_TAGS, START, END,
)  # fmt: skip
_IDS = {word: i for i, word in enumerate(WORDS)}


class Captioned(NamedTuple):
    """Pictures (P, 3, H, W) of bytes, the ids (P, N) of their captions, and the numbers (P,) of their pairs."""

    images: Tensor
    ids: Tensor
    pairs: Tensor


def name_of(pair: int) -> str:
    """The color and the kind of a pair: 0 is "red disc"."""
    if not 0 <= pair < PAIRS:
        raise ValueError(f"pair={pair} is not in 0 .. {PAIRS - 1}")
    return f"{COLORS[pair // len(KINDS)]} {KINDS[pair % len(KINDS)]}"


def as_ids(texts: Sequence[str]) -> Tensor:
    """Texts as ids (P, N) between a start and an end, filled up with padding.

    Raises:
        ValueError: a word that captions do not have, or more words than captions have.
    """
    rows = []
    for text in texts:
        if unknown := [word for word in text.split() if word not in _IDS]:
            raise ValueError(f"{unknown[0]!r} of {text!r} is no word of the captions")
        row = [_IDS[word] for word in (START, *text.split(), END)]
        if len(row) > LONGEST:
            raise ValueError(f"{text!r} has {len(row) - 2} words; captions have at most {LONGEST - 2}")
        rows.append(row + [0] * (LONGEST - len(row)))
    return torch.tensor(rows)


def as_text(ids: Tensor) -> str:
    """The words between a row's (N,) start and end."""
    words = [WORDS[i] for i in ids.tolist()]
    return " ".join(words[1 : words.index(END)])


def captioned(
    count: int, *, pairs: Sequence[int] = range(PAIRS), side: int = 24, noise: float = 0.15, chatter: float = 0.7,
    seed: int = 0,
) -> Captioned:  # fmt: skip
    """Pictures of figures, of the given pairs of color and kind, with captions. Another seed gives other pictures.

    Args:
        pairs: which of the 36 may occur; each is equally likely.  noise: standard deviation, where white is 1.
        chatter: probability of each of the three additions to a caption that say nothing of the picture.

    Raises:
        ValueError: nothing to draw, or a pair that there is not.
    """
    if count < 1 or not pairs:
        raise ValueError(f"count={count} of {len(pairs)} pairs: nothing to draw")
    for pair in pairs:
        name_of(pair)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.tensor(list(pairs))[torch.randint(len(pairs), (count,), generator=generator)]
    images = _pictures(drawn, side, noise, generator)
    choice = torch.randint(1 << 30, (count, 4), generator=generator).tolist()
    said = (torch.rand(count, 3, generator=generator) < chatter).tolist()
    texts = [_caption(name_of(p), *of) for p, *of in zip(drawn.tolist(), choice, said, strict=True)]
    return Captioned(images, as_ids(texts), drawn)


def _caption(name: str, choice: list[int], said: list[bool]) -> str:
    """A template with the name in it, and those additions that are said."""
    t, who, where, tag = choice
    parts = [TEMPLATES[t % len(TEMPLATES)].format(name)]
    parts += [f"by {_PEOPLE[who % len(_PEOPLE)]}"] * said[0] + [f"from {_PLACES[where % len(_PLACES)]}"] * said[1]
    return " ".join([*parts, *[_TAGS[tag % len(_TAGS)]] * said[2]])


def _pictures(pairs: Tensor, side: int, noise: float, generator: torch.Generator) -> Tensor:
    """One figure a picture, at a random place, a little turned, half to three quarters of the side wide."""
    count = len(pairs)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    radius, turn = uniform(0.5, 0.75, 1, 1), uniform(-0.2, 0.2, 1, 1)
    center_x, center_y = (uniform(-0.2, 0.2, 1, 1) for _ in range(2))
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, side)] * 2, indexing="ij")
    x, y = (x - center_x) / radius, (y - center_y) / radius
    u, v = turn.cos() * x + turn.sin() * y, turn.cos() * y - turn.sin() * x
    far, wide, near = u.hypot(v), torch.maximum(u.abs(), v.abs()), torch.minimum(u.abs(), v.abs())
    inside = torch.stack([
        far < 0.9,
        (far < 1.0) & (far > 0.55),
        wide < 0.8,
        (v < 0.7) & (u.abs() < (v + 1.0) / 1.7),
        (near < 0.28) & (wide < 1.0),
        (v.abs() < 0.3) & (u.abs() < 1.0),
    ])[pairs % len(KINDS), torch.arange(count)]  # fmt: skip
    ground = uniform(0.25, 0.5, 1, 1, 1).expand(-1, 3, 1, 1)
    color = _RGB[pairs // len(KINDS)][:, :, None, None]
    images = torch.where(inside[:, None], color, ground)
    return _bytes(images + noise * torch.randn(images.shape, generator=generator))
