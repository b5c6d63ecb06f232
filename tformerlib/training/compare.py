"""Image classifiers side by side on equal terms: the same data, steps and parameters; accuracy and what it costs.

task = compare.league(run)
results = compare.contest({"ViT": make_vit, "CNN": make_cnn}, task, budget, seed=0)
compare.keep(results, chapter="vit")             # for data/results/comparisons, and for later chapters' figures
show.pareto([*compare.recorded(task.name), *map(asdict, results)], ...)
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.images import Images, as_floats, cifar10, digits
from ..measures import images_per_second, macs, parameter_count
from ..run.profiles import Run, checkpoint
from ..run.records import emit
from .augment import Recipe
from .history import History
from .loop import fit
from .schedules import cosine

RESULTS = Path(__file__).resolve().parents[2] / "data" / "results" / "comparisons"
Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]  # (model, images, probabilities of the classes) -> loss


@dataclass(frozen=True)
class Task:
    """What all models of a comparison learn from and are tested on: images (N, 3, H, W) of bytes, and labels."""

    name: str
    train: Images
    test: Images
    classes: int

    @property
    def side(self) -> int:
        """Height and width of the images."""
        return self.train[0].shape[-1]


@dataclass(frozen=True)
class Budget:
    """What all models of a comparison may spend. Linear warm-up over a tenth of the steps, then half a cosine."""

    steps: int
    batch_size: int = 50
    lr: float = 1e-3
    weight_decay: float = 0.05
    recipe: Recipe = field(default_factory=Recipe)


@dataclass(frozen=True)
class Result:
    """A model's accuracy on the test set, in percent, and its price."""

    task: str
    model: str
    seed: int
    profile: str
    accuracy: float
    parameters: int
    macs: int  # multiplications with additions for one image, norms and activations left out
    images_per_second: float  # forward, in batches of 64, on the device of the run


def league(run: Run, count: int | None = None) -> Task:
    """The task on which chapters compare backbones: digits in `quick`, CIFAR-10 in the larger profiles.

    The digits fill their 16 x 16 pixels: where they are small and moved about, as `digits` has them by default, plain
    Transformers need thousands of steps before they learn anything that a comparison could show.

    Args:
        count: so many of the training images, chosen by the run's seed; all by default.
    """
    chosen = "" if count is None else f", {count} images"
    if run.profile == "quick":
        easy: Any = {"canvas": 16, "size": 16, "noise": 0.1}
        return Task("digits" + chosen, digits("train", count, **easy, seed=run.seed), digits("test", **easy), 10)
    return Task("cifar10" + chosen, cifar10("train", count, seed=run.seed), cifar10("test"), 10)


def subset(task: Task, count: int, *, seed: int) -> Task:
    """The task with so many of its training images, chosen by the seed; smaller choices are part of larger ones.

    Raises:
        ValueError: a count that the task does not have.
    """
    images, labels = task.train
    if not 0 < count <= len(labels):
        raise ValueError(f"count={count}: the task {task.name!r} has {len(labels)} training images")
    rows = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[:count]
    name = task.name if count == len(labels) else f"{task.name}, {count} images"
    return Task(name, (images[rows], labels[rows]), task.test, task.classes)


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor, *, batch: int = 500) -> float:
    """Percent of images (N, 3, H, W) of bytes whose highest logit is their label."""
    device, training = next(model.parameters()).device, model.training
    model.eval()
    right = sum(
        (model(as_floats(x.to(device))).argmax(-1) == y.to(device)).sum().item()
        for x, y in zip(images.split(batch), labels.split(batch), strict=True)
    )
    model.train(training)
    return 100 * right / len(labels)


