"""The benchmark of models compares equal work, and says who was faster."""

import json
import sys
import time

import pytest
import torch
from torch import nn

from benchmarks import bert, detr, gpt, hybrids, models, transformer, vit


@pytest.mark.parametrize(
    "pair",
    [
        lambda: transformer.training("chapter", batch=2, length=4),
        lambda: transformer.decoding("chapter", batch=2, length=4),
        lambda: gpt.training("chapter", batch=2, length=8, dropout=0.0),
        lambda: gpt.generation("chapter", batch=2, prompt=4, tokens=4),
        lambda: bert.training("Bert", "chapter", batch=2, length=8, dropout=0.0),
        lambda: bert.encoding("SqueezeBert", "chapter", batch=2, length=8),
        lambda: vit.training_step("vit_tiny_patch16", "vit_tiny_patch16_224", 1),
        lambda: vit.training_step("deit_tiny_distilled", "deit_tiny_distilled_patch16_224", 1),
        lambda: hybrids.training_step("ConViT", hybrids.convit_small_images, 32, 2),
        lambda: hybrids.training_step("CoAtNet", hybrids.coatnet_small_images, 32, 2),
        lambda: hybrids.training_step("ConvMixer", hybrids.convmixer_small_images, 32, 2),
        lambda: hybrids.training_step("EfficientNet", hybrids.efficientnet, 64, 2),
        *[lambda name=name: detr.small_step(name, images=2) for name in detr.KINDS],
    ],
)
def test_both_sides_do_the_same_and_can_be_run_again(pair):
    """Each pair asserts equal results before it is timed; here at sizes that take no time."""
    what, peer, ours, theirs = pair()
    assert what and peer
    for run in (ours, theirs, ours, theirs):
        run()


def test_a_ratio_below_one_means_that_ours_is_faster():
    def busy(seconds: float) -> models.Run:
        def run() -> None:
            end = time.process_time() + seconds
            while time.process_time() < end:
                pass

        return run

    found = models.compare(busy(0.002), busy(0.02), rounds=5)
    assert found["ratio"] < 0.5 and found["min_ratio"] < 0.5 and found["ours_cpu_s"] < found["theirs_cpu_s"]


def test_a_step_trains_the_model_that_it_times():
    torch.manual_seed(0)
    model, x = nn.Linear(3, 1), torch.randn(8, 3)
    run = models.step(model, lambda model: model(x).square().mean())
    before = model(x).square().mean().item()
    for _ in range(20):
        run()
    assert model(x).square().mean().item() < before


def test_results_are_kept_system_by_system(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "measure", lambda system, rounds, only: [{"what": system}])
    output = tmp_path / "models.json"
    threads = torch.get_num_threads()
    for system in ("gpt", "vit"):
        monkeypatch.setattr(sys, "argv", ["models", system, "--threads", str(threads), "--output", str(output)])
        models.main()
    record = json.loads(output.read_text())
    assert [record[system]["results"] for system in ("gpt", "vit")] == [[{"what": "gpt"}], [{"what": "vit"}]]
    monkeypatch.setattr(sys, "argv", ["models", "nobody"])
    with pytest.raises(SystemExit):
        models.main()
