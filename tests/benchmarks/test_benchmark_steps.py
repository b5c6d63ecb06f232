"""The benchmark of whole models compares equal models, and goes on where it stopped."""

import json

import pytest
import torch
from torch import nn

from benchmarks import steps

CPU = torch.device("cpu")


def linear(wrong: float = 0.0) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(3, 4), nn.Linear(3, 4)
    theirs.load_state_dict(ours.state_dict())
    nn.init.constant_(theirs.bias, ours.bias[0].item() + wrong)
    nn.init.constant_(ours.bias, ours.bias[0].item())
    return ours, theirs


def case(wrong: float = 0.0) -> steps.Case:
    return steps.Case("a twin", lambda: linear(wrong), lambda batch: (torch.randn(batch, 3),), 2)


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(steps.timing, "ceilings", lambda device, dtype: {"tflops": 1.0, "gbs": 1.0})
    monkeypatch.setattr(steps.timing, "clock", lambda device, budget: lambda run: steps.timing.cpu_clock(run, 0.0))


@pytest.mark.parametrize(
    "name",
    ["deit_small_distilled", *(pytest.param(name, marks=pytest.mark.slow) for name in ("bert_base", "detr_resnet50"))],
)
def test_the_models_that_are_compared_agree(name):
    chosen = steps.CASES[name]
    torch.manual_seed(0)
    models = dict(zip(("ours", "theirs"), chosen.make(), strict=True))
    steps.agree(models, chosen.inputs(1))  # raises where they do not


def test_models_that_differ_are_not_timed(tmp_path):
    with pytest.raises(ValueError, match="differ by 1"):
        steps.measure({"twin": case(1.0)}, CPU, tmp_path / "out.json", rounds=5)


def test_a_second_run_goes_on_where_the_first_one_stopped(tmp_path):
    output = tmp_path / "out.json"
    steps.measure({"first": case()}, CPU, output, rounds=5, compiled=False)
    first = json.loads(output.read_text())["cases"]["first"]
    record = steps.measure({"first": case(), "second": case()}, CPU, output, rounds=5, compiled=False)
    assert record["cases"]["first"] == first and set(record["cases"]) == {"first", "second"}
    assert set(first["ratios"]) == {"training", "inference"}
    assert first["ratios"]["training"]["median"] > 0


def test_a_step_trains_and_a_forward_pass_does_not():
    model, inputs = linear()[0], (torch.randn(8, 3),)
    before = model.weight.clone()
    steps.inference(model, inputs, compiled=False)()
    assert torch.equal(model.weight, before) and not model.training
    steps.training(model, inputs, compiled=False)()
    assert not torch.equal(model.weight, before) and model.training
