"""The training loop: one function, the same on a laptop, on a GPU and on several."""

import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..extras import needs
from . import checkpoints, randomness
from .averaging import MovingAverage
from .history import History
from .order import Examples, chosen, default_collation, fingerprint, pick, size
from .progress import Clock, watched
from .schedules import Schedule, constant

with needs("train"):
    from accelerate import Accelerator
    from accelerate.utils import gather_object, send_to_device
    from tqdm.auto import tqdm

PRECISIONS = ("auto", "fp32", "bf16")


def fit(
    model: nn.Module,
    examples: Examples,
    loss: Callable[[nn.Module, Any], Tensor | tuple[Tensor, dict[str, Any]]],
    *,
    steps: int,
    batch_size: int,
    lr: float = 1e-3,
    schedule: Schedule | None = None,
    betas: tuple[float, float] = (0.9, 0.98),
    eps: float = 1e-9,
    weight_decay: float = 0.0,
    optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer] | None = None,
    clip: float | None = 1.0,
    ema: float | None = None,
    seed: int = 0,
    collate: Callable[[Any], Any] | None = None,
    checkpoint: Path | str | None = None,
    checkpoint_every: int | None = None,
    keep_last: int = 0,
    evaluate: Callable[[nn.Module, int], dict[str, Any]] | None = None,
    evaluate_every: int | None = None,
    device: torch.device | str | None = None,
    precision: str = "auto",
    progress: bool = True,
    label: str = "",
) -> History:
    """Trains a model, with AdamW if nothing else is said, for a number of steps and leaves it in eval mode.

    The result depends on the model, the examples and the arguments alone: `fit` draws from generators of its own,
    seeded by `seed`, and leaves the caller's as they were. Under `torchrun` (on GPUs also `accelerate launch`) every
    process takes its share of each batch and the gradients are averaged: `loss` must be a mean and call `model(...)`.

    Args:
        examples: a tensor or a tuple of tensors with examples along axis 0, or a sequence or Dataset of examples.
        loss: called as loss(model, batch) -> a scalar, or (scalar, dict of further numbers to record).
        steps, batch_size: number of updates, and examples in each over all processes. Batches are cut from one
            endless stream of shuffled passes.
        lr, schedule: the rate at step s (counted from 1) is lr * schedule(s).
        weight_decay: on matrices, not on biases and norms.  clip: largest norm of the gradient, or None.
        optimizer: makes one of groups of parameters that have their "weight_decay" (and no rate: it is set at each
            step), in the place of AdamW: `partial(torch.optim.SGD, momentum=0.9)`.
        ema: decay of a moving average of the weights, found in History.ema.
        collate: makes a batch of the chosen examples: of the indexed tensors, or of a list of examples.
        checkpoint: file to continue from if it is there; written every checkpoint_every steps (default: ten times).
        keep_last: so many states, taken every checkpoint_every steps and at the end, are kept for averaging.
        evaluate: called as evaluate(model, step) in eval mode without gradients, every evaluate_every steps and at
            the end, in each process; the dict it returns goes to History.metrics as JSON would hold it.
        device: default: the best there is.  precision: "auto" is bf16 on GPUs that have it, else fp32.
        progress: a bar with the label, where somebody is there to see it.

    Raises:
        ValueError: an argument that cannot be honored.
        CheckpointError: the checkpoint is damaged, or was written with other arguments.
        FloatingPointError: the loss became NaN or infinite.
    """
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    device = torch.device(device) if device is not None else accelerator.device
    rank, processes, count = accelerator.process_index, accelerator.num_processes, size(examples)
    started = int(os.environ.get("WORLD_SIZE", processes))  # training apart in silence would be the alternative
    for wrong, reason in (
        (min(count, steps, batch_size) < 1, f"nothing to do: {count} examples, steps={steps}, batch_size={batch_size}"),
        (started != processes, f"WORLD_SIZE={started}, but joined {processes}; for CPUs set ACCELERATE_USE_CPU=1"),
        (batch_size % processes, f"batch_size={batch_size} cannot be split over {processes} processes"),
        (processes > 1 and device.type != accelerator.device.type, f"device={device} is not each process's own"),
        (precision not in PRECISIONS, f"precision={precision!r} is not one of {', '.join(PRECISIONS)}"),
        (keep_last and not checkpoint_every, f"keep_last={keep_last} needs checkpoint_every"),
        (checkpoint_every and not (checkpoint or keep_last), "checkpoint_every needs checkpoint or keep_last"),
        (evaluate_every and not evaluate, f"evaluate_every={evaluate_every} needs evaluate"),
        (clip is not None and not clip > 0, f"clip={clip} would leave no gradient; None leaves it as it is"),
        (not weight_decay >= 0, f"weight_decay={weight_decay} is negative"),
        (not lr >= 0, f"lr={lr} is negative"),
        (ema is not None and not 0 <= ema < 1, f"ema={ema} is not in [0, 1)"),
    ):
        if wrong:
            raise ValueError(reason)
    bf16 = precision == "bf16" or (precision == "auto" and device.type == "cuda" and _computes_bf16(device))
    schedule, collate = schedule or constant(), collate or default_collation(examples)
    checkpoint = Path(checkpoint).expanduser() if checkpoint else None
    if checkpoint and checkpoint.is_dir():
        raise ValueError(f"checkpoint={checkpoint} is a folder; name a file in it")
    checkpoint_every = checkpoint_every or math.ceil(steps / 10)
    settings = checkpoints.plain({
        "steps": steps, "batch_size": batch_size, "examples": count, "lr": lr, "betas": betas, "eps": eps, "clip": clip,
        "schedule": [schedule(step) for step in (1, math.ceil(steps / 2), steps)], "weight_decay": weight_decay,
        "ema": ema, "seed": seed, "device": device.type, "bf16": bf16, "processes": processes,
        "keep_last": [keep_last, checkpoint_every] if keep_last else 0,
        "data": fingerprint(examples),
    })  # fmt: skip

    called, model = model, getattr(model, "_orig_mod", model)  # of torch.compile: the same weights, their own names
    called.to(device).train()
    parallel = accelerator.prepare_model(called, device_placement=False)  # averages gradients over processes
    parameters = [p for p in model.parameters() if p.requires_grad]
    make = optimizer or partial(torch.optim.AdamW, lr=lr, betas=betas, eps=eps, fused=device.type in ("cpu", "cuda"))
    stepper = make(_groups(parameters, weight_decay))
    settings["optimizer"] = _described(stepper) if optimizer else "AdamW"
    average = MovingAverage(model, ema) if ema is not None else None
    history = History()

    with randomness.undisturbed(device):
        randomness.seed_all(seed + 1_000_003 * rank)
        if checkpoint and checkpoint.exists():
            content = checkpoints.load(checkpoint)
            checkpoints.check(checkpoint, content, settings, model)
            model.load_state_dict(content["model"])
            stepper.load_state_dict(content["optimizer"])
            if average:
                average.load_state_dict(content["ema"])
            randomness.set_state(content["random"][rank], device)
            history = History(**content["history"])
        done = len(history.steps)
        unread: list[Tensor] = []
        names: list[str] = []
        clock = Clock(history.seconds[-1], history.cpu_seconds[-1]) if done else Clock()
        hidden = rank > 0 or not progress or not watched()
        bar = tqdm(range(done + 1, steps + 1), label, initial=done, total=steps, disable=hidden)
        for step in bar:
            evaluating = evaluate is not None and _due(step, evaluate_every or steps, steps)
            saving = bool(checkpoint or keep_last) and _due(step, checkpoint_every, steps)
            with clock:
                for group in stepper.param_groups:
                    group["lr"] = float(lr * schedule(step))
                share = chosen(count, batch_size, step, seed)[rank::processes]
                batch = send_to_device(collate(pick(examples, share)), device)
                with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                    result = loss(parallel, batch)
                value, parts = result if isinstance(result, tuple) else (result, {})
                if unread and list(parts) != names:  # a loss may return other parts at times
                    history.add(step - 1, names, accelerator.reduce(torch.stack(unread), "mean"))
                    unread.clear()
                names = list(parts)
                unread.append(torch.stack([torch.as_tensor(v).detach().to(value) for v in (value, *parts.values())]))
                if device.type == "cpu" or len(unread) == 16 or evaluating or saving:  # a GPU waits when it is read
                    history.add(step, names, accelerator.reduce(torch.stack(unread), "mean"))
                    unread.clear()
                value.backward()
                if clip is not None:
                    nn.utils.clip_grad_norm_(parameters, clip)
                stepper.step()
                stepper.zero_grad()
                if average:
                    average.update()
                if device.type != "cpu" and (evaluating or saving):
                    torch.accelerator.synchronize(device)
            history.seconds.append(clock.seconds)
            history.cpu_seconds.append(clock.cpu_seconds)
            if not hidden:
                bar.set_postfix(loss=history.losses[-1] if history.losses else math.nan, refresh=False)
            if evaluating and evaluate:
                with randomness.undisturbed(device), torch.no_grad():
                    metrics = evaluate(model.eval(), step)
                model.train()
                history.metrics.append({"step": step, "seconds": clock.seconds, **checkpoints.plain(metrics)})
            if saving and keep_last:
                state = {name: tensor.to("cpu", copy=True) for name, tensor in model.state_dict().items()}
                history.kept = [*history.kept, state][-keep_last:]
            if saving and checkpoint:
                states = gather_object([randomness.get_state(device)])
                if rank == 0:
                    content = {"settings": settings, "history": vars(history), "random": states}
                    content |= {"model": model.state_dict(), "optimizer": stepper.state_dict()}
                    checkpoints.save(checkpoint, content | {"ema": average and average.state_dict()})
                accelerator.wait_for_everyone()
    history.ema = average.state_dict() if average else None
    model.eval()
    return history


def _groups(parameters: list[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Parameters with weight decay, and biases and norms without. Fewer groups are faster, so one where it can be."""
    decayed = [p for p in parameters if p.ndim >= 2 or not weight_decay]
    spared = [p for p in parameters if p.ndim < 2 and weight_decay]
    groups = ({"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0})
    return [group for group in groups if group["params"]]


def _described(optimizer: torch.optim.Optimizer) -> str:
    """An optimizer by what it is and was made with, for a function that makes one has another address in each run."""
    settings = sorted(optimizer.defaults.items())
    numbers = {name: value for name, value in settings if isinstance(value, int | float | tuple)}
    return f"{type(optimizer).__name__} {numbers}"


def _due(step: int, every: int, steps: int) -> bool:
    return step % every == 0 or step == steps


def _computes_bf16(device: torch.device) -> bool:
    """Whether the GPU has units for bf16 (Ampere and later); on others torch emulates it slowly."""
    return torch.cuda.get_device_capability(device) >= (8, 0)
