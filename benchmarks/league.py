"""The book's backbones side by side: the same images, steps and batches, and parameters within a tenth of each other.

    python -m benchmarks.league                       # CIFAR-10, seed 0; goes on where it stopped
    python -m benchmarks.league ViT Swin --seeds 3 --minutes 60
    python -m benchmarks.league --speed               # throughput of all, in turn, on a quiet machine

Each model is trained from scratch by tformerlib.training.compare; DeiT, whose network is ViT's, also learns what the
ResNet of its seed says. What comes out goes to benchmarks/results/league.json, from which the book's page *The
backbones side by side* is made. CIFAR-10 comes from TFORMER_DATA or the hub.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import tformerlib as tf
from tformerlib import measures
from tformerlib.layers.convs import basic_block
from tformerlib.objectives import distillation
from tformerlib.training import augment, compare
from tformerlib.training.history import History

from . import timing
from .attention import write

RESULTS = Path(__file__).with_name("results") / "league.json"
CHECKPOINTS = timing.ROOT / "build" / "checkpoints" / "league"
BUDGET = compare.Budget(steps=500, batch_size=64, lr=1e-3, recipe=augment.Recipe(crop=4, flip=True))
TOLERANCE = 0.1  # by how much parameter counts may differ, as a share of the smallest
SIDE = 32


def of(name: str, **overrides: Any) -> Callable[[], nn.Module]:
    """A registered model, made small."""
    return partial(tf.create_model, name, classes=10, **overrides)


# name -> the chapter that explains it, or will, and a function that makes it: for images of 32 x 32, with about 250,000
# parameters
FLAT: dict[str, Any] = {"image": SIDE, "patch": 4, "dim": 64, "depth": 5, "heads": 4}
WINDOWS: dict[str, Any] = {"image": SIDE, "patch": 2, "dim": 32, "heads": (2, 4), "window": 4, "drop_path": 0.0}
MODELS: Mapping[str, tuple[str, Callable[[], nn.Module]]] = {
    "ResNet": (
        "vit",
        of("resnet18", block=basic_block, depths=(1, 1, 1), dims=(32, 64, 108), stem=32, small=True),
    ),
    "ViT": ("vit", of("vit_tiny_patch16", **FLAT)),
    "DeiT": ("deit", of("deit_tiny_distilled", drop_path=0.0, **FLAT)),
    "PVT": (
        "swin",
        of("pvt_tiny", image=SIDE, patch=2, dims=(28, 56, 84), depths=(1, 2, 1), heads=(1, 2, 3), expansions=(4, 4, 4),
           reductions=(4, 2, 1), drop_path=0.0),
    ),
    "Swin": ("swin", of("swin_tiny", depths=(3, 4), **WINDOWS)),
    "Swin V2": ("swin", of("swinv2_tiny_window8", depths=(2, 4), **WINDOWS)),
    "ViT_C": ("conv_stems", of("vit_c_1gf", convs=(16, 32), strides=(2, 2), mlp=4.0, **FLAT)),
    "CCT": (
        "conv_stems",
        of("cct_7_3x1_32", layers=2, dim=64, depth=6, heads=4, attention_dropout=0.0, drop_path=0.0),
    ),
    "CeiT": ("conv_stems", of("ceit_tiny", **FLAT | {"dim": 60, "depth": 4})),
    "CvT": (
        "conv_attention",
        of("cvt_13", dims=(32, 64), depths=(2, 4), heads=(1, 2), patches=(3, 3), strides=(2, 2), paddings=(1, 1),
           drop_path=0.0),
    ),
    "ConViT": ("conv_attention", of("convit_tiny", free=1, drop_path=0.0, **FLAT)),
    "CMT": (
        "conv_attention",
        of("cmt_ti", image=SIDE, stem=16, dims=(32, 64), depths=(2, 4), heads=(1, 2), reductions=(2, 1), wide=128,
           expansion=3.6, dropout=0.0, drop_path=0.0),
    ),
    "CoAtNet": (
        "conv_attention",
        of("coatnet_0_224", image=SIDE, stem=16, dims=(32, 64), depths=(1, 5), layout="CT", head_dim=16,
           pre_logits=False, drop_path=0.0),
    ),
    "UniFormer": (
        "conv_attention",
        of("uniformer_small", patch=2, dims=(24, 48, 80), depths=(1, 2, 2), layout="LGG", head_dim=16, drop_path=0.0),
    ),
    "ConvMixer": ("conv_mixers", of("convmixer_256_8", patch=4, dim=156)),
}  # fmt: skip
TEACHERS = {"DeiT": "ResNet"}  # who learns from whom


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help=f"default: {', '.join(MODELS)}")
    parser.add_argument("--seeds", type=int, default=1, help="of each model (default 1)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no training after this time")
    parser.add_argument("--speed", action="store_true", help="only measure throughput, on a quiet machine")
    parser.add_argument("--sizes", action="store_true", help="only say how large the models are")
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    if unknown := set(given.models) - set(MODELS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(MODELS)}")
    check(sizes())
    if given.sizes:
        for name, size in sizes().items():
            print(f"{name}: {size['parameters']:,} parameters, {size['macs']:,} multiply-adds, "
                  f"{size['activations']:,} bytes kept for the backward pass of an image")  # fmt: skip
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    record = load(given.output)
    if given.speed:
        record["speed"] = speed(device)
        write(given.output, record)
        return
    run(given.models or list(MODELS), range(given.seeds), record, given.output, device, given.minutes)


def sizes() -> dict[str, dict[str, int]]:
    """What each model costs, whatever machine it runs on."""
    found = {}
    for name, (_, make) in MODELS.items():
        model, image = make(), (3, SIDE, SIDE)
        found[name] = {
            "parameters": measures.parameter_count(model),
            "macs": measures.macs(model, image),
            "activations": measures.activation_bytes(model, image),
        }
    return found


def check(sizes: Mapping[str, Mapping[str, int]]) -> None:
    """ValueError where parameter counts differ too much for a comparison."""
    counts = {name: size["parameters"] for name, size in sizes.items()}
    if max(counts.values()) > (1 + TOLERANCE) * min(counts.values()):
        raise ValueError(f"parameters differ by more than {TOLERANCE:.0%}: {counts}")


def load(output: Path) -> dict[str, Any]:
    """What is recorded: the budget, the models' sizes and scores, and their speed."""
    budget = json.loads(json.dumps(asdict(BUDGET)))
    empty: dict[str, Any] = {"task": "cifar10", "budget": budget, "sizes": {}, "scores": [], "speed": {}}
    if not output.exists():
        return empty
    record: dict[str, Any] = json.loads(output.read_text())
    if record["budget"] != budget:
        raise SystemExit(f"{output} was measured with the budget {record['budget']}, not {budget}: delete it first")
    return record