def soft_cross_entropy(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """The usual loss of a classifier: cross-entropy against probabilities (B, classes)."""
    return F.cross_entropy(model(images), targets)


def train(
    model: nn.Module,
    task: Task,
    budget: Budget,
    *,
    seed: int = 0,
    loss: Loss = soft_cross_entropy,
    evaluate_every: int | None = None,
    **options: Any,
) -> History:
    """Trains a classifier; the test accuracy is in History.metrics, at the end and every `evaluate_every` steps.

    `options` go to `fit`. The loss sees images that the budget's recipe has augmented. In a chapter's larger profiles
    the training leaves a checkpoint of its label's name, and a run that was killed goes on from it.
    """
    options = {"checkpoint": checkpoint(f"{task.name} {options.get('label', '')}")} | options

    def step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return loss(model, *budget.recipe(as_floats(batch[0]), batch[1], task.classes))

    return fit(
        model, task.train, step, steps=budget.steps, batch_size=budget.batch_size, lr=budget.lr, eps=1e-8,
        betas=(0.9, 0.999), schedule=cosine(budget.steps, budget.steps // 10), weight_decay=budget.weight_decay,
        seed=seed, evaluate=lambda model, _: {"accuracy": accuracy(model, *task.test)}, evaluate_every=evaluate_every,
        **options,
    )  # fmt: skip


def weigh(name: str, model: nn.Module, task: Task, *, profile: str, seed: int) -> Result:
    """The result of a trained model."""
    return Result(
        task=task.name, model=name, seed=seed, profile=profile, accuracy=accuracy(model, *task.test),
        parameters=parameter_count(model), macs=macs(model, task.train[0].shape[1:]),
        images_per_second=images_per_second(model, task.side),
    )  # fmt: skip


def contest(
    models: Mapping[str, Callable[[], nn.Module]],
    task: Task,
    budget: Budget,
    *,
    run: Run,
    tolerance: float = 0.1,
    **options: Any,
) -> list[Result]:
    """Trains each model on the task within the budget, from its own random start, and says what came out.

    Args:
        tolerance: by how much the parameter counts may differ, as a share of the smallest.  options: for `train`.

    Raises:
        ValueError: models that differ more than that: a comparison would not be one.
    """
    made = {}
    for name, make in models.items():
        torch.manual_seed(run.seed)
        made[name] = make()
    counts = {name: parameter_count(model) for name, model in made.items()}
    if max(counts.values()) > (1 + tolerance) * min(counts.values()):
        raise ValueError(f"parameters differ by more than {tolerance:.0%}: {counts}")
    for name, model in made.items():
        train(model, task, budget, seed=run.seed, device=run.device, label=name, **options)
    return [weigh(name, model, task, profile=run.profile, seed=run.seed) for name, model in made.items()]


def keep(results: Sequence[Result], *, chapter: str) -> None:
    """Leaves the results in the notebook, from where the book's tools collect them for data/results/comparisons."""
    for result in results:
        line = (
            f"{result.model}: {result.accuracy:.1f} %, {result.parameters:,} parameters, {result.macs:,} multiply-adds"
        )
        emit("comparison", {"chapter": chapter, **asdict(result)}, text=line)


def recorded(task: str, folder: Path | None = None) -> list[dict[str, Any]]:
    """What chapters have recorded on a task: rows with the fields of a Result and the chapter; none without a clone."""
    rows = [row for path in sorted((folder or RESULTS).glob("*.json")) for row in json.loads(path.read_text("utf-8"))]
    return [{k: v for k, v in row.items() if k != "provenance"} for row in rows if row["task"] == task]


def recorded_by_model(task: str, chapter: str, folder: Path | None = None) -> list[dict[str, Any]]:
    """What one chapter has recorded on a task, as rows of a table: each model's accuracies by seed, and its size."""
    rows = [row for row in recorded(task, folder) if row["chapter"] == chapter]
    rows.sort(key=lambda row: row["seed"])
    groups = dict.fromkeys((row["model"], row["profile"]) for row in rows)
    found = [[row for row in rows if (row["model"], row["profile"]) == group] for group in groups]
    return [
        {
            "model": seeds[0]["model"],
            "accuracies, %": ", ".join(f"{row['accuracy']:.1f}" for row in seeds),
            "seeds": ", ".join(str(row["seed"]) for row in seeds),
            "profile": seeds[0]["profile"],
            "parameters": seeds[0]["parameters"],
        }
        for seeds in found
    ]
