"""Image sets, augmentation and the harness that compares classifiers: what they mean, not only what shape they have."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import tformerlib as tf
from tformerlib import measures, show
from tformerlib.attention import attention
from tformerlib.data import images as sets
from tformerlib.show.pareto import frontier
from tformerlib.training import augment, compare
from tformerlib.training.augment import Recipe


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def ramps(count: int = 64, side: int = 16) -> Tensor:
    """Images in -1 .. 1, each with its own gradient of colors: no two pixels in a row are equal."""
    y, x = torch.meshgrid(*[torch.linspace(-0.8, 0.8, side)] * 2, indexing="ij")
    weight = torch.rand(count, 3, 1, 1)
    return weight * x + (1 - weight) * y


# --- data -------------------------------------------------------------------------------------------------------------


def test_digits_are_the_digits_at_places_that_differ():
    images, labels = sets.digits("train", noise=0.0)
    assert images.shape == (1000, 3, 24, 24) and images.dtype == torch.uint8 and labels.bincount().min() > 80
    ink = images[:, 0].float() > images.min()
    rows, columns = ink.any(2), ink.any(1)
    assert rows.sum(1).max() <= 12 and columns.sum(1).max() <= 12  # one digit of 12 x 12 in each, whole
    first = rows.float().argmax(1)
    assert first.min() == 0 and first.max() >= 12


def test_digits_of_training_and_test_are_apart_and_only_training_follows_the_seed():
    clean = {split: sets.digits(split, noise=0.0, canvas=12)[0].flatten(1) for split in ("train", "test")}
    assert len(clean["test"]) == 797
    both = {tuple(x) for x in clean["train"].tolist()} & {tuple(x) for x in clean["test"].tolist()}
    assert len(both) <= 1  # scikit-learn's set holds hardly any digit twice
    assert torch.equal(sets.digits("test", seed=1)[0], sets.digits("test", seed=2)[0])
    assert torch.equal(sets.digits("train", seed=1)[0], sets.digits("train", seed=1)[0])
    assert not torch.equal(sets.digits("train", seed=1)[0], sets.digits("train", seed=2)[0])
    assert len(sets.digits("train", 100)[1]) == 100
    for wrong in ({"split": "dev"}, {"split": "train", "count": 1001}, {"split": "test", "size": 30}):
        with pytest.raises(ValueError, match=r"dev|1001|30"):
            sets.digits(**wrong)


def test_shapes_can_be_told_apart_by_their_area_in_their_box():
    """A disc fills pi / 4 of its box whatever its size, a ring less; the drawing must agree with geometry."""
    images, labels = sets.shapes(600, side=64, noise=0.0)
    assert labels.unique().tolist() == list(range(len(sets.SHAPES)))
    disc = images[labels == 0].float()
    inside = (disc != disc[:, :, :1, :1]).any(1)  # the corner is ground, nearly always
    whole = inside.any(1)[:, [0, -1]].logical_not().all(1) & inside.any(2)[:, [0, -1]].logical_not().all(1)
    assert whole.sum() > 20
    for mask in inside[whole]:
        height, width = mask.any(1).sum(), mask.any(0).sum()
        assert abs(mask.sum() / (height * width) - torch.pi / 4) < 0.08
    assert torch.equal(images, sets.shapes(600, side=64, noise=0.0)[0])
    with pytest.raises(ValueError, match="count=0"):
        sets.shapes(0)


def test_cifar10_comes_as_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from datasets import Dataset, Features, Image, Value
    from PIL import Image as Pillow

    pictures = [Pillow.new("RGB", (32, 32), (i, 2 * i, 3 * i)) for i in range(20)]
    table = Dataset.from_dict(
        {"img": pictures, "label": list(range(10)) * 2}, Features({"img": Image(), "label": Value("int64")})
    )
    monkeypatch.setattr(sets, "load", lambda name, split: table)
    images, labels = sets.cifar10("train")
    assert images.shape == (20, 3, 32, 32) and images.dtype == torch.uint8
    assert images[7, :, 3, 4].tolist() == [7, 14, 21] and labels[7] == 7
    some, theirs = sets.cifar10("train", 5, seed=3)
    assert all(some[i, 0, 0, 0] % 10 == theirs[i] for i in range(5))
    with pytest.raises(ValueError, match="count=21"):
        sets.cifar10("train", 21)


# --- augmentation -----------------------------------------------------------------------------------------------------


def test_flips_and_crops_move_pixels_and_make_none_up():
    images = ramps()
    flipped = augment.random_flip(images)
    mirrored = (flipped == images.flip(-1)).all((1, 2, 3))
    assert ((flipped == images).all((1, 2, 3)) ^ mirrored).all() and 16 < mirrored.sum() < 48
    moved = augment.random_crop(images, 3)
    for before, after in zip(images, moved, strict=True):
        padded = nn.functional.pad(before, [3] * 4, value=-1.0)
        assert any(torch.equal(after, padded[:, y : y + 16, x : x + 16]) for y in range(7) for x in range(7))
    assert torch.equal(augment.random_crop(images, 0), images)


def test_erasing_takes_a_rectangle_of_the_size_it_says():
    images = torch.zeros(400, 3, 32, 32)
    gone = (augment.random_erasing(images, p=0.5, area=(0.1, 0.3)) != 0).all(1)
    share = gone.float().mean((1, 2))
    assert 150 < (share > 0).sum() < 250
    assert share[share > 0].min() > 0.05 and share.max() < 0.36
    for mask in gone[share > 0]:
        assert mask.sum() == mask.any(0).sum() * mask.any(1).sum()  # a full rectangle


def test_mixup_and_cutmix_mix_targets_as_they_mix_pixels():
    """Image i is constant i: so the mean color says which share came from whom, and the target must say the same."""
    count = 16
    images = torch.arange(count).float()[:, None, None, None].expand(-1, 3, 32, 32).contiguous()
    for mix in (augment.mixup, augment.cutmix):
        for _ in range(20):
            mixed, targets = mix(images, torch.eye(count))
            torch.testing.assert_close(targets.sum(1), torch.ones(count))
            torch.testing.assert_close(
                targets @ torch.arange(count).float(), mixed.mean((1, 2, 3)), atol=1e-4, rtol=1e-4
            )
    cut, _ = augment.cutmix(images, torch.eye(count))
    assert all(len(image.unique()) <= 2 for image in cut)  # pasted, not blended
    with pytest.raises(ValueError, match="alpha=0"):
        augment.mixup(images, torch.eye(count), alpha=0)


def test_the_share_of_mixup_follows_the_beta_distribution():
    shares = torch.stack([augment._share(0.8, torch.zeros(1)) for _ in range(4000)])
    assert abs(shares.mean() - 0.5) < 0.03
    assert abs(shares.var() - 1 / (4 * (2 * 0.8 + 1))) < 0.01  # of Beta(a, a)


@pytest.mark.parametrize("name", augment.OPERATIONS)
def test_an_operation_does_nothing_at_strength_zero_and_keeps_colors_in_range(name: str):
    images, strength = ramps(), torch.ones(64, 1, 1, 1)
    operation = augment.OPERATIONS[name]
    if name not in ("autocontrast", "equalize"):
        torch.testing.assert_close(operation(images, 0 * strength), images, atol=1 / 127, rtol=0)
    for sign in (-1, 1):
        out = operation(images, sign * strength)
        assert out.shape == images.shape and out.abs().max() <= 1 + 1e-5
        if name != "identity":
            assert (out - images).abs().mean() > 0.001


def test_operations_do_what_their_names_say():
    images, ones = ramps(), torch.ones(64, 1, 1, 1)
    operation = augment.OPERATIONS
    torch.testing.assert_close(operation["brightness"](images, -ones) + 1, 0.1 * (images + 1))
    torch.testing.assert_close(operation["solarize"](images, ones)[images > 0], -images[images > 0])
    gray = operation["color"](images, -ones)
    assert gray.std(1).mean() < 0.2 * images.std(1).mean()
    flat = operation["contrast"](images, -ones)
    assert (flat.std((1, 2, 3)) < 0.2 * images.std((1, 2, 3))).all()
    wide = operation["autocontrast"](0.3 * images, ones)
    torch.testing.assert_close(wide.amax((2, 3)), torch.ones(64, 3))
    torch.testing.assert_close(wide.amin((2, 3)), -torch.ones(64, 3))
    equal = operation["equalize"](images**3, ones)
    assert abs(((equal + 1) / 2).mean() - 0.5) < 0.05  # uniform
    assert operation["posterize"](images, ones).mul(127.5).round().unique().numel() <= 17
    # a quarter turn of three times 30 degrees is a quarter turn, up to blur and the corners
    turned = images
    for _ in range(3):
        turned = operation["rotate"](turned, ones)
    inner = (slice(None), slice(None), slice(6, 10), slice(6, 10))
    quarter = min((torch.rot90(images, k, (-2, -1)) - turned)[inner].abs().max().item() for k in (1, 3))
    assert quarter < 0.05
    side = 20  # shift by 0.45 of the side: nine pixels
    step = torch.linspace(-0.8, 0.8, side).expand(1, 3, side, side).contiguous()
    shifted = operation["translate-x"](step, ones[:1])
    torch.testing.assert_close(shifted[..., : side - 9], step[..., 9:])


def test_rand_augment_draws_for_each_image_and_repeats_with_the_generator():
    images = ramps()
    torch.manual_seed(3)
    first = augment.rand_augment(images)
    torch.manual_seed(3)
    assert torch.equal(first, augment.rand_augment(images))
    changed = (first != images).flatten(1).any(1).sum()
    assert 40 < changed <= 64
    assert torch.equal(augment.rand_augment(images, operations=0), images)
    with pytest.raises(ValueError, match="magnitude=11"):
        augment.rand_augment(images, magnitude=11)


def test_a_recipe_without_arguments_is_plain_training():
    images, labels = ramps(), torch.arange(64) % 10
    same, targets = Recipe()(images, labels, 10)
    assert torch.equal(same, images) and torch.equal(targets.argmax(1), labels) and targets.max() == 1
    _, smooth = Recipe(smoothing=0.1)(images, labels, 10)
    torch.testing.assert_close(smooth.max(1).values, torch.full((64,), 0.91))
    torch.testing.assert_close(smooth.sum(1), torch.ones(64))
    _, mixed = Recipe(mixup=0.8, cutmix=1.0, crop=2, flip=True, operations=2, erasing=0.5)(images, labels, 10)
    torch.testing.assert_close(mixed.sum(1), torch.ones(64))


# --- the harness ------------------------------------------------------------------------------------------------------


class Linear(nn.Sequential):
    def __init__(self, side: int = 24, classes: int = 10) -> None:
        super().__init__(nn.Flatten(), nn.Linear(3 * side * side, classes))


def test_macs_are_those_of_a_calculation_by_hand():
    assert measures.macs(Linear(), (3, 24, 24)) == 3 * 24 * 24 * 10

    class Attends(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            x = image.flatten(2).transpose(1, 2)[:, None]  # (1, 1, 64, 3)
            return attention(x, x, x)

    assert measures.macs(Attends(), (3, 8, 8)) == 2 * 64 * 64 * 3  # queries with keys, weights with values


def test_accuracy_and_contest_on_a_task_that_can_be_solved():
    labels = torch.arange(200) % 4
    images = torch.zeros(200, 3, 8, 8, dtype=torch.uint8)
    images[torch.arange(200), 0, labels, 0] = 255
    task = compare.Task("marks", (images, labels), (images, labels), 4)
    budget = compare.Budget(steps=60, batch_size=50, lr=1e-2)
    run = tf.parameters(profile="quick", seed=0)
    make = {"a": lambda: Linear(8, 4), "b": lambda: Linear(8, 4)}
    a, b = compare.contest(make, task, budget, run=run, progress=False)
    assert a.accuracy == b.accuracy == 100.0  # equal beginnings and batches: equal ends
    assert a.parameters == 3 * 64 * 4 + 4 and a.macs == 3 * 64 * 4 and a.images_per_second > 100
    with pytest.raises(ValueError, match=r"parameters differ by more than 10%.*'small'"):
        compare.contest(make | {"small": lambda: Linear(8, 3)}, task, budget, run=run)


def test_the_league_is_digits_or_as_many_photographs_as_asked_for(monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr(compare, "cifar10", lambda *args, **options: asked.append((args, options)))
    quick, colab = (tf.parameters(profile=profile, seed=3) for profile in ("quick", "colab"))
    few = compare.league(quick, 50)
    assert few.name == "digits, 50 images" and len(few.train[1]) == 50 and len(few.test[1]) == 797
    assert compare.league(colab, 5000).name == "cifar10, 5000 images" and compare.league(colab).name == "cifar10"
    assert asked == [(("train", 5000), {"seed": 3}), (("test",), {}), (("train", None), {"seed": 3}), (("test",), {})]


def test_subsets_are_nested_and_named():
    task = compare.Task("digits", sets.digits("train"), sets.digits("test"), 10)
    small, large = (compare.subset(task, n, seed=1) for n in (50, 200))
    assert torch.equal(small.train[0], large.train[0][:50]) and torch.equal(small.test[0], task.test[0])
    assert small.name == "digits, 50 images" and compare.subset(task, 1000, seed=1).name == "digits"
    assert not torch.equal(small.train[1], compare.subset(task, 50, seed=2).train[1])
    with pytest.raises(ValueError, match="count=1001"):
        compare.subset(task, 1001, seed=0)


def test_recorded_results_come_back_by_task(tmp_path: Path):
    row = {"chapter": "vit", **asdict(compare.Result("digits", "ViT", 0, "quick", 90.0, 10, 20, 30.0))}
    (tmp_path / "vit.json").write_text(
        json.dumps([row | {"provenance": {}}, row | {"task": "other", "provenance": {}}])
    )
    assert compare.recorded("digits", tmp_path) == [row]
    assert compare.recorded("digits", tmp_path / "none") == []


def test_recorded_results_of_a_chapter_are_one_row_for_each_model(tmp_path: Path):
    results = [
        compare.Result("digits", model, seed, "quick", 90.0 + seed, 10, 20, 30.0)
        for model, seed in (("ViT", 1), ("ViT", 0), ("CNN", 0))
    ]
    for chapter in ("vit", "deit"):
        rows = [{"chapter": chapter, **asdict(result), "provenance": {}} for result in results]
        (tmp_path / f"{chapter}.json").write_text(json.dumps(rows[: 3 if chapter == "vit" else 1]))
    assert [tuple(row.values()) for row in compare.recorded_by_model("digits", "vit", tmp_path)] == [
        ("ViT", "90.0, 91.0", "0, 1", "quick", 10),
        ("CNN", "90.0", "0", "quick", 10),
    ]
    assert len(compare.recorded_by_model("digits", "deit", tmp_path)) == 1
    assert compare.recorded_by_model("other", "vit", tmp_path) == []


def test_the_frontier_holds_what_nothing_beats():
    points = [{"c": c, "accuracy": a} for c, a in ((1, 50), (2, 40), (2, 60), (3, 60), (4, 90))]
    assert [(p["c"], p["accuracy"]) for p in frontier(points, "c")] == [(1, 50), (2, 60), (4, 90)]
    assert [(p["c"], p["accuracy"]) for p in frontier(points, "c", most=True)] == [(4, 90)]


def test_pareto_refuses_to_mix_tasks_and_needs_alt_text():
    row = {"chapter": "vit", **asdict(compare.Result("digits", "ViT", 0, "quick", 90.0, 10, 20, 30.0))}
    show.pareto([row, row | {"model": "CNN", "accuracy": 80.0}], alt="Two points.")
    with pytest.raises(ValueError, match="different tasks"):
        show.pareto([row, row | {"task": "cifar10"}], alt="Two points.")
    with pytest.raises(ValueError, match="lacks macs"):
        show.pareto([{k: v for k, v in row.items() if k != "macs"}], alt="One point.")
    with pytest.raises(ValueError, match="alt"):
        show.pareto([row], alt=" ")


def test_activation_bytes_count_what_the_backward_pass_needs_once():
    linear = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Sigmoid())  # keeps its input (12) and its output (5)
    assert measures.activation_bytes(linear, (3, 2, 2)) == 4 * (12 + 5)
    shared = nn.Sequential(nn.Flatten(), Twice(nn.Linear(12, 5), nn.Linear(12, 5)))  # both keep the same input
    assert measures.activation_bytes(shared, (3, 2, 2)) == 4 * 12


class Twice(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers[0](x) + self.layers[1](x)


def test_in_a_larger_run_a_killed_training_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("TFORMER_CHECKPOINTS", str(tmp_path))
    images = torch.randint(0, 256, (8, 3, 4, 4), dtype=torch.uint8)
    task = compare.Task("tiny", (images, torch.arange(8) % 2), (images, torch.arange(8) % 2), 2)
    histories = []
    for _ in range(2):  # the second run finds that the first one ended
        tf.parameters(profile="full", seed=0)
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
        histories.append(compare.train(model, task, compare.Budget(steps=4, batch_size=4), label="one", device="cpu"))
    assert [path.name for path in tmp_path.glob("*.pt")] == ["tiny-one-1.pt"]
    assert histories[0].seconds == histories[1].seconds  # nothing was computed again
    tf.parameters(profile="quick", seed=0)
