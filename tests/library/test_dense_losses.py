"""Losses and metrics of dense prediction against scikit-learn, scipy, numpy and loops; rooms against their geometry."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.distance import cdist, directed_hausdorff
from sklearn.metrics import confusion_matrix, f1_score, jaccard_score

from tformerlib.data.rooms import FOCAL, points, rooms
from tformerlib.training.dense import (
    IGNORE,
    abs_rel,
    affine_invariant_loss,
    aligned_depth,
    border_distances,
    check_labels,
    confusion,
    cross_entropy_dice,
    delta,
    dice_score,
    hausdorff,
    iou_per_class,
    mean_iou,
    normalized,
    scale_and_shift,
    soft_dice,
)


def labels_and_logits(classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.randint(classes, (3, 7, 11))
    labels[0, :2] = IGNORE
    return labels, torch.randn(3, classes, 7, 11)


def known(*shape: int) -> torch.Tensor:
    mask = torch.rand(shape) < 0.7
    mask[:, 0, 0] = True
    return mask


# --- Labels -----------------------------------------------------------------------------------------------------------


def test_confusion_and_iou_equal_scikit_learn():
    labels, logits = labels_and_logits()
    predicted, valid = logits.argmax(1), labels != IGNORE
    counts = confusion(predicted, labels, 5)
    truth, said = labels[valid].numpy(), predicted[valid].numpy()
    assert (counts.numpy() == confusion_matrix(truth, said, labels=range(5))).all()
    np.testing.assert_allclose(iou_per_class(counts), jaccard_score(truth, said, average=None), atol=1e-12)
    assert math.isclose(mean_iou(counts), jaccard_score(truth, said, average="macro"), abs_tol=1e-12)
    assert math.isclose(
        dice_score(predicted == 1, labels == 1), f1_score((labels == 1).flatten(), (predicted == 1).flatten())
    )


def test_a_class_that_never_occurs_does_not_count():
    counts = confusion(torch.tensor([[[0, 1]]]), torch.tensor([[[0, 0]]]), 4)
    assert iou_per_class(counts)[:2].tolist() == [0.5, 0.0] and iou_per_class(counts)[2:].isnan().all()
    assert mean_iou(counts) == 0.25  # class 1 was predicted and counts; 2 and 3 do not


def test_counts_of_batches_add_up_and_means_of_images_do_not():
    labels, logits = labels_and_logits()
    predicted = logits.argmax(1)
    parts = [confusion(predicted[i], labels[i], 5) for i in range(3)]
    whole = confusion(predicted, labels, 5)
    assert torch.equal(torch.stack(parts).sum(0), whole)
    assert abs(np.mean([mean_iou(part) for part in parts]) - mean_iou(whole)) > 1e-4


def test_dice_loss_by_loops_and_cross_entropy_by_torch():
    labels, logits = labels_and_logits()
    p, total = logits.double().softmax(1), []
    for k in range(5):
        product = square = count = 0.0
        for b, y, x in (labels != IGNORE).nonzero().tolist():
            q, hit = p[b, k, y, x].item(), float(labels[b, y, x] == k)
            product, square, count = product + q * hit, square + q * q, count + hit
        total.append((2 * product + 1e-5) / (square + count + 1e-5))
    expected = 1 - sum(total) / 5
    assert math.isclose(soft_dice(logits.double(), labels).item(), expected, abs_tol=1e-12)
    entropy = F.cross_entropy(logits, labels, ignore_index=IGNORE)
    torch.testing.assert_close(cross_entropy_dice(logits, labels, dice=0.0), entropy)
    torch.testing.assert_close(
        cross_entropy_dice(logits, labels, dice=0.3).item(), (0.7 * entropy + 0.3 * expected).item()
    )


def test_ignored_pixels_get_no_gradient_and_certainty_costs_nothing():
    labels, logits = labels_and_logits()
    logits.requires_grad_()
    cross_entropy_dice(logits, labels).backward()
    assert logits.grad[0, :, :2].abs().max() == 0 and logits.grad[0, :, 2:].abs().min() > 0
    sure = 50 * F.one_hot(torch.where(labels == IGNORE, 0, labels), 5).movedim(-1, 1).float()
    assert cross_entropy_dice(sure, labels).item() < 1e-6


def test_labels_that_are_none_are_refused():
    good = torch.zeros(1, 2, 2, dtype=torch.long)
    with pytest.raises(ValueError, match=r"labels 255 are not among the 2 classes 0 .. 1 \(ignored: None\)"):
        check_labels(good + 255, 2, ignore=None)  # a mask of black and white
    with pytest.raises(ValueError, match="labels 3, 4 are not among the 3 classes"):
        check_labels(torch.tensor([[[1, 2], [3, 4]]]), 3)  # counted from 1
    with pytest.raises(ValueError, match="labels -1 are not among"):
        check_labels(good - 1, 3)
    with pytest.raises(ValueError, match="no pixel is labelled: all are 255"):
        check_labels(good + IGNORE, 3)
    with pytest.raises(TypeError, match=r"labels are torch.float32"):
        check_labels(good.float(), 3)
    with pytest.raises(ValueError, match=r"logits \(1, 3, 2, 4\) do not fit labels \(1, 2, 2\)"):
        cross_entropy_dice(torch.zeros(1, 3, 2, 4), good)
    with pytest.raises(ValueError, match="labels 3 are not among the 3 classes"):
        confusion(good + 3, good, 3)


# --- Masks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", [1.0, (0.7, 2.3)])
def test_hausdorff_equals_all_distances(spacing):
    a, b = torch.zeros(2, 13, 17, dtype=torch.bool)
    a[2:9, 3:11], b[4:12, 6:9], b[1, 15] = True, True, True
    step = np.broadcast_to(spacing, 2)

    def border(mask):
        x = np.pad(mask.numpy(), 1)
        inner = x[1:-1, 1:-1] & x[:-2, 1:-1] & x[2:, 1:-1] & x[1:-1, :-2] & x[1:-1, 2:]
        return np.argwhere(mask.numpy() & ~inner) * step

    far = cdist(border(a), border(b))
    there, back = border_distances(a, b, spacing=spacing)
    np.testing.assert_allclose(sorted(there), sorted(far.min(1)))
    np.testing.assert_allclose(sorted(back), sorted(far.min(0)))
    both = np.concatenate([far.min(1), far.min(0)])
    assert math.isclose(hausdorff(a, b, spacing=spacing), np.percentile(both, 95))
    whole = max(directed_hausdorff(border(a), border(b))[0], directed_hausdorff(border(b), border(a))[0])
    assert math.isclose(hausdorff(a, b, percentile=100, spacing=spacing), whole)
    assert hausdorff(a, b) == hausdorff(b, a) and hausdorff(a, a) == 0


def test_empty_and_soft_masks_are_refused_unless_said():
    empty, full = torch.zeros(4, 4, dtype=torch.bool), torch.ones(4, 4, dtype=torch.bool)
    assert dice_score(empty, full) == 0 and dice_score(empty, empty, empty=1.0) == 1
    with pytest.raises(ValueError, match="both masks are empty: say by empty="):
        dice_score(empty, empty)
    with pytest.raises(ValueError, match="one mask is empty: no border"):
        hausdorff(empty, full)
    with pytest.raises(ValueError, match="both masks are empty: no border"):
        hausdorff(empty, empty)
    assert hausdorff(full, empty, empty=0.0) == 0
    with pytest.raises(
        TypeError, match=r"masks are torch.float32 and torch.bool; they must be bool: say the threshold"
    ):
        dice_score(full.float(), full)
    with pytest.raises(ValueError, match=r"masks \(4, 4\) and \(2, 4\) differ in shape"):
        hausdorff(full, full[:2])


# --- Depth ------------------------------------------------------------------------------------------------------------


def test_alignment_equals_least_squares():
    x, y, mask = torch.randn(4, 5, 6).double(), torch.randn(4, 5, 6).double(), known(4, 5, 6)
    s, t = scale_and_shift(x, y, mask)
    for i in range(4):
        columns = np.stack([x[i][mask[i]], np.ones(int(mask[i].sum()))], 1)
        expected = np.linalg.lstsq(columns, y[i][mask[i]].numpy(), rcond=None)[0]
        np.testing.assert_allclose([s[i].item(), t[i].item()], expected, atol=1e-10)
    s, t = scale_and_shift(torch.full((1, 2, 2), 3.0), torch.arange(4.0).view(1, 2, 2))
    assert s.item() == 0 and t.item() == 1.5


def test_normalizing_and_loss_by_loops():
    x, y, mask = torch.randn(2, 5, 7).double(), torch.randn(2, 5, 7).double(), known(2, 5, 7)
    losses = []
    for i in range(2):
        parts = []
        for z in (x, y):
            values = z[i][mask[i]]
            middle = values.sort().values[(len(values) - 1) // 2]  # torch's median: the lower of two
            parts.append((values - middle) / (values - middle).abs().mean())
            torch.testing.assert_close(normalized(z, mask)[i][mask[i]], parts[-1])
        errors = sorted((parts[0] - parts[1]).abs().tolist())
        losses.append(sum(errors[: round(0.8 * len(errors))]) / (2 * len(errors)))
    loss = affine_invariant_loss(x, y, mask, gradients=0)
    assert math.isclose(loss.item(), sum(losses) / 2, abs_tol=1e-12)


def test_gradient_term_by_hand():
    """Ramps of normalized slopes differ by the same step everywhere; a constant difference costs nothing."""
    y = torch.arange(8.0).repeat(8, 1)[None].double()
    flat = torch.arange(8.0).view(8, 1).repeat(1, 8)[None].double()
    assert affine_invariant_loss(3 * y + 7, y).item() < 1e-12
    step = (1 / (normalized(y)[0, 0, 1] - normalized(y)[0, 0, 0])).item()
    with_steps = affine_invariant_loss(flat, y, gradients=1.0, scales=1) - affine_invariant_loss(flat, y, gradients=0)
    assert math.isclose(with_steps.item(), 2 * 7 * 8 / 64 / step, rel_tol=1e-6)


@pytest.mark.parametrize(("scale", "shift"), [(0.01, 5.0), (40.0, -3.0)])
def test_loss_and_aligned_metrics_do_not_see_scale_and_shift(scale, shift):
    depth, mask = 1 + 4 * torch.rand(3, 6, 8).double(), known(3, 6, 8)
    prediction = 1 / depth + 0.1 * torch.randn(3, 6, 8).double()
    moved = scale * prediction + shift
    for measure in (abs_rel, delta):
        before, after = (measure(aligned_depth(x, depth, mask), depth, mask) for x in (prediction, moved))
        torch.testing.assert_close(before, after, atol=1e-8, rtol=0)
        assert not torch.allclose(measure(1 / prediction.clamp(min=0.1), depth, mask),
                                  measure(1 / moved.clamp(min=0.1), depth, mask))  # fmt: skip
    before, after = (affine_invariant_loss(x, 1 / depth, mask) for x in (prediction, moved))
    torch.testing.assert_close(before, after)


def test_depth_metrics_by_hand():
    depth = torch.tensor([[[1.0, 2.0, 4.0, 8.0]]])
    said = torch.tensor([[[1.1, 1.5, 4.0, 16.0]]])
    assert math.isclose(abs_rel(said, depth).item(), (0.1 + 0.25 + 0 + 1) / 4, rel_tol=1e-6)
    assert delta(said, depth).item() == 0.5  # 2 / 1.5 is above 1.25
    mask = torch.tensor([[[True, False, True, False]]])
    assert math.isclose(abs_rel(said, depth, mask).item(), 0.05, rel_tol=1e-5) and delta(said, depth, mask).item() == 1
    assert aligned_depth(-depth, depth).max() <= 8  # an inverse depth at or below zero is as far as anything


def test_unknown_depth_changes_nothing_and_none_is_refused():
    depth, mask = 1 + torch.rand(2, 5, 5), known(2, 5, 5)
    said, wild = torch.rand(2, 5, 5), torch.where(mask, depth, 0.0)  # zero where the sensor saw nothing
    for f in (lambda d: affine_invariant_loss(said, torch.where(mask, 1 / d, 0), mask, gradients=0),
              lambda d: abs_rel(aligned_depth(said, d, mask), d, mask)):  # fmt: skip
        torch.testing.assert_close(f(depth), f(wild))
    with pytest.raises(ValueError, match=r"images \[1\] have no known pixel"):
        abs_rel(said, depth, torch.stack([mask[0], torch.zeros(5, 5, dtype=torch.bool)]))
    with pytest.raises(TypeError, match=r"the mask is torch.float32; it must be bool"):
        scale_and_shift(said, depth, mask.float())
    with pytest.raises(ValueError, match=r"differ in shape: \(2, 5, 5\), \(2, 4, 5\), \(2, 4, 5\)"):
        delta(said, depth[:, :4])


# --- Rooms ------------------------------------------------------------------------------------------------------------


def test_points_of_walls_floors_and_spheres_lie_on_them():
    room = rooms(40, side=32, seed=3)
    at = points(room.depth)
    for i in range(40):
        floor, wall = at[i][room.labels[i] == 1], at[i][room.labels[i] == 0]
        assert (floor[:, 1] - floor[:, 1].mean()).abs().max() < 1e-3 * floor[:, 1].mean()
        assert (wall[:, 2] - wall[:, 2].mean()).abs().max() < 1e-3 * wall[:, 2].mean()
        assert (at[i, ..., 1] <= floor[:, 1].mean() + 1e-3 * room.depth[i]).all()  # nothing below the floor


def test_points_of_a_sphere_lie_on_one():
    """|p|^2 = 2 p.m + c is linear in the middle m and in c; rooms with a single thing have a single sphere."""
    room, tried = rooms(40, side=32, most=1, seed=3), 0
    for depth, labels in zip(points(room.depth), room.labels, strict=True):
        ball = depth[labels == 2].double()
        if len(ball) > 20:
            columns, squares = torch.cat([2 * ball, torch.ones(len(ball), 1).double()], 1), ball.square().sum(1)
            fit = columns @ torch.linalg.lstsq(columns, squares).solution
            assert (fit - squares).abs().max() < 1e-3 * squares.mean()
            tried += 1
    assert tried >= 5


def test_rooms_depend_on_their_seed_and_keep_labels_in_range():
    a, b = rooms(5, side=16, seed=1), rooms(5, side=16, seed=1)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(a.images, rooms(5, side=16, seed=2).images)
    assert a.images.dtype == torch.uint8 and a.labels.max() <= 3 and a.depth.min() > 0
    assert rooms(260, side=8).images.shape == (260, 3, 8, 8)
    middle = points(torch.ones(1, 8, 8))[0, :, -1]
    assert math.isclose(middle[0, 0].item(), 7 / 8 / FOCAL, rel_tol=1e-6)
    with pytest.raises(ValueError, match="count=0, most=4, side=64: nothing to draw"):
        rooms(0)
