"""Right values where bug reports, fuzzing or other suites found wrong ones: detection, losses, training."""

import math
from functools import partial
from pathlib import Path
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tformerlib.detection.boxes import Target, generalized_iou, iou, to_centers, to_corners
from tformerlib.detection.denoising import noise
from tformerlib.detection.loss import Detections, detect, set_loss
from tformerlib.detection.matching import Focal, Predictions, Softmax, hungarian
from tformerlib.detection.precision import average_precision
from tformerlib.objectives.smoothing import label_smoothed_cross_entropy
from tformerlib.training import fit
from tformerlib.training.augment import Recipe
from tformerlib.training.checkpoints import CheckpointError

HALVES = (torch.bfloat16, torch.float16)


# --- boxes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", HALVES)
def test_boxes_are_computed_in_float32(dtype: torch.dtype) -> None:
    box = torch.tensor([0.5, 0.5, 0.505, 0.505], dtype=dtype)
    assert iou(box, box) == 1 and generalized_iou(box, box) == 1  # areas of 2.5e-5 are no float16
    large = torch.tensor([0.0, 0.0, 300.0, 300.0], dtype=dtype)
    assert iou(large, large) == 1  # 90,000 is no float16 either
    assert to_corners(box).dtype == to_centers(box).dtype == torch.float32


def test_boxes_of_whole_numbers_are_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"boxes are torch\.int64; they are floating point"):
        iou(torch.tensor([0, 0, 2, 2]), torch.tensor([1, 1, 3, 3]))


@pytest.mark.parametrize("dtype", HALVES)
def test_half_predictions_lose_no_pixel_and_no_gradient(dtype: torch.dtype) -> None:
    boxes = torch.tensor([[[[0.7057, 0.5, 0.003, 0.1]]]])
    predictions = Predictions(torch.zeros(1, 1, 1, 2, dtype=dtype, requires_grad=True), boxes.requires_grad_())
    (found,) = detect(predictions, Softmax(), sizes=[(1080, 1920)])
    assert found.boxes[0, 0].item() == pytest.approx(1920 * (0.7057 - 0.0015), abs=1e-2)
    target: Target = {"labels": torch.tensor([0]), "boxes": torch.tensor([[0.7058, 0.5, 0.003, 0.1]])}
    loss, _ = set_loss(predictions, [target], Softmax())
    loss.backward()
    assert loss.dtype == torch.float32 and boxes.grad is not None and boxes.grad[..., 0].abs().min() > 0


def test_a_query_has_one_class_also_among_equals() -> None:
    predictions = Predictions(torch.zeros(1, 2, 5, 92), torch.full((1, 2, 5, 4), 0.5))
    found = detect(predictions, Softmax(), top=1000)
    assert [len(each.scores) for each in found] == [5, 5]


def test_scores_that_are_nan_are_refused() -> None:
    predictions = Predictions(torch.full((1, 1, 3, 4), math.nan), torch.full((1, 1, 3, 4), 0.5))
    with pytest.raises(FloatingPointError, match="a score is NaN"):
        detect(predictions, Focal())
    wrong = Detections(torch.tensor([math.nan]), torch.tensor([0]), torch.tensor([[0.0, 0.0, 0.5, 0.5]]))
    truth: Target = {"labels": torch.tensor([0]), "boxes": torch.tensor([[0.25, 0.25, 0.5, 0.5]])}
    with pytest.raises(ValueError, match="image 0 has a score that is not finite"):
        average_precision([wrong], [truth])


@pytest.mark.parametrize("scoring", [Softmax(), Focal()])
def test_an_empty_batch_costs_nothing_and_finds_nothing(scoring: Softmax | Focal) -> None:
    logits = torch.zeros(2, 0, 3, 4, requires_grad=True)
    predictions = Predictions(logits, torch.zeros(2, 0, 3, 4))
    loss, _ = set_loss(predictions, [], scoring)
    loss.backward()
    assert loss == 0 and detect(predictions, scoring) == []
    assert hungarian(predictions, [], scoring).images.shape == (2, 0)
    assert noise([], classes=3).labels.numel() == 0


# --- losses -----------------------------------------------------------------------------------------------------------


