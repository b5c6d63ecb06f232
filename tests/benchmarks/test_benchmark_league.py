"""The league trains models of equal size on equal terms, and goes on where it stopped."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tformerlib as tf
from benchmarks import league
from tformerlib import measures
from tformerlib.training import compare

CPU = torch.device("cpu")


def tiny(width: int = 2) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 8, 8), nn.Flatten(), nn.Linear(16 * width, 10))


@pytest.fixture
def small(monkeypatch, tmp_path):
    images, labels = torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8), torch.arange(20) % 10
    task = compare.Task("noise", (images, labels), (images, labels), 10)
    monkeypatch.setattr(league, "league", lambda: task)
    monkeypatch.setattr(league, "BUDGET", compare.Budget(steps=2, batch_size=4))
    monkeypatch.setattr(league, "MODELS", {"one": ("vit", tiny), "two": ("swin", tiny)})
    monkeypatch.setattr(league, "TEACHERS", {})
    monkeypatch.setattr(league, "CHECKPOINTS", tmp_path / "checkpoints")
    return tmp_path / "league.json"


def trained(output, *names: str, seeds: int = 1) -> list[tuple[str, int]]:
    league.run(list(names), range(seeds), league.load(output), output, CPU, 1.0)
    return [(row["model"], row["seed"]) for row in json.loads(output.read_text())["scores"]]


def test_the_models_have_equal_parameters_and_make_ten_logits():
    league.check(league.sizes())
    for name, (_, make) in league.MODELS.items():
        assert make().eval()(torch.zeros(2, 3, league.SIDE, league.SIDE)).shape == (2, 10), name


def test_models_of_other_sizes_are_refused():
    with pytest.raises(ValueError, match="'b': 120"):
        league.check({"a": {"parameters": 100}, "b": {"parameters": 120}})


def test_what_is_recorded_is_not_trained_again(small, monkeypatch):
    assert trained(small, "one") == [("one", 0)]
    before = json.loads(small.read_text())["scores"][0]
    assert trained(small, "two", "one", seeds=2) == [("one", 0), ("one", 1), ("two", 0), ("two", 1)]
    assert json.loads(small.read_text())["scores"][0] == before
    assert not list(league.CHECKPOINTS.glob("*.pt"))


def test_a_student_learns_what_its_teacher_of_the_same_seed_says(small, monkeypatch):
    taught = []
    monkeypatch.setattr(league, "TEACHERS", {"two": "one"})
    monkeypatch.setattr(league, "taught_by", lambda teacher: taught.append(teacher) or compare.soft_cross_entropy)
    assert trained(small, "two", "one", seeds=2) == [("one", 0), ("one", 1), ("two", 0), ("two", 1)]
    for seed, teacher in enumerate(taught):  # kept, and only loaded when its own score was due
        state = torch.load(league.checkpoint("one", seed), weights_only=False)["model"]
        assert all(torch.equal(value, teacher.state_dict()[key]) for key, value in state.items())
    assert not torch.equal(taught[0][0].weight, taught[1][0].weight)


def test_the_students_loss_is_half_labels_half_the_teachers_decision():
    images, targets = torch.randn(5, 3, 32, 32), torch.eye(10)[:5]
    student = tf.create_model("deit_tiny_distilled", classes=10, drop_path=0.0, **league.FLAT).train()
    teacher = tiny()
    label, says = student(images)
    expected = (F.cross_entropy(label, targets.argmax(-1)) + F.cross_entropy(says, teacher(images).argmax(-1))) / 2
    torch.testing.assert_close(league.taught_by(teacher)(student, images, targets), expected)


def test_a_model_of_another_size_loses_its_scores(small, monkeypatch):
    trained(small, "one", "two", seeds=2)
    monkeypatch.setattr(league, "MODELS", {"one": ("vit", lambda: tiny(3)), "two": ("swin", tiny)})
    assert trained(small, "one") == [("one", 0), ("two", 0), ("two", 1)]


def test_another_budget_is_not_mixed_in(small, monkeypatch):
    trained(small, "one")
    monkeypatch.setattr(league, "BUDGET", compare.Budget(steps=3, batch_size=4))
    with pytest.raises(SystemExit, match="delete it first"):
        league.load(small)


def test_throughput_is_measured_for_every_model(small, monkeypatch):
    monkeypatch.setattr(measures, "images_per_second", lambda model, side: 7.0)
    assert league.speed(CPU, rounds=1)["images_per_second"] == {"one": 7.0, "two": 7.0}