def run(
    names: list[str], seeds: range, record: dict[str, Any], output: Path, device: torch.device, minutes: float
) -> None:
    """Trains what the record does not hold in these sizes yet, and writes it after each."""
    start, task, made = time.monotonic(), league(), sizes()
    for seed, name in ((seed, name) for seed in seeds for name in names):
        if record["sizes"].get(name) != made[name]:  # another model of that name
            record["scores"] = [row for row in record["scores"] if row["model"] != name]
            record["sizes"][name] = made[name]
        if any((row["model"], row["seed"]) == (name, seed) for row in record["scores"]):
            continue
        if time.monotonic() - start > 60 * minutes:
            print(f"{minutes:g} minutes are over; the same command goes on with {name}, seed {seed}")
            return
        options: dict[str, Any] = {"seed": seed, "device": device}
        if name in TEACHERS:
            options["loss"] = taught_by(train(TEACHERS[name], task, **options)[0])
        began = time.perf_counter()
        _, history = train(name, task, **options)
        about = {"device": timing.device_name(device), "torch": torch.__version__, "threads": torch.get_num_threads(),
                 "seconds": round(time.perf_counter() - began, 1), **timing.now()}  # fmt: skip
        row = {"model": name, "chapter": MODELS[name][0], "seed": seed, "accuracy": history.metrics[-1]["accuracy"]}
        record["scores"].append({**row, "provenance": about})
        record["scores"].sort(key=lambda row: (list(MODELS).index(row["model"]), row["seed"]))
        write(output, record)
        if name not in TEACHERS.values():
            checkpoint(name, seed).unlink(missing_ok=True)
        print(f"{name}, seed {seed}: {row['accuracy']:.1f} %", flush=True)


def train(name: str, task: compare.Task, *, seed: int, **options: Any) -> tuple[nn.Module, History]:
    """The trained model; it goes on from its checkpoint, and what was at its end is only loaded."""
    torch.manual_seed(seed)
    model, path = MODELS[name][1](), checkpoint(name, seed)
    return model, compare.train(model, task, BUDGET, seed=seed, label=name, checkpoint=path, **options)


def checkpoint(name: str, seed: int) -> Path:
    """Where a training keeps its state; that of a teacher stays, for the students to come."""
    return CHECKPOINTS / f"{name}-{seed}.pt".lower().replace(" ", "-")


def taught_by(teacher: nn.Module) -> compare.Loss:
    """DeiT's hard distillation: the class token learns the labels, the distillation token what the teacher says."""
    teacher.eval()

    def loss(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        label, teacher_says = model(images)
        with torch.no_grad():
            advice = teacher(images)
        return distillation.hard(label, teacher_says, targets, advice)

    return loss


def league() -> compare.Task:
    """All of CIFAR-10."""
    from tformerlib.data.images import cifar10

    return compare.Task("cifar10", cifar10("train"), cifar10("test"), 10)


def speed(device: torch.device, rounds: int = 5) -> dict[str, Any]:
    """Images per second of every model's forward pass, round by round in turn: the medians."""
    models = {name: make().to(device) for name, (_, make) in MODELS.items()}
    each: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, model in models.items():
            each[name].append(measures.images_per_second(model, SIDE))
    about = {"device": timing.device_name(device), "torch": torch.__version__, "threads": torch.get_num_threads(),
             "rounds": rounds, **timing.now()}  # fmt: skip
    return {"images_per_second": {name: statistics.median(v) for name, v in each.items()}, "provenance": about}


if __name__ == "__main__":
    main()
