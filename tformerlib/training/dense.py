"""Losses and metrics for a label or a depth per pixel, and errors that name what is wrong with a mask.

Shapes: logits (B, K, H, W), labels and masks (B, H, W), depth (B, H, W). Where images differ in how many pixels count,
means are over pixels for labels and over images for depth.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..extras import needs

IGNORE = 255  # label of pixels that nobody labelled, as ADE20K and Pascal have it


def check_labels(labels: Tensor, classes: int, *, ignore: int | None = IGNORE) -> None:
    """Refuses what is no map of labels 0 .. classes - 1, which a loss would take in silence or crash on far away.

    Raises:
        TypeError: labels that are no whole numbers.
        ValueError: labels outside the classes (a mask saved as 0 and 255, say, or counted from 1), or none that counts.
    """
    if labels.dtype.is_floating_point or labels.dtype == torch.bool:
        raise TypeError(f"labels are {labels.dtype}; they must be whole numbers, one class a pixel")
    found = labels.unique()
    counted = found if ignore is None else found[found != ignore]
    if not len(counted):
        raise ValueError(f"no pixel is labelled: all are {ignore}, which is ignored")
    if unknown := [int(x) for x in counted if not 0 <= x < classes]:
        shown = ", ".join(map(str, unknown[:5]))
        raise ValueError(f"labels {shown} are not among the {classes} classes 0 .. {classes - 1} (ignored: {ignore})")


def soft_dice(logits: Tensor, labels: Tensor, *, ignore: int | None = IGNORE, smooth: float = 1e-5) -> Tensor:
    """1 minus Dice of probabilities, the mean over classes: 1 - 2 sum(p y) / (sum(p^2) + sum(y^2)).

    Sums run over all pixels of the batch. Squares as in V-Net (Milletari et al. 2016) and TransUNet.
    """
    valid = torch.ones_like(labels, dtype=torch.bool) if ignore is None else labels != ignore
    p = logits.softmax(1).movedim(1, -1)[valid]  # (pixels, K)
    y = F.one_hot(labels[valid], logits.shape[1]).to(p)
    dice = (2 * (p * y).sum(0) + smooth) / (p.square().sum(0) + y.square().sum(0) + smooth)
    return 1 - dice.mean()


def cross_entropy_dice(
    logits: Tensor, labels: Tensor, *, dice: float = 0.5, ignore: int | None = IGNORE
) -> Tensor:  # fmt: skip
    """(1 - dice) times cross-entropy plus dice times `soft_dice`; 0.5 as TransUNet has it, 0 as Segmenter and DPT.

    Raises:
        ValueError, TypeError: labels that `check_labels` refuses, or of another size than the logits.
    """
    if logits.shape[:1] + logits.shape[2:] != labels.shape:
        raise ValueError(f"logits {tuple(logits.shape)} do not fit labels {tuple(labels.shape)}")
    check_labels(labels, logits.shape[1], ignore=ignore)
    entropy = F.cross_entropy(logits, labels, ignore_index=-100 if ignore is None else ignore)
    return (1 - dice) * entropy + dice * soft_dice(logits, labels, ignore=ignore) if dice else entropy


# --- Depth up to a scale and a shift ----------------------------------------------------------------------------------


def scale_and_shift(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(s, t), each (B, 1, 1), with which s * prediction + t is nearest to the target in squares (Ranftl et al. 2020).

    A prediction that is the same everywhere gets s = 0 and the target's mean.

    Args:
        mask: True where the target is known.

    Raises:
        ValueError: an image without a known pixel, or shapes that differ.
    """
    mask = _known(prediction, target, mask)
    count = mask.sum((-2, -1), keepdim=True)
    x, y = (torch.where(mask, z, 0.0) for z in (prediction, target))
    mean_x, mean_y = (z.sum((-2, -1), keepdim=True) / count for z in (x, y))
    dx, dy = (torch.where(mask, z - m, 0.0) for z, m in ((prediction, mean_x), (target, mean_y)))
    variance = dx.square().sum((-2, -1), keepdim=True)
    s = torch.where(variance > 0, (dx * dy).sum((-2, -1), keepdim=True) / variance.clamp(min=1e-30), 0.0)
    return s, mean_y - s * mean_x


