"""A training step of a whole Swin-T, ours beside timm's, with the same weights.

    python -m benchmarks.swin_step [--batch 128] [--rounds 5] [--output benchmarks/results/<device>-swin.json]

Both run in turn in one process (forward, backward, AdamW, bfloat16 autocast on a GPU), eager and compiled. Before that
their logits must agree in float32. Without a GPU it runs on the CPU, which says nothing of the kernels.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from . import timing
from .attention import RESULTS, precision, reason, write
from .swin import swin_tiny

ALLOWED = 2e-4  # between logits of about 1 in size, through 12 blocks in float32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--image", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--eager", action="store_true", help="without the compiled models")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    if given.rounds < 5:
        parser.error(f"--rounds {given.rounds}: a median of fewer than 5 says little")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    result = steps(device, given.batch, given.image, given.rounds, compiled=not given.eager)
    record = {"provenance": timing.provenance(device), "session": timing.session(device, precision(device)), **result}
    write(given.output or RESULTS / f"{timing.slug(timing.device_name(device))}-swin.json", record)
    print(json.dumps(result, indent=1))


def steps(device: torch.device, batch: int, image: int, rounds: int, *, compiled: bool) -> dict[str, Any]:
    """Milliseconds and memory of each model's step, and timm's over ours.

    Raises:
        ValueError: there is no model swin_tiny, or the logits differ.
    """
    torch.manual_seed(0)
    models = dict(zip(("ours", "timm"), swin_tiny(image), strict=True))
    images = torch.randn(2, 3, image, image)
    with torch.no_grad():
        ours, theirs = (model.eval()(images) for model in models.values())
    if not (error := (ours - theirs).abs().max().item()) <= ALLOWED * max(1.0, theirs.abs().max().item()):
        raise ValueError(f"the logits of both models differ by {error:.1e}")
    images, labels = torch.randn(batch, 3, image, image, device=device), torch.randint(1000, (batch,), device=device)
    runs = {name: step(model.train().to(device), images, labels) for name, model in models.items()}
    if compiled:
        runs |= {f"{name}, compiled": step(torch.compile(model), images, labels) for name, model in models.items()}
    found: dict[str, Any] = {}
    for name, run in list(runs.items()):
        try:
            run()
            found[name] = {"peak_bytes": timing.peak_memory(run, device)}
        except Exception as error:  # a compiler's or the memory's answer
            found[name] = {"refused": reason(error)}
            del runs[name]
    times = timing.interleaved(runs, timing.clock(device, 200), rounds)
    for name, each in times.items():
        found[name]["ms"] = timing.summary(each)
    kinds = [kind for kind in ("", ", compiled") if f"ours{kind}" in times and f"timm{kind}" in times]
    ratios = {f"timm / ours{kind}": timing.ratios(times[f"timm{kind}"], times[f"ours{kind}"]) for kind in kinds}
    return {"what": "Swin-T training step", "batch": batch, "image": image, "error": error, "models": found, **ratios}


def step(model: Any, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    wide = images.device.type == "cuda"

    def run() -> None:
        optimizer.zero_grad()
        with torch.autocast(images.device.type, precision(images.device), enabled=wide):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    return run


if __name__ == "__main__":
    main()
