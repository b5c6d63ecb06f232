"""Whole models in their published sizes, ours beside timm's and transformers': training steps and inference.

    python -m benchmarks.steps                            # all models; goes on where it stopped
    python -m benchmarks.steps swin_tiny gpt2 --minutes 8 # begin no model after eight minutes

Both have the same weights and no dropout, and their outputs must agree in float32 before anything is timed. Then all
that is timed runs in turn, in one process: a step (forward, cross-entropy, backward, AdamW; of DETR without matching)
and a forward pass, eager and compiled, in bfloat16 by autocast where the GPU has it. Without a GPU it runs on the CPU,
which says nothing of the kernels. `benchmarks.models` times smaller models on a CPU.
"""

import argparse
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tformerlib as tf
from tformerlib.peers import prepare

from . import detr, timing
from .attention import RESULTS, precision, reason, resume, write
from .swin import swin_tiny

ALLOWED = 2e-4  # between outputs of about 1 in size, in float32
Run = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """A model and its peer: both take `inputs(examples)` and return logits (..., classes), or several of them."""

    peer: str
    make: Callable[[], tuple[nn.Module, nn.Module]]
    inputs: Callable[[int], tuple[Tensor, ...]]
    batch: int


class Output(nn.Module):
    """A model of transformers, or ours, of whose outputs one is wanted."""

    def __init__(self, model: nn.Module, choose: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model, self.choose = model, choose

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.choose(self.model, *inputs)


def images(side: int) -> Callable[[int], tuple[Tensor, ...]]:
    return lambda batch: (torch.randn(batch, 3, side, side),)


def of_timm(ours: str, theirs: str) -> Callable[[], tuple[nn.Module, nn.Module]]:
    """Our model with the weights of timm's; a distilled one returns the logits of both heads in training."""

    def make() -> tuple[nn.Module, nn.Module]:
        prepare()
        import timm

        peer: Any = timm.create_model(theirs)
        if hasattr(peer, "set_distilled_training"):
            peer.set_distilled_training(True)
        model = tf.create_model(ours, drop_path=0.0)
        return tf.load_published(model, peer.state_dict(), source="timm"), peer

    return make


def gpt2() -> tuple[nn.Module, nn.Module]:
    prepare()
    from transformers import GPT2Config, GPT2LMHeadModel

    peer = GPT2LMHeadModel(GPT2Config(attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0))
    ours = tf.load_published(tf.create_model("gpt2", dropout=0.0), peer.state_dict())
    return ours, Output(peer, lambda model, ids: model(ids, use_cache=False).logits)


def bert_base() -> tuple[nn.Module, nn.Module]:
    """Logits where a token was masked; theirs makes those of all tokens, as its users do, with GELU's fastest form."""
    prepare()
    from transformers import BertConfig, BertForMaskedLM

    act: dict[str, Any] = {"hidden_act": "gelu_pytorch_tanh"}  # as the released weights have it
    peer = BertForMaskedLM(BertConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **act))
    ours = tf.load_published(tf.create_model("bert_base", dropout=0.0), peer.state_dict())
    return (
        Output(ours, lambda model, ids, places: model(ids, None, places)[0]),
        Output(peer, lambda model, ids, places: model(input_ids=ids).logits.flatten(0, 1)[places]),
    )


def detr_resnet50() -> tuple[nn.Module, nn.Module]:
    """Logits of the last layer with its boxes beside them, so that both heads have gradients."""
    ours, theirs = detr.models("detr", detr.FULL, detr.RESNET50)
    return (
        Output(ours, lambda model, images: torch.cat([part[-1] for part in model(images)], -1)),
        Output(theirs, lambda model, images: torch.cat(model(pixel_values=images)[:2], -1)),
    )


def masked(batch: int, length: int = 512) -> tuple[Tensor, ...]:
    """Ids, and the places of every seventh token, about BERT's 15 %."""
    return torch.randint(1000, 30000, (batch, length)), torch.arange(0, batch * length, 7)