def test_smoothed_cross_entropy_is_torchs() -> None:
    logits = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([[1, 2, -100, 6, 0], [3, 3, 3, -100, -100], [0, 1, 2, 3, 4]])
    for smoothing in (0.0, 0.1):
        expected = F.cross_entropy(logits.flatten(0, 1), target.flatten(), label_smoothing=smoothing)
        assert torch.allclose(label_smoothed_cross_entropy(logits, target, smoothing, ignore=-100), expected)
    logits[0, 2] = math.nan  # an ignored row
    assert label_smoothed_cross_entropy(logits, target, 0.1, ignore=-100).isfinite()
    hidden = torch.tensor([[0.0, 1.0, -math.inf]])
    assert label_smoothed_cross_entropy(hidden, torch.tensor([1]), 0.0, ignore=-1) == pytest.approx(0.3132617, abs=1e-6)


# --- training ---------------------------------------------------------------------------------------------------------


def line(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[1])


def examples(seed: int = 0) -> tuple[Tensor, Tensor]:
    x = torch.randn(32, 3, generator=torch.Generator().manual_seed(seed))
    return x, x.sum(1, keepdim=True)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clip": 0.0}, "clip=0.0 would leave no gradient"), ({"weight_decay": -1.0}, "weight_decay=-1.0 is negative"),
        ({"lr": -1e-3}, "lr=-0.001 is negative"), ({"ema": 1.0}, r"ema=1.0 is not in \[0, 1\)"),
    ],
)  # fmt: skip
def test_numbers_that_mean_nothing_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(model(), examples(), line, steps=2, batch_size=4, **arguments)


@pytest.mark.parametrize("arguments", [{"smoothing": 2.0}, {"erasing": 1.5}, {"crop": -1}, {"magnitude": 11}])
def test_recipes_that_mean_nothing_are_refused(arguments: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Recipe(**arguments)


def test_a_recipe_erases() -> None:
    torch.manual_seed(0)
    images, labels = torch.zeros(8, 3, 16, 16), torch.zeros(8, dtype=torch.long)
    erased, _ = Recipe(erasing=1.0)(images, labels, 3)
    assert all(image.abs().sum() > 0 for image in erased)  # noise where there was black


def test_a_folder_is_no_checkpoint_and_the_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="is a folder; name a file in it"):
        fit(model(), examples(), line, steps=2, batch_size=4, checkpoint=tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    fit(model(), examples(), line, steps=2, batch_size=4, checkpoint="~/a.pt")
    assert (tmp_path / "a.pt").is_file() and not (tmp_path / "~").exists()


def test_a_run_goes_on_with_another_function_that_makes_the_same_optimizer(tmp_path: Path) -> None:
    def run(make, **other):
        file = tmp_path / "a.pt"
        return fit(model(), examples(**other), line, steps=4, batch_size=4, optimizer=make, checkpoint=file)

    run(lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9))
    run(lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9))
    run(partial(torch.optim.SGD, lr=0.1, momentum=0.9))
    with pytest.raises(CheckpointError, match="optimizer=SGD"):
        run(partial(torch.optim.SGD, lr=0.1, momentum=0.5))


def test_other_data_of_the_same_length_is_noticed(tmp_path: Path) -> None:
    fit(model(), examples(), line, steps=2, batch_size=4, checkpoint=tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="was written with data="):
        fit(model(), examples(1), line, steps=2, batch_size=4, checkpoint=tmp_path / "a.pt")


def test_parts_that_come_and_go_keep_their_steps() -> None:
    count = iter(range(6))

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        step, value = next(count), line(model, batch)
        return value, {"even": value.detach()} if step % 2 == 0 else {"odd": value.detach()}

    history = fit(model(), examples(), loss, steps=6, batch_size=4)
    for name, first in (("even", 0), ("odd", 1)):
        part = history.parts[name]
        assert len(part) == 6 and [math.isnan(x) for x in part] == [i % 2 != first for i in range(6)]
        assert [x for x in part if not math.isnan(x)] == history.losses[first::2]


def test_a_compiled_model_keeps_its_names() -> None:
    compiled = cast(nn.Module, torch.compile(model(), backend="eager"))
    history = fit(compiled, examples(), line, steps=3, batch_size=4, ema=0.5)
    assert set(history.ema or {}) == {"weight", "bias"}
