"""Our GPT-2 beside transformers' of the same size and weights, on a CPU: training steps and writing.

    python -m benchmarks.gpt [--rounds 9] [--threads 2] [--output benchmarks/results/gpt.json]

See benchmarks/models.py for what is measured and how.
"""

import argparse
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tformerlib as tf
from benchmarks.models import compare
from tformerlib.generation import generate
from tformerlib.models.gpt2 import GPT2
from tformerlib.peers import prepare

SIZES: dict[str, dict[str, Any]] = {
    "chapter": {"vocab": 1024, "dim": 64, "depth": 4, "heads": 4, "context": 128},
    "small": {"vocab": 4096, "dim": 256, "depth": 4, "heads": 4, "context": 256},
    "base": {"vocab": 8192, "dim": 768, "depth": 6, "heads": 12, "context": 512},
}


def pair(size: str, dropout: float) -> tuple[GPT2, nn.Module]:
    """Ours and transformers', with the same weights."""
    prepare()
    from transformers import GPT2Config, GPT2LMHeadModel

    s = SIZES[size]
    config = GPT2Config(
        vocab_size=s["vocab"], n_embd=s["dim"], n_layer=s["depth"], n_head=s["heads"], n_positions=s["context"],
        attn_pdrop=dropout, embd_pdrop=dropout, resid_pdrop=dropout, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = GPT2LMHeadModel(config)
    return tf.load_published(GPT2(**s, dropout=dropout), theirs.state_dict()), theirs


def training(size: str, dropout: float, rounds: int, batch: int, length: int) -> dict[str, Any]:
    """One step: forward, loss, backward, Adam. Both in training mode with the same dropout, in the same places."""
    ours, theirs = pair(size, dropout)
    ours.train()
    theirs.train()
    ids = torch.randint(SIZES[size]["vocab"], (batch, length))
    if not dropout:
        torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(our_loss(ours, ids), theirs(ids, labels=ids).loss, atol=1e-4, rtol=1e-4)

    def step(model: nn.Module, loss: Callable[[nn.Module, Tensor], Tensor]) -> Callable[[], None]:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)

        def run() -> None:
            optimizer.zero_grad()
            loss(model, ids).backward()
            optimizer.step()

        return run

    run_ours, run_theirs = step(ours, our_loss), step(theirs, lambda model, ids: model(ids, labels=ids).loss)
    result = compare(run_ours, run_theirs, rounds)
    return {"what": "training step", "peer": "transformers' GPT2LMHeadModel", "size": size, "dropout": dropout,
            "batch": batch, "length": length, **result}  # fmt: skip


def our_loss(model: nn.Module, ids: Tensor) -> Tensor:
    """Cross-entropy of each next token."""
    return F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def generation(size: str, rounds: int, batch: int, prompt: int, tokens: int) -> dict[str, Any]:
    """Greedy continuations with cached keys and values; they must be equal."""
    ours, theirs = pair(size, 0.0)
    ours.eval()
    theirs.eval()
    ids = torch.randint(SIZES[size]["vocab"], (batch, prompt))

    def run_theirs() -> Tensor:
        options = {"max_new_tokens": tokens, "do_sample": False, "use_cache": True, "pad_token_id": 0}
        return theirs.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)

    def run_ours() -> list[list[int]]:
        return generate(ours, ids, tokens=tokens, temperature=0)

    assert run_ours() == run_theirs()[:, prompt:].tolist(), "the texts differ"
    result = compare(run_ours, run_theirs, rounds)
    return {"what": "greedy writing", "peer": "transformers' GPT2LMHeadModel.generate", "size": size, "batch": batch,
            "prompt": prompt, "tokens": tokens, **result}  # fmt: skip


JOBS: list[tuple[Callable[..., dict[str, Any]], dict[str, Any]]] = [
    (training, {"size": "chapter", "dropout": 0.0, "batch": 32, "length": 64}),
    (training, {"size": "chapter", "dropout": 0.1, "batch": 32, "length": 64}),
    (training, {"size": "small", "dropout": 0.0, "batch": 8, "length": 128}),
    (training, {"size": "small", "dropout": 0.1, "batch": 8, "length": 128}),
    (training, {"size": "base", "dropout": 0.1, "batch": 2, "length": 128}),
    (generation, {"size": "chapter", "batch": 1, "prompt": 16, "tokens": 48}),
    (generation, {"size": "chapter", "batch": 16, "prompt": 16, "tokens": 48}),
    (generation, {"size": "small", "batch": 1, "prompt": 32, "tokens": 48}),
    (generation, {"size": "base", "batch": 1, "prompt": 32, "tokens": 32}),
    (generation, {"size": "base", "batch": 8, "prompt": 32, "tokens": 32}),
]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=9, help="runs of each side (default 9, at least 5)")
    arguments.add_argument("--threads", type=int, default=2, help="torch's threads (default 2)")
    arguments.add_argument("--output", type=Path, help="also write the JSON here")
    options = arguments.parse_args()
    if options.rounds < 5:
        arguments.error(f"--rounds {options.rounds}: a median of fewer than 5 says little")
    torch.set_num_threads(options.threads)
    results = []
    for measure, job in JOBS:
        results.append(measure(rounds=options.rounds, **job))
        print("{what:16} {size:8} ratio {ratio:.2f} (wall {wall_ratio:.2f}, minima {min_ratio:.2f}), at best "
              "{ours_cpu_s:.3f} s against {theirs_cpu_s:.3f} s".format_map(results[-1]), flush=True)  # fmt: skip
    record = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "rounds": options.rounds,
        "results": [{k: round(v, 4) if isinstance(v, float) else v for k, v in each.items()} for each in results],
    }
    print(json.dumps(record, indent=1))
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