def normalized(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Each image minus its median, over its mean distance from it: the same for s x + t with any s > 0 and t."""
    mask = _known(x, x, mask)
    median = torch.where(mask, x, torch.nan).flatten(-2).nanmedian(-1).values[..., None, None]
    distance = torch.where(mask, (x - median).abs(), 0.0).sum((-2, -1), keepdim=True) / mask.sum((-2, -1), keepdim=True)
    return (x - median) / distance.clamp(min=1e-6)


def affine_invariant_loss(
    prediction: Tensor, target: Tensor, mask: Tensor | None = None, *, trim: float = 0.2, gradients: float = 0.5,
    scales: int = 4,
) -> Tensor:  # fmt: skip
    """MiDaS' loss of inverse depth, which DPT is trained with (Ranftl et al. 2020, sec. 5).

    Both maps are `normalized`; then comes the mean distance without the share `trim` of largest ones, which may be
    errors of the labels, plus `gradients` times the mean step of the difference between neighbors, on `scales` sizes.
    """
    mask = _known(prediction, target, mask)
    difference = normalized(prediction, mask) - normalized(target, mask)
    count = mask.sum((-2, -1))[:, None]  # (B, 1)
    errors = torch.where(mask, difference.abs(), torch.inf).flatten(1).sort().values
    kept = torch.arange(errors.shape[1], device=errors.device) < ((1 - trim) * count).round().clamp(min=1)
    loss = (torch.where(kept, errors, 0.0) / (2 * count)).sum(1).mean()
    return loss + gradients * sum(_steps(difference, mask, 2**k) for k in range(scales)) if gradients else loss


def _steps(difference: Tensor, mask: Tensor, stride: int) -> Tensor:
    d, m = difference[:, ::stride, ::stride], mask[:, ::stride, ::stride]
    both_x, both_y = m[:, :, 1:] & m[:, :, :-1], m[:, 1:] & m[:, :-1]
    x, y = (d[:, :, 1:] - d[:, :, :-1]).abs() * both_x, (d[:, 1:] - d[:, :-1]).abs() * both_y
    return ((x.sum((-2, -1)) + y.sum((-2, -1))) / m.sum((-2, -1)).clamp(min=1)).mean()


def aligned_depth(inverse: Tensor, depth: Tensor, mask: Tensor | None = None, *, far: float | None = None) -> Tensor:
    """A prediction of inverse depth, known up to scale and shift, as depth: aligned with 1 / depth, then inverted.

    Args:
        far: the largest depth given out, where the aligned inverse is near zero or below; default: the target's.
    """
    mask = _known(inverse, depth, mask)
    target = torch.where(mask, 1 / depth.clamp(min=1e-9), 0.0)
    s, t = scale_and_shift(inverse, target, mask)
    largest = torch.where(mask, depth, 0.0).amax((-2, -1), keepdim=True) if far is None else far
    return 1 / (s * inverse + t).clamp(min=1 / largest)


def abs_rel(prediction: Tensor, depth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of |prediction - depth| / depth over the pixels of each image, (B,)."""
    mask = _known(prediction, depth, mask)
    error = torch.where(mask, (prediction - depth).abs() / depth.clamp(min=1e-9), 0.0)
    return error.sum((-2, -1)) / mask.sum((-2, -1))


def delta(prediction: Tensor, depth: Tensor, mask: Tensor | None = None, *, threshold: float = 1.25) -> Tensor:
    """Share of pixels whose prediction is off by a factor below the threshold, (B,): delta_1 by default."""
    mask = _known(prediction, depth, mask)
    factor = torch.maximum(prediction / depth.clamp(min=1e-9), depth / prediction.clamp(min=1e-9))
    return ((factor < threshold) & mask).sum((-2, -1)) / mask.sum((-2, -1))


def _known(prediction: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
    mask = torch.ones_like(target, dtype=torch.bool) if mask is None else mask
    if not prediction.shape == target.shape == mask.shape:
        shapes = ", ".join(str(tuple(x.shape)) for x in (prediction, target, mask))
        raise ValueError(f"prediction, target and mask differ in shape: {shapes}")
    if mask.dtype != torch.bool:
        raise TypeError(f"the mask is {mask.dtype}; it must be bool, True where the target is known")
    if empty := (~mask.flatten(1).any(1)).nonzero().flatten().tolist():
        raise ValueError(f"images {empty} have no known pixel")
    return mask


# --- Metrics of labels ------------------------------------------------------------------------------------------------


def confusion(predicted: Tensor, labels: Tensor, classes: int, *, ignore: int | None = IGNORE) -> Tensor:
    """(K, K) counts of pixels: row = label, column = prediction. Counts of batches add up.

    Raises:
        ValueError, TypeError: labels or predictions that `check_labels` refuses.
    """
    check_labels(labels, classes, ignore=ignore)
    check_labels(predicted, classes, ignore=None)
    valid = torch.ones_like(labels, dtype=torch.bool) if ignore is None else labels != ignore
    index = labels[valid].long() * classes + predicted[valid].long()
    return index.bincount(minlength=classes**2).view(classes, classes)


def iou_per_class(counts: Tensor) -> Tensor:
    """(K,) intersection over union of each class; NaN for a class that is neither in the labels nor predicted."""
    both = counts.diag().double()
    union = counts.sum(0) + counts.sum(1) - both
    return torch.where(union > 0, both / union.clamp(min=1), torch.nan)


def mean_iou(counts: Tensor) -> float:
    """Mean of `iou_per_class` over the classes that occur, from counts over a whole set, not image by image."""
    return iou_per_class(counts).nanmean().item()


def dice_score(predicted: Tensor, target: Tensor, *, empty: float | None = None) -> float:
    """2 |A & B| / (|A| + |B|) of two bool masks.

    Args:
        empty: the score where both masks are empty. Codes give 1, 0 or leave the case out, and rankings differ by it.

    Raises:
        ValueError: both masks are empty, and nobody said what that counts.
        TypeError: masks that are not bool: thresholds belong where they can be seen.
    """
    _masks(predicted, target)
    total = int(predicted.sum() + target.sum())
    if total:
        return 2 * int((predicted & target).sum()) / total
    if empty is None:
        raise ValueError("both masks are empty: say by empty= what that counts")
    return empty


def hausdorff(
    predicted: Tensor, target: Tensor, *, percentile: float = 95.0, spacing: float | tuple[float, ...] = 1.0,
    empty: float | None = None,
) -> float:  # fmt: skip
    """Percentile of the distances from each border to the other, both directions in one list (as MedPy's hd95).

    100 is the Hausdorff distance itself. A border is what a mask loses to an erosion by its direct neighbors.

    Args:
        spacing: of pixels along each axis, in millimeters, say.  empty: what counts where one mask or both are empty.

    Raises:
        ValueError: an empty mask, and nobody said what that counts: it has no border to measure from.
        TypeError: masks that are not bool.
    """
    _masks(predicted, target)
    if not (predicted.any() and target.any()):
        if empty is None:
            which = "both masks are" if not (predicted.any() or target.any()) else "one mask is"
            raise ValueError(f"{which} empty: no border to measure from; say by empty= what that counts")
        return empty
    there, back = border_distances(predicted, target, spacing=spacing)
    return torch.cat([there, back]).quantile(percentile / 100).item()


def border_distances(
    a: Tensor, b: Tensor, *, spacing: float | tuple[float, ...] = 1.0
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Distance of each border pixel of a to the nearest one of b, and of b to a, by scipy's distance transform."""
    with needs("train"):
        from scipy import ndimage
    borders = [x & ~ndimage.binary_erosion(x) for x in (a.cpu().numpy(), b.cpu().numpy())]
    to_a, to_b = (ndimage.distance_transform_edt(~border, sampling=spacing) for border in borders)
    return torch.from_numpy(to_b[borders[0]]), torch.from_numpy(to_a[borders[1]])


def _masks(a: Tensor, b: Tensor) -> None:
    if a.dtype != torch.bool or b.dtype != torch.bool:
        raise TypeError(f"masks are {a.dtype} and {b.dtype}; they must be bool: say the threshold")
    if a.shape != b.shape:
        raise ValueError(f"masks {tuple(a.shape)} and {tuple(b.shape)} differ in shape")
