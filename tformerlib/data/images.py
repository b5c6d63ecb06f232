"""Image sets as tensors for classification: two that need no download, and CIFAR-10.

All return images (N, 3, H, W) of bytes and labels (N,), as `training.fit` takes them; `as_floats` makes a batch ready
for a model.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..extras import needs
from .hub import load

Images = tuple[Tensor, Tensor]
SHAPES = ("disc", "ring", "square", "triangle", "cross", "flower")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TRAIN_DIGITS = 1000  # of scikit-learn's 1797; the others are the test set


def as_floats(images: Tensor) -> Tensor:
    """Bytes to floats in -1 .. 1."""
    return images.float() / 127.5 - 1.0


def digits(
    split: str, count: int | None = None, *, canvas: int = 24, size: int = 12, noise: float = 0.3, seed: int = 0
) -> Images:
    """Handwritten digits (scikit-learn's, 8 x 8), enlarged and put at a random place of a noisy square.

    The place must not matter and the digit must: that is easy for a convolution, and something that a Transformer has
    to learn. There are 1000 digits to train on and 797 others to test with; which is which is fixed, and so are the
    places and the noise of the test set. The seed decides places and noise of the training set, and which digits a
    smaller `count` takes.

    Args:
        split: "train" or "test".  count: so many of them, all by default.
        canvas, size: sides of the image and of the digit in it, in pixels.
        noise: standard deviation of the noise, where a digit's ink is 1.

    Raises:
        ValueError: an unknown split, more digits than there are, or a digit that does not fit its canvas.
    """
    with needs("data"):
        from sklearn.datasets import load_digits

    if split not in ("train", "test"):
        raise ValueError(f"split={split!r} is neither 'train' nor 'test'")
    if not 0 < size <= canvas:
        raise ValueError(f"a digit of size={size} does not fit a canvas={canvas}")
    drawn = load_digits()
    order = torch.randperm(len(drawn.target), generator=torch.Generator().manual_seed(0))
    rows = order[:TRAIN_DIGITS] if split == "train" else order[TRAIN_DIGITS:]
    generator = torch.Generator().manual_seed(2 * seed if split == "train" else 1)
    count = len(rows) if count is None else count
    if not 0 < count <= len(rows):
        raise ValueError(f"count={count}: there are {len(rows)} digits in the split {split!r}")
    if count < len(rows):
        rows = rows[torch.randperm(len(rows), generator=generator)[:count]]
    ink = torch.from_numpy(drawn.images)[rows].float()[:, None] / 16
    ink = F.interpolate(ink, size=(size, size), mode="bilinear", align_corners=False)
    images = noise * torch.randn(count, 1, canvas, canvas, generator=generator)
    places = torch.randint(canvas - size + 1, (count, 2), generator=generator)
    for image, digit, (top, left) in zip(images, ink, places.tolist(), strict=True):
        image[:, top : top + size, left : left + size] += digit
    return _bytes(images / 2 + 0.25).repeat(1, 3, 1, 1), torch.from_numpy(drawn.target)[rows]


def shapes(count: int, *, side: int = 32, noise: float = 0.1, seed: int = 0) -> Images:
    """Drawn scenes: one figure of a random place, size, angle and color on a random ground; as many as are wanted.

    The label says which of SHAPES it is. Different seeds draw different scenes, so a test set is another seed.
    """
    if count < 1:
        raise ValueError(f"count={count}: nothing to draw")
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    labels = torch.randint(len(SHAPES), (count,), generator=generator)
    radius, angle = uniform(0.25, 0.6, 1, 1), uniform(0, 2 * torch.pi, 1, 1)
    center_x, center_y = (uniform(-0.4, 0.4, 1, 1) for _ in range(2))
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, side)] * 2, indexing="ij")
    x, y = (x - center_x) / radius, (y - center_y) / radius
    u, v = angle.cos() * x + angle.sin() * y, angle.cos() * y - angle.sin() * x
    far, wide = (u.square() + v.square()).sqrt(), torch.maximum(u.abs(), v.abs())
    inside = torch.stack(
        [
            far < 0.9,
            (far < 1.0) & (far > 0.6),
            wide < 0.8,
            (v > -0.5) & (v + 3**0.5 * u.abs() < 1.0),
            (torch.minimum(u.abs(), v.abs()) < 0.25) & (wide < 1.0),
            far < 0.7 + 0.3 * (5 * torch.atan2(u, v)).cos(),
        ]
    )[labels, torch.arange(count)]
    ground = uniform(0.0, 1.0, 3, 1, 1)
    figure = (ground + uniform(0.35, 0.65, 3, 1, 1)) % 1.0  # differs from the ground in every channel
    images = torch.where(inside[:, None], figure, ground)
    return _bytes(images + noise * torch.randn(images.shape, generator=generator)), labels


def cifar10(split: str, count: int | None = None, *, seed: int = 0) -> Images:
    """CIFAR-10 through `load`: photographs of 32 x 32 pixels in the ten classes of CIFAR10 (Krizhevsky 2009).

    A `count` takes so many of them, chosen by the seed. Raises what `load` raises, where the set is out of reach.
    """
    import numpy as np

    table = load("cifar10", split)
    if count is not None and not 0 < count <= len(table):
        raise ValueError(f"count={count}: there are {len(table)} images in the split {split!r}")
    labels = torch.tensor(table["label"])
    if count is not None:
        rows = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[:count]
        table, labels = table.select(rows.tolist()), labels[rows]
    pixels = np.stack([np.asarray(image.convert("RGB")) for image in table["img"]])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), labels


def _bytes(images: Tensor) -> Tensor:
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)
