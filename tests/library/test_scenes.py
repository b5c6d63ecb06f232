"""Scenes have the boxes that their pixels have, figures keep apart, and BCCD's boxes are boxes."""

from typing import Any

import pytest
import torch
from PIL import Image
from skimage.measure import label, regionprops

from tformerlib.data import detection
from tformerlib.data.detection import FIGURES, NOTHING, as_targets, blood_cells, scenes
from tformerlib.detection.boxes import check_targets


def on_gray(**options: Any) -> detection.Detection:
    """Figures on a plane of one gray, so that pixels alone say where they are."""
    return scenes(60, contrast=0.0, noise=0.0, **options)


@pytest.mark.parametrize("side", [32, 48, 64])
def test_boxes_are_tight_around_what_is_drawn(side: int) -> None:
    drawn = on_gray(side=side, smallest=0.2)
    for image, target in zip(drawn.images, as_targets(drawn.classes, drawn.boxes), strict=True):
        islands = regionprops(label((image != 127).any(0).numpy() & (image != 128).any(0).numpy(), connectivity=2))
        seen = sorted((left, top, right, bottom) for top, left, bottom, right in (island.bbox for island in islands))
        x, y, w, h = (target["boxes"] * side).unbind(-1)
        said = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1)
        assert torch.equal(said, said.round())  # whole pixels
        assert sorted(map(tuple, said.int().tolist())) == seen


def test_figures_are_of_their_class() -> None:
    """By the share of its box that a figure covers: all of it, a quarter of pi, or about half."""
    drawn = on_gray(side=64, smallest=0.3, most=1)
    share: dict[str, list[float]] = {name: [] for name in FIGURES}
    for image, target in zip(drawn.images, as_targets(drawn.classes, drawn.boxes), strict=True):
        pixels = ((image != 127) & (image != 128)).any(0).sum().item()
        share[FIGURES[int(target["labels"][0])]].append(pixels / (target["boxes"][0, 2:].prod().item() * 64**2))
    assert set(share["square"]) == {1.0}
    assert all(abs(s - torch.pi / 4) < 0.06 for s in share["disc"])
    assert all(0.45 < s < 0.65 for s in share["triangle"])


def test_scenes_hold_one_to_four_figures_that_keep_apart() -> None:
    drawn = scenes(500)
    counts = (drawn.classes != NOTHING).sum(1)
    assert set(counts.tolist()) == {1, 2, 3, 4}
    assert set(drawn.classes.unique().tolist()) == {NOTHING, *range(len(FIGURES))}
    for target in as_targets(drawn.classes, drawn.boxes):
        x, y, w, h = (target["boxes"] * 48).unbind(-1)
        across = (x[:, None] - x).abs() - (w[:, None] + w) / 2
        down = (y[:, None] - y).abs() - (h[:, None] + h) / 2
        gaps = torch.maximum(across, down)[~torch.eye(len(x), dtype=torch.bool)]
        assert (gaps >= detection.GAP).all()
    sides = (drawn.boxes * 48)[drawn.classes != NOTHING][:, 2:]
    assert sides.min() >= 5 and sides.max() <= 24
    check_targets(as_targets(drawn.classes, drawn.boxes), images=500, classes=len(FIGURES), queries=4)


def test_rows_without_an_object_are_empty_and_left_out() -> None:
    drawn = scenes(50)
    assert not drawn.boxes[drawn.classes == NOTHING].any()
    targets = as_targets(drawn.classes, drawn.boxes)
    assert [len(target["labels"]) for target in targets] == (drawn.classes != NOTHING).sum(1).tolist()
    nothing = as_targets(torch.full((1, 3), NOTHING), torch.zeros(1, 3, 4))
    assert nothing[0]["labels"].shape == (0,) and nothing[0]["boxes"].shape == (0, 4)


def test_the_seed_decides_and_test_scenes_are_others() -> None:
    first, again, other, test = scenes(8, seed=3), scenes(8, seed=3), scenes(8, seed=4), scenes(8, seed=3, split="test")
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.images, other.images) and not torch.equal(first.images, test.images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "count=0"),
        ({"most": 0}, "most=0"),
        ({"side": 32, "smallest": 0.1}, "0.1 to 0.5 of side=32"),
        ({"smallest": 0.6}, "0.6 to 0.5"),
        ({"largest": 1.2}, "to 1.2"),
        ({"split": "validation"}, "'validation'"),
        ({"side": 200}, "side=200"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scenes(**{"count": 4} | options)


def cell(x: float, y: float, w: float, h: float, category: int = 0) -> dict[str, Any]:
    return {"bbox": [x, y, w, h], "category": category}


def test_cells_without_area_are_left_out_and_those_that_leave_the_image_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.new("RGB", (20, 10), (255, 0, 0))
    objects = [cell(0, 0, 10, 5, 2), cell(5, 5, 0, 3), cell(15, 5, 10, 5), cell(30, 2, 4, 4), cell(2, 2, -1, 4)]
    rows = [
        {"image": image, "width": 20, "height": 10, "objects": objects},
        {"image": image, "width": 20, "height": 10, "objects": []},
    ]
    monkeypatch.setattr(detection, "load", lambda name, split: rows)
    cells, refused = blood_cells("train", side=8)
    assert refused == detection.Refused(empty=3, cut=1)
    assert cells.images.shape == (2, 3, 8, 8) and cells.images[0, 0].eq(255).all()
    assert cells.classes.tolist() == [[2, 0], [NOTHING, NOTHING]]
    assert cells.boxes[0].tolist() == [[0.25, 0.25, 0.5, 0.5], [0.875, 0.75, 0.25, 0.5]]
    check_targets(as_targets(cells.classes, cells.boxes), images=2, classes=3, queries=2)
