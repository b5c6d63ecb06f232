"""Augmentation of image batches on whatever device they are. Images are floats (B, 3, H, W), -1 black and 1 white.

Every draw comes from torch's generator, which `fit` seeds; so an augmented run can be repeated and resumed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def random_flip(images: Tensor) -> Tensor:
    """Mirrors each image left to right with probability 1/2."""
    return torch.where(_uniform(images) < 0.5, images.flip(-1), images)


def random_crop(images: Tensor, padding: int = 4) -> Tensor:
    """Moves each image by up to `padding` pixels each way; what comes in from outside is black."""
    if padding < 0:
        raise ValueError(f"padding={padding} is negative")
    batch, height, width = images.shape[0], *images.shape[-2:]
    padded = F.pad(images, [padding] * 4, value=-1.0)
    dy, dx = torch.randint(2 * padding + 1, (2, batch, 1, 1, 1), device=images.device)
    rows = torch.arange(height, device=images.device)[:, None] + dy
    columns = torch.arange(width, device=images.device) + dx
    one, channel = (torch.arange(n, device=images.device) for n in images.shape[:2])
    return padded[one[:, None, None, None], channel[:, None, None], rows, columns]


def random_erasing(images: Tensor, p: float = 0.25, area: tuple[float, float] = (0.02, 1 / 3)) -> Tensor:
    """Fills a rectangle of each image with noise, with probability p (Zhong et al. 2020).

    Its share of the image lies in `area`, its height over its width in 0.3 .. 1 / 0.3.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p={p} is not a probability")
    height, width = images.shape[-2:]
    share = area[0] + (area[1] - area[0]) * _uniform(images)
    aspect = (0.3 ** (2 * _uniform(images) - 1)).sqrt()
    h, w = ((share.sqrt() * factor).clamp(max=1) for factor in (aspect, 1 / aspect))
    inside = _box(images, _uniform(images) * (1 - h), _uniform(images) * (1 - w), h, w, height, width)
    return torch.where(inside & (_uniform(images) < p), torch.randn_like(images), images)


def one_hot(labels: Tensor, classes: int, smoothing: float = 0.0) -> Tensor:
    """Labels (B,) to probabilities (B, classes): 1 - smoothing on the label, and smoothing spread over all classes."""
    return F.one_hot(labels, classes) * (1 - smoothing) + smoothing / classes


def mixup(images: Tensor, targets: Tensor, alpha: float = 0.8) -> tuple[Tensor, Tensor]:
    """Mixes each image and its target with another of the batch by a share from Beta(alpha, alpha); Zhang et al. 2018.

    Targets are probabilities (B, classes). One share serves the whole batch, as in the papers' code.
    """
    share, other = _share(alpha, images), torch.randperm(len(images), device=images.device)
    return share * images + (1 - share) * images[other], share * targets + (1 - share) * targets[other]


def cutmix(images: Tensor, targets: Tensor, alpha: float = 1.0) -> tuple[Tensor, Tensor]:
    """Pastes a box of another image into each, and mixes targets by the area that is left (Yun et al. 2019).

    The box has the same place in the whole batch; its share of the image comes from Beta(alpha, alpha) before it is
    cut at the borders.
    """
    height, width = images.shape[-2:]
    side = (1 - _share(alpha, images)).sqrt()
    y, x = (_uniform(images[:1]) - side / 2 for _ in range(2))
    inside = _box(images, y, x, side, side, height, width)
    left, other = 1 - inside.float().mean(), torch.randperm(len(images), device=images.device)
    return torch.where(inside, images[other], images), left * targets + (1 - left) * targets[other]


def _share(alpha: float, like: Tensor) -> Tensor:
    if alpha <= 0:
        raise ValueError(f"alpha={alpha}: a Beta distribution needs a positive one")
    first, second = torch._standard_gamma(torch.full((2,), alpha)).to(like.device)  # a Beta is a share of two Gammas
    return first / (first + second)


def _uniform(images: Tensor) -> Tensor:
    """One number in 0 .. 1 for each image, (B, 1, 1, 1)."""
    return torch.rand(len(images), 1, 1, 1, device=images.device)


def _box(images: Tensor, top: Tensor, left: Tensor, h: Tensor, w: Tensor, height: int, width: int) -> Tensor:
    """(B, 1, H, W), True inside the boxes, which are in shares of the sides."""
    y = torch.arange(height, device=images.device)[:, None]
    x = torch.arange(width, device=images.device)
    rows = (y >= (top * height).round()) & (y < ((top + h) * height).round())
    return rows & (x >= (left * width).round()) & (x < ((left + w) * width).round())


# --- RandAugment: each operation takes images and a signed strength (B, 1, 1, 1) in -1 .. 1 ---------------------------