CASES: Mapping[str, Case] = {
    "gpt2": Case("transformers", gpt2, lambda batch: (torch.randint(50257, (batch, 1024)),), 8),
    "bert_base": Case("transformers", bert_base, masked, 32),
    "vit_base_patch16": Case("timm", of_timm("vit_base_patch16", "vit_base_patch16_224"), images(224), 64),
    "deit_small_distilled": Case(
        "timm", of_timm("deit_small_distilled", "deit_small_distilled_patch16_224"), images(224), 128
    ),
    "swin_tiny": Case("timm", swin_tiny, images(224), 128),
    "detr_resnet50": Case("transformers", detr_resnet50, images(640), 8),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help=f"default: {' '.join(CASES)}")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no model after this time")
    parser.add_argument("--rounds", type=int, default=5, help="times each has its turn (default 5)")
    parser.add_argument("--batch", type=int, help="examples in a batch; the default is each model's own")
    parser.add_argument("--eager", action="store_true", help="without the compiled models")
    parser.add_argument("--restart", action="store_true", help="forget what the file holds")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/<device>-models.json")
    given = parser.parse_args()
    if unknown := set(given.models) - set(CASES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    if given.rounds < 5:
        parser.error(f"--rounds {given.rounds}: a median of fewer than 5 says little")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    output = given.output or RESULTS / f"{timing.slug(timing.device_name(device))}-models.json"
    chosen = {name: CASES[name] for name in given.models or CASES}
    measure(chosen, device, output, rounds=given.rounds, minutes=given.minutes, batch=given.batch,
            compiled=not given.eager, restart=given.restart)  # fmt: skip


def measure(
    chosen: Mapping[str, Case], device: torch.device, output: Path, *, rounds: int, minutes: float = math.inf,
    batch: int | None = None, compiled: bool = True, restart: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Times the models that `output` does not hold yet, and writes it after each.

    Raises:
        ValueError: a pair's outputs differ.
        SystemExit: the file holds times of other software or of another device.
    """
    start, dtype = time.monotonic(), precision(device)
    record = resume(output, {**timing.provenance(device), "dtype": str(dtype).removeprefix("torch.")}, restart)
    waiting = [name for name in chosen if name not in record["cases"]]
    if waiting:
        record["sessions"].append(timing.session(device, dtype))
    for name in waiting:
        if time.monotonic() - start > 60 * minutes:
            print(f"{minutes} minutes are over; the same command goes on with {name}")
            break
        entry = {"peer": chosen[name].peer, "session": len(record["sessions"]) - 1}
        record["cases"][name] = entry | {"died": True}  # what stays if the process does not survive the model
        write(output, record)
        record["cases"][name] = entry | compare(chosen[name], device, batch or chosen[name].batch, rounds, compiled)
        write(output, record)
        told = (f"{kind} {each['median']:.2f}" for kind, each in record["cases"][name]["ratios"].items())
        print(f"{name}, {chosen[name].peer}'s time over ours: {', '.join(told) or 'nothing was timed'}", flush=True)
    return record


def compare(case: Case, device: torch.device, batch: int, rounds: int, compiled: bool) -> dict[str, Any]:
    """Milliseconds and memory of each, and the peer's time over ours: above 1, ours is faster."""
    torch.manual_seed(0)
    models = dict(zip(("ours", "theirs"), case.make(), strict=True))
    error = agree(models, case.inputs(2))
    inputs = tuple(x.to(device) for x in case.inputs(batch))
    runs: dict[str, Run] = {}
    for who, model in models.items():
        model.to(device)
        for how in ("", ", compiled") if compiled else ("",):
            for what, prepared in (("training", training), ("inference", inference)):
                runs[f"{who}, {what}{how}"] = prepared(model, inputs, compiled=bool(how))
    found: dict[str, Any] = {}
    for name, run in list(runs.items()):
        try:
            run()
            found[name] = {"peak_bytes": timing.peak_memory(run, device)}
        except Exception as problem:  # a compiler's or the memory's answer
            found[name] = {"refused": reason(problem)}
            del runs[name]
    times = timing.interleaved(runs, timing.clock(device, 200), rounds)
    for name, each in times.items():
        found[name]["ms"] = timing.summary(each)
    kinds = [name.removeprefix("ours, ") for name in times if name.startswith("ours, ")]
    ratios = {
        kind: timing.ratios(times[f"theirs, {kind}"], times[f"ours, {kind}"])
        for kind in kinds
        if f"theirs, {kind}" in times
    }
    return {"batch": batch, "error": error, "runs": found, "ratios": ratios}


def agree(models: Mapping[str, nn.Module], inputs: Sequence[Tensor]) -> float:
    """The largest difference of their outputs in float32 on the CPU; ValueError if it is more than ALLOWED."""
    with torch.no_grad():
        ours, theirs = (logits(model.eval()(*inputs)) for model in models.values())
    if not (error := (ours - theirs).abs().max().item()) <= ALLOWED * max(1.0, theirs.abs().max().item()):
        raise ValueError(f"the outputs of both models differ by {error:.1e}")
    return error


def logits(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return torch.stack(output) if isinstance(output, tuple) else output


def training(model: nn.Module, inputs: Sequence[Tensor], *, compiled: bool) -> Run:
    """A step: forward, cross-entropy with fixed random labels, backward, AdamW."""
    device = inputs[0].device
    called: Any = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    labels: list[Tensor] = []

    def run() -> None:
        model.train()
        optimizer.zero_grad()
        with torch.autocast(device.type, precision(device), enabled=device.type == "cuda"):
            output = logits(called(*inputs))
            if not labels:
                labels.append(torch.randint(output.shape[-1], (output.shape[:-1].numel(),), device=device))
            loss = F.cross_entropy(output.flatten(0, -2), labels[0])
        loss.backward()
        optimizer.step()

    return run


def inference(model: nn.Module, inputs: Sequence[Tensor], *, compiled: bool) -> Run:
    """A forward pass in eval mode without gradients."""
    device = inputs[0].device
    called: Any = torch.compile(model) if compiled else model

    @torch.no_grad()
    def run() -> None:
        model.eval()
        with torch.autocast(device.type, precision(device), enabled=device.type == "cuda"):
            called(*inputs)

    return run


if __name__ == "__main__":
    main()
