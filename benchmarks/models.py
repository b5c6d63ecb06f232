"""Our Transformer beside others of the same size and weights, on a CPU: training steps and greedy decoding.

    python -m benchmarks.models [--rounds 9] [--threads 2] [--output benchmarks/results/models.json]

Both sides of a pair run in turn, in one process, and what counts is the median of the ratios of neighboring runs: a
machine that is busy or slow for a while is so for both. A ratio below 1 means that ours is faster.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tformerlib as tf
from tformerlib.decoding import greedy
from tformerlib.models.transformer import Transformer
from tformerlib.peers import prepare
from tformerlib.positions import sinusoids

SIZES: dict[str, dict[str, Any]] = {
    "chapter": {"source_vocab": 64, "dim": 64, "depth": 2, "heads": 4, "hidden": 256},
    "small": {"source_vocab": 2000, "dim": 256, "depth": 3, "heads": 4, "hidden": 1024},
    "base": {"source_vocab": 8000, "dim": 512, "depth": 6, "heads": 8, "hidden": 2048},
}


class TorchTransformer(nn.Module):
    """`torch.nn.Transformer` as its documentation has it used, with the embeddings and output that ours has."""

    def __init__(self, source_vocab: int, dim: int, depth: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.tokens, self.dropout = nn.Embedding(source_vocab, dim), nn.Dropout(dropout)
        self.body = nn.Transformer(dim, heads, depth, depth, hidden, dropout, batch_first=True)
        self.body.encoder.norm = self.body.decoder.norm = None  # ours has none there, as the paper
        self.positions = nn.Buffer(sinusoids(1024, dim), persistent=False)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        scale, pad = self.tokens.embedding_dim**0.5, source == 0
        x, y = (self.dropout(self.tokens(i) * scale + self.positions[: i.shape[1]]) for i in (source, target))
        causal = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        y = self.body(x, y, tgt_mask=causal, tgt_is_causal=True, src_key_padding_mask=pad, memory_key_padding_mask=pad)
        return F.linear(y, self.tokens.weight)


def compare(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> dict[str, float]:
    """Seconds of each, and ours / theirs: the median ratio of processor times and of wall times, and of the minima."""
    for run in (ours, theirs):
        run()
        run()  # the second time, caches and allocators are warm
    times: list[list[tuple[float, float]]] = []
    for _ in range(rounds):
        pair = []
        for run in (ours, theirs):
            cpu, wall = time.process_time(), time.perf_counter()
            run()
            pair.append((time.process_time() - cpu, time.perf_counter() - wall))
        times.append(pair)
    return {
        "ratio": statistics.median(a[0] / b[0] for a, b in times),
        "wall_ratio": statistics.median(a[1] / b[1] for a, b in times),
        "min_ratio": min(a[0] for a, _ in times) / min(b[0] for _, b in times),
        "ours_cpu_s": min(a[0] for a, _ in times),
        "theirs_cpu_s": min(b[0] for _, b in times),
    }


def training(size: str, dropout: float, rounds: int, batch: int, length: int) -> dict[str, Any]:
    """One step: forward, backward, Adam. Sources are padded to `length`; both have the same weights.

    With dropout, torch's model drops attention weights and hidden units too, as its layers always do; ours does not,
    as in the paper. Without, both compute the same, and that is checked.
    """
    torch.manual_seed(0)
    ours, theirs = Transformer(**SIZES[size], dropout=dropout), TorchTransformer(**SIZES[size], dropout=dropout)
    tf.load_published(ours, theirs.body.state_dict(), source="torch")
    theirs.tokens.load_state_dict(ours.source.tokens.state_dict())
    source, target = torch.randint(3, SIZES[size]["source_vocab"], (2, batch, length + 1))
    source, lengths = source[:, 1:], torch.linspace(length // 2, length, batch).long()
    source = source.masked_fill(torch.arange(length) >= lengths[:, None], 0)
    if not dropout:
        torch.testing.assert_close(ours(source, target), theirs(source, target), atol=1e-4, rtol=1e-4)

    def step(model: nn.Module) -> Callable[[], None]:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)

        def run() -> None:
            optimizer.zero_grad()
            F.cross_entropy(model(source, target[:, :-1]).flatten(0, 1), target[:, 1:].flatten()).backward()
            optimizer.step()

        return run

    result = compare(step(ours), step(theirs), rounds)
    return {"what": "training step", "peer": "torch.nn.Transformer", "size": size, "dropout": dropout, "batch": batch,
            "length": length, **result}  # fmt: skip


def decoding(size: str, rounds: int, batch: int, length: int) -> dict[str, Any]:
    """Greedy translations of `length` tokens with cached keys and values, by the same weights; they must be equal."""
    prepare()
    from transformers import MarianConfig, MarianMTModel

    s = SIZES[size]
    config = MarianConfig(
        vocab_size=s["source_vocab"], d_model=s["dim"], encoder_layers=s["depth"], decoder_layers=s["depth"],
        encoder_attention_heads=s["heads"], decoder_attention_heads=s["heads"], encoder_ffn_dim=s["hidden"],
        decoder_ffn_dim=s["hidden"], activation_function="relu", scale_embedding=True, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=1, forced_eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = MarianMTModel(config).eval()
    theirs.final_logits_bias[0, :3] = -1e4  # neither padding nor an early end: both decode `length` tokens
    ours = tf.load_published(Transformer(**s, output_bias=True), theirs.state_dict()).eval()
    source = torch.randint(3, s["source_vocab"], (batch, length))

    def run_theirs() -> Tensor:
        options = {"max_new_tokens": length, "num_beams": 1, "do_sample": False, "use_cache": True}
        return theirs.generate(input_ids=source, attention_mask=torch.ones_like(source), **options)

    def run_ours() -> Tensor:
        return greedy(ours, source, limit=length)

    assert torch.equal(run_ours(), run_theirs()[:, 1:]), "the translations differ"
    result = compare(run_ours, run_theirs, rounds)
    return {"what": "greedy decoding", "peer": "transformers' MarianMTModel.generate", "size": size, "batch": batch,
            "length": length, **result}  # fmt: skip


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=9, help="runs of each side (default 9, at least 5)")
    arguments.add_argument("--threads", type=int, default=2, help="torch's threads (default 2)")
    arguments.add_argument("--output", type=Path, help="also write the JSON here")
    options = arguments.parse_args()
    if options.rounds < 5:
        arguments.error(f"--rounds {options.rounds}: a median of fewer than 5 says little")
    torch.set_num_threads(options.threads)
    jobs: list[tuple[Callable[..., dict[str, Any]], dict[str, Any]]] = [
        (training, {"size": "chapter", "dropout": 0.0, "batch": 64, "length": 24}),
        (training, {"size": "chapter", "dropout": 0.1, "batch": 64, "length": 24}),
        (training, {"size": "small", "dropout": 0.0, "batch": 32, "length": 32}),
        (training, {"size": "small", "dropout": 0.1, "batch": 32, "length": 32}),
        (training, {"size": "base", "dropout": 0.0, "batch": 8, "length": 32}),
        (decoding, {"size": "chapter", "batch": 64, "length": 24}),
        (decoding, {"size": "small", "batch": 16, "length": 32}),
        (decoding, {"size": "base", "batch": 1, "length": 32}),
        (decoding, {"size": "base", "batch": 8, "length": 32}),
    ]
    results = []
    for measure, job in jobs:
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
