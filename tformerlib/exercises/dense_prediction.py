"""Checks of the exercises in the chapter on dense prediction."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..training.dense import confusion, mean_iou, scale_and_shift
from . import exercise, expect


@exercise("dense-iou")
def miou(answer: Callable[[Tensor, Tensor, int], float]) -> None:
    """answer(predicted (B, H, W), labels (B, H, W), classes) is the mean IoU over the classes that occur.

    Pixels labelled 255 do not count, whatever was predicted there.
    """
    one = torch.tensor([[[0, 0, 1, 1]]])
    expect(abs(answer(one, one, 2) - 1) < 1e-6, f"equal maps get {answer(one, one, 2):.3f}, not 1")
    said = answer(torch.tensor([[[0, 1, 1, 1]]]), one, 2)
    expect(abs(said - (1 / 2 + 2 / 3) / 2) < 1e-6, f"for 0 1 1 1 against 0 0 1 1 it gives {said:.3f}, not 0.583")
    said = answer(one, one, 5)
    expect(abs(said - 1) < 1e-6, f"with three classes that occur nowhere equal maps get {said:.3f}")
    hidden = torch.tensor([[[0, 255, 1, 1]]])
    said = answer(torch.tensor([[[0, 1, 1, 1]]]), hidden, 2)
    expect(abs(said - 1) < 1e-6, f"wrong only where the label is 255 it gives {said:.3f}, not 1")
    labels, predicted = torch.randint(4, (2, 3, 9, 9))
    labels[0, :3] = 255
    labels[1:][labels[1:] == 3] = 0  # class 3 in one image alone
    want, said = mean_iou(confusion(predicted, labels, 4)), float(answer(predicted, labels, 4))
    expect(abs(said - want) < 1e-6, f"over three images it gives {said:.4f}, over all their pixels it is {want:.4f}")


@exercise("dense-align")
def align(answer: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
    """answer(x (B, H, W), y, mask) gives scale (B,) and shift (B,) with which s x + t is nearest to y in the mask."""
    y, mask = torch.randn(3, 5, 7), torch.rand(3, 5, 7) < 0.7
    s, t = answer(2 * y + 3, y, torch.ones_like(mask))
    expect(
        s.shape == t.shape == (3,),
        f"for three images scale and shift have the shapes {tuple(s.shape)}, {tuple(t.shape)}",
    )
    expect(bool((s - 0.5).abs().max() < 1e-4), f"for x = 2 y + 3 the scale is {s[0]:.3f}, not 0.5")
    expect(bool((t + 1.5).abs().max() < 1e-4), f"for x = 2 y + 3 the shift is {t[0]:.3f}, not -1.5")
    x = torch.randn(3, 5, 7) + y
    want = scale_and_shift(x, y, mask)
    s, t = answer(x, torch.where(mask, y, 1e4), mask)
    off = max((a - b.flatten()).abs().max().item() for a, b in zip((s, t), want, strict=True))
    expect(off < 1e-3, f"with wild numbers where the mask is False, scale or shift are off by {off:.3g}")
    error, best = (((a.view(-1, 1, 1) * x + b.view(-1, 1, 1) - y).square() * mask).sum() for a, b in ((s, t), want))
    expect(bool(error <= best * 1.001), f"the squared error is {error:.3f}; {best:.3f} can be had")
    s, t = answer(x[:1] * 0 + 4, y[:1], mask[:1])
    expect(bool(s.isfinite().all() and t.isfinite().all()), "a prediction that is the same everywhere gives NaN")


@exercise("dense-masks")
def masks(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """answer(patches (B, N, C), classes (B, K, C)) are Segmenter's scores (B, N, K) before the norm's weights."""
    patches, classes = torch.tensor([[[3.0, 4.0], [0.0, 2.0]]]), torch.tensor([[[1.0, 0.0], [0.0, 5.0], [-1.0, 0.0]]])
    scores = answer(patches, classes)
    expect(scores.shape == (1, 2, 3), f"for 2 patches and 3 classes the shape is {tuple(scores.shape)}, not (1, 2, 3)")
    total = scores.sum(-1).abs().max().item()
    expect(total < 1e-4, f"the scores of a patch sum to {total:.3f} over the classes, not to 0")
    expect(
        abs(scores.square().mean().item() - 1) < 1e-2,
        f"the mean square of the scores is {scores.square().mean():.3f}, not 1",
    )
    expect(bool(scores[0, 1].argmax() == 1), "the patch that points along class 1 does not get class 1")
    patches, classes = torch.randn(2, 5, 7), torch.randn(2, 3, 7)
    for name, a, b in (
        ("patches", 9 * patches, classes),
        ("classes", patches, classes * torch.tensor([1.0, 5, 9])[:, None]),
    ):
        far = (answer(a, b) - answer(patches, classes)).abs().max().item()
        expect(far < 1e-3, f"longer {name} in the same directions change the scores by {far:.3f}")
