"""What can happen to an image: noise, blur, a covered square, patches in disorder, and attacks along the gradient.

Images are (B, C, H, W) floats in 0 .. 1, and stay in that range. Budgets of attacks are in the same unit, so that they
mean the same for every model whatever its normalization.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

Classifier = Callable[[Tensor], Tensor]  # images in 0 .. 1 to logits


def noisy(images: Tensor, std: float, *, seed: int = 0) -> Tensor:
    """Gaussian noise of a standard deviation."""
    generator = torch.Generator().manual_seed(seed)
    return (images + std * torch.randn(images.shape, generator=generator).to(images)).clamp(0, 1)


def blurred(images: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur, cut off at four deviations; the border mirrors what is inside."""
    if not sigma > 0:
        raise ValueError(f"sigma={sigma} is not positive")
    reach = math.ceil(4 * sigma)
    if reach >= min(images.shape[-2:]):
        raise ValueError(f"sigma={sigma} reaches {reach} pixels, beyond images of {tuple(images.shape[-2:])}")
    line = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * sigma**2))
    kernel = (line / line.sum()).to(images).expand(images.shape[1], 1, -1)
    x = F.pad(images, (reach,) * 4, mode="reflect")
    x = F.conv2d(x, kernel[..., None], groups=images.shape[1])
    return F.conv2d(x, kernel[:, :, None], groups=images.shape[1])


def occluded(images: Tensor, side: int, *, seed: int = 0) -> Tensor:
    """A gray square of `side` pixels over each image, at a place of its own."""
    height, width = images.shape[-2:]
    if not 0 < side <= min(height, width):
        raise ValueError(f"side={side} does not fit images of {height} x {width}")
    generator, covered = torch.Generator().manual_seed(seed), images.clone()
    tops = torch.randint(height - side + 1, (len(images),), generator=generator).tolist()
    lefts = torch.randint(width - side + 1, (len(images),), generator=generator).tolist()
    for image, top, left in zip(covered, tops, lefts, strict=True):
        image[:, top : top + side, left : left + side] = 0.5
    return covered


def shuffled(images: Tensor, patch: int, *, seed: int = 0) -> Tensor:
    """The patches of each image in another order, the same for all images."""
    height, width = images.shape[-2:]
    if height % patch or width % patch:
        raise ValueError(f"patch={patch} does not divide images of {height} x {width}")
    patches = rearrange(images, "b c (h p) (w q) -> b (h w) c p q", p=patch, q=patch)
    order = torch.randperm(patches.shape[1], generator=torch.Generator().manual_seed(seed))
    return rearrange(patches[:, order], "b (h w) c p q -> b c (h p) (w q)", h=height // patch)


def fgsm(classify: Classifier, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """One step of size epsilon that raises the loss most, in every pixel (Goodfellow et al. 2015)."""
    return pgd(classify, images, labels, epsilon, steps=1, step=epsilon)


def pgd(
    classify: Classifier, images: Tensor, labels: Tensor, epsilon: float, *, steps: int = 10, step: float | None = None
) -> Tensor:
    """Steps along the sign of the gradient, each brought back to within epsilon of the image (Madry et al. 2018).

    Args:
        step: size of a step; by default 2.5 epsilon over the number of steps.

    Raises:
        ValueError: images outside 0 .. 1, for which epsilon would mean something else.
    """
    if images.min() < 0 or images.max() > 1:
        raise ValueError(f"images lie in {images.min():.3g} .. {images.max():.3g}, not in 0 .. 1")
    step, attacked = step or 2.5 * epsilon / steps, images.clone()
    for _ in range(steps):
        attacked.requires_grad_()
        loss = F.cross_entropy(classify(attacked), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, attacked)
        attacked = attacked.detach() + step * gradient.sign()
        attacked = images + (attacked - images).clamp(-epsilon, epsilon)
        attacked = attacked.clamp(0, 1)
    return attacked.detach()