def _warp(images: Tensor, *entries: Tensor | float) -> Tensor:
    """Resamples by the 2 x 3 matrix of the entries, which maps a pixel to where its color comes from, in -1 .. 1."""
    rows = [
        entry.flatten() if isinstance(entry, Tensor) else images.new_full((len(images),), entry) for entry in entries
    ]
    grid = F.affine_grid(torch.stack(rows, -1).view(-1, 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images + 1, grid, align_corners=False) - 1  # outside of the image is black


def _blend(first: Tensor, second: Tensor, strength: Tensor) -> Tensor:
    """`second` at strength 0, `first` at -1, and beyond `second` by as much at 1."""
    return torch.lerp(first, second, 1 + 0.9 * strength).clamp(-1, 1)


def _gray(images: Tensor) -> Tensor:
    return (images * images.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)


def _rotate(images: Tensor, strength: Tensor) -> Tensor:
    angle, (height, width) = strength * torch.pi / 6, images.shape[-2:]
    return _warp(
        images, angle.cos(), angle.sin() * height / width, 0.0, -angle.sin() * width / height, angle.cos(), 0.0
    )


def _autocontrast(images: Tensor, strength: Tensor) -> Tensor:
    low, high = images.amin((-2, -1), keepdim=True), images.amax((-2, -1), keepdim=True)
    return torch.where(high > low, 2 * (images - low) / (high - low).clamp(min=1e-6) - 1, images)


def _equalize(images: Tensor, strength: Tensor) -> Tensor:
    """Each value becomes the share of the channel's pixels that are not brighter."""
    levels = ((images + 1) * 127.5).round().long().clamp(0, 255).flatten(2)
    counts = torch.zeros(*levels.shape[:2], 256, device=images.device).scatter_add_(
        2, levels, torch.ones_like(images).flatten(2)
    )
    share = counts.cumsum(-1) / levels.shape[-1]
    return (2 * share.gather(-1, levels) - 1).view_as(images)


def _posterize(images: Tensor, strength: Tensor) -> Tensor:
    """Keeps 8 bits of each value at strength 0, and 4 at either end."""
    step = 2 ** (4 * strength.abs()).round()
    return (((images + 1) * 127.5 / step).floor() * step / 127.5 - 1).clamp(-1, 1)


def _sharpness(images: Tensor, strength: Tensor) -> Tensor:
    kernel = images.new_tensor([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]]).repeat(images.shape[1], 1, 1, 1) / 13
    blurred = F.conv2d(F.pad(images, [1] * 4, mode="replicate"), kernel, groups=images.shape[1])
    return _blend(blurred, images, strength)


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "identity": lambda images, strength: images,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "rotate": _rotate,
    "solarize": lambda images, strength: torch.where(images > 1 - 2 * strength.abs(), -images, images),
    "color": lambda images, strength: _blend(_gray(images), images, strength),
    "posterize": _posterize,
    "contrast": lambda images, strength: _blend(_gray(images).mean((-2, -1), keepdim=True), images, strength),
    "brightness": lambda images, strength: _blend(torch.full_like(images, -1.0), images, strength),
    "sharpness": _sharpness,
    "shear-x": lambda images, strength: _warp(images, 1.0, 0.3 * strength, 0.0, 0.0, 1.0, 0.0),
    "shear-y": lambda images, strength: _warp(images, 1.0, 0.0, 0.0, 0.3 * strength, 1.0, 0.0),
    "translate-x": lambda images, strength: _warp(images, 1.0, 0.0, 0.9 * strength, 0.0, 1.0, 0.0),
    "translate-y": lambda images, strength: _warp(images, 1.0, 0.0, 0.0, 0.0, 1.0, 0.9 * strength),
}


def rand_augment(images: Tensor, operations: int = 2, magnitude: float = 9.0) -> Tensor:
    """Applies so many operations in turn, drawn for each image (Cubuk et al. 2020).

    Args:
        magnitude: 0 .. 10; 10 is rotation by 30 degrees, a shear of 0.3, a shift by 45 % of the side, color, contrast,
            brightness and sharpness by a factor of 0.1 or 1.9. The direction is drawn.
    """
    if not 0 <= magnitude <= 10:
        raise ValueError(f"magnitude={magnitude} is not in 0 .. 10")
    table = list(OPERATIONS.values())
    for _ in range(operations):
        which = torch.randint(len(table), (len(images),), device=images.device)
        strength = magnitude / 10 * (2.0 * (_uniform(images) < 0.5) - 1)
        out = torch.empty_like(images)
        for index in which.unique().tolist():
            rows = which == index
            out[rows] = table[index](images[rows], strength[rows])
        images = out
    return images


@dataclass(frozen=True)
class Recipe:
    """What a batch goes through before the model sees it. Without arguments: nothing.

    Args:
        crop: largest shift in pixels.  flip: mirror half of the images.
        operations, magnitude: of RandAugment; none by default.
        mixup, cutmix: their alphas; where both are given, each batch gets one of them by a fair coin.
        erasing: probability that a rectangle is erased.  smoothing: of the labels.
    """

    crop: int = 0
    flip: bool = False
    operations: int = 0
    magnitude: float = 9.0
    mixup: float = 0.0
    cutmix: float = 0.0
    erasing: float = 0.0
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        for wrong, reason in (
            (self.crop < 0, f"crop={self.crop} is not a number of pixels"),
            (not 0 <= self.smoothing < 1, f"smoothing={self.smoothing} is not in [0, 1)"),
            (not 0 <= self.erasing <= 1, f"erasing={self.erasing} is not a probability"),
            (not 0 <= self.magnitude <= 10, f"magnitude={self.magnitude} is not in 0 .. 10"),
            (min(self.mixup, self.cutmix, self.operations) < 0, "mixup, cutmix and operations are not negative"),
        ):
            if wrong:
                raise ValueError(reason)

    def __call__(self, images: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        """Floats (B, 3, H, W) and labels (B,) to images and probabilities (B, classes)."""
        targets = one_hot(labels, classes, self.smoothing)
        if self.crop:
            images = random_crop(images, self.crop)
        if self.flip:
            images = random_flip(images)
        if self.operations:
            images = rand_augment(images, self.operations, self.magnitude)
        if self.erasing:
            images = random_erasing(images, self.erasing)
        if self.mixup and (not self.cutmix or torch.rand(()) < 0.5):
            return mixup(images, targets, self.mixup)
        return cutmix(images, targets, self.cutmix) if self.cutmix else (images, targets)
