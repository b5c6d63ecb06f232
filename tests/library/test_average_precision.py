"""Average precision by hand, suppression by brute force, and what both refuse."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from tformerlib.detection.boxes import Target, iou
from tformerlib.detection.loss import Detections
from tformerlib.detection.precision import MEASURES, average_precision, suppress

BOX = torch.tensor([0.5, 0.5, 0.4, 0.4])  # a center and two sides
NONE = Detections(torch.zeros(0), torch.zeros(0, dtype=torch.long), torch.zeros(0, 4))


def objects(*boxes: Tensor, labels: list[int] | None = None) -> Target:
    return {"labels": torch.tensor(labels or [0] * len(boxes)), "boxes": torch.stack(boxes)}


def found(*corners: list[float], scores: list[float], labels: list[int] | None = None) -> Detections:
    return Detections(torch.tensor(scores), torch.tensor(labels or [0] * len(corners)), torch.tensor(corners))


EXACT = [0.3, 0.3, 0.7, 0.7]  # BOX as corners
ELSEWHERE = [0.0, 0.0, 0.2, 0.2]


def test_precision_by_hand() -> None:
    """Two objects, three detections by falling score: right, wrong, right. Precision is 1 up to a recall of 1/2, and
    2/3 from there on. COCO reads it at recalls 0, 0.01, .. 1: 51 times 1 and 50 times 2/3."""
    other = torch.tensor([0.8, 0.8, 0.2, 0.2])
    said = found(EXACT, ELSEWHERE, [0.7, 0.7, 0.9, 0.9], scores=[0.9, 0.8, 0.7])
    result = average_precision([said], [objects(BOX, other)])
    assert result["AP"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert result["AP50"] == pytest.approx(result["AP"]) and result["AP75"] == pytest.approx(result["AP"])


def test_overlaps_count_from_a_half_to_nineteen_twentieths() -> None:
    """A box of the right height and 0.72 of the width has an overlap of 0.72: found at 0.5, 0.55, .. 0.7, not above."""
    said = found([0.3, 0.3, 0.3 + 0.4 * 0.72, 0.7], scores=[1.0])
    result = average_precision([said], [objects(BOX)])
    assert result["AP50"] == pytest.approx(1.0)
    assert result["AP75"] == 0.0
    assert result["AP"] == pytest.approx(5 / 10)


def test_a_duplicate_costs_precision_only_below_something_right() -> None:
    twice = found(EXACT, EXACT, [0.7, 0.7, 0.9, 0.9], scores=[0.9, 0.8, 0.7])
    other = torch.tensor([0.8, 0.8, 0.2, 0.2])
    truth = [objects(BOX, other)]
    assert average_precision([twice], truth)["AP50"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert average_precision([suppress(twice)], truth)["AP50"] == pytest.approx(1.0)


def test_sizes_are_shares_of_the_image_and_empty_ones_nan() -> None:
    small = torch.tensor([0.1, 0.1, 0.1, 0.1])
    said = found(EXACT, ELSEWHERE, scores=[0.9, 0.8])
    result = average_precision([said], [objects(BOX, small)])
    assert result["AP_L"] == pytest.approx(1.0)
    assert result["AP_S"] == 0.0
    assert math.isnan(result["AP_M"])
    large = average_precision([said], [objects(BOX, small)], large=0.5)
    assert large["AP_M"] == pytest.approx(1.0) and math.isnan(large["AP_L"])


def test_classes_are_judged_apart() -> None:
    said = found(EXACT, scores=[0.9], labels=[1])
    assert average_precision([said], [objects(BOX, labels=[0])])["AP50"] == 0.0
    both = average_precision([said], [objects(BOX, BOX, labels=[0, 1])])
    assert both["AP50"] == pytest.approx(0.5)


def test_images_without_objects_or_detections() -> None:
    empty: Target = {"labels": torch.zeros(0, dtype=torch.long), "boxes": torch.zeros(0, 4)}
    nothing, wrong = (
        average_precision([each], [objects(BOX)]) for each in (NONE, found([0.0, 0.0, 0.1, 0.1], scores=[0.5]))
    )
    assert nothing == pytest.approx(wrong, nan_ok=True)  # as if one wrong box had been found
    assert (
        nothing["AP"] == 0.0 and sum(math.isnan(nothing[name]) for name in MEASURES) == 2
    )  # of sizes that are not there
    right = found(EXACT, scores=[0.5])
    assert average_precision([right, NONE], [objects(BOX), empty])["AP"] == pytest.approx(1.0)
    alarm = found(EXACT, scores=[0.9])  # where nothing is, and surer than the right one
    assert average_precision([right, alarm], [objects(BOX), empty])["AP50"] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="no image has an object"):
        average_precision([right], [empty])


def test_what_cannot_be_judged_is_refused() -> None:
    with pytest.raises(ValueError, match="detections of 0 images, objects of 1"):
        average_precision([], [objects(BOX)])
    with pytest.raises(ValueError, match=r"image 0 has a box that is not finite: .*nan"):
        average_precision([found([math.nan, 0, 1, 1], scores=[1.0])], [objects(BOX)])
    with pytest.raises(ValueError, match="threshold=1.5"):
        suppress(NONE, 1.5)


@pytest.mark.parametrize("seed", range(20))
def test_suppression_keeps_the_one_set_that_its_rule_allows(seed: int) -> None:
    """A set is kept if every box in it overlaps no better one in it, and every box outside it overlaps a better one in
    it. Of all 2^9 sets exactly one is such."""
    generator = torch.Generator().manual_seed(seed)
    first, sides = torch.rand(9, 2, generator=generator) * 0.5, 0.2 + 0.3 * torch.rand(9, 2, generator=generator)
    scores, labels = torch.rand(9, generator=generator), torch.randint(2, (9,), generator=generator)
    boxes = torch.cat([first, first + sides], -1)

    def falls(i: int, kept: tuple[int, ...]) -> bool:
        return any(scores[j] > scores[i] and labels[j] == labels[i] and iou(boxes[i], boxes[j]) > 0.3 for j in kept)

    sets = itertools.chain.from_iterable(itertools.combinations(range(9), n) for n in range(10))
    allowed = [kept for kept in sets if all(falls(i, kept) != (i in kept) for i in range(9))]
    assert len(allowed) == 1
    order = sorted(allowed[0], key=lambda i: -scores[i])
    result = suppress(Detections(scores, labels, boxes), 0.3)
    assert torch.equal(result.scores, scores[order]) and torch.equal(result.boxes, boxes[order])


def test_suppression_of_nothing() -> None:
    assert len(suppress(NONE).scores) == 0
