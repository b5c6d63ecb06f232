"""Numbers from OpenCLIP's CLIP: how multimodal.json is made.

    python -m tests.models.golden.multimodal

Needs the package open-clip-torch 3.3.0. Its code is run, not copied: the file has names, shapes and numbers.
"""

import importlib
import json
from pathlib import Path
from typing import Any

import torch

from tformerlib.objectives.pairing import pair_loss
from tformerlib.peers import prepare
from tformerlib.peers.golden import fill, uniform

FILE = Path(__file__).resolve().parents[3] / "data" / "golden" / f"{Path(__file__).stem}.json"
SIZE: dict[str, Any] = {
    "image": 16, "patch": 8, "dim": 24, "depth": 2, "heads": 3, "embed": 10,
    "vocab": 19, "context": 7, "text_dim": 20, "text_depth": 2, "text_heads": 2,
}  # fmt: skip
IDS = [[17, 3, 9, 18, 0, 0, 0], [17, 1, 2, 5, 8, 11, 18], [17, 18, 4, 4, 0, 0, 0]]


def made() -> dict[str, Any]:
    """One case, in float64. Its GELU is the quick one, and texts are read at their largest id."""
    theirs = importlib.import_module("open_clip.model")
    vision = theirs.CLIPVisionCfg(layers=2, width=24, head_width=8, patch_size=8, image_size=16)
    text = theirs.CLIPTextCfg(context_length=7, vocab_size=19, width=20, heads=2, layers=2)
    model = theirs.CLIP(10, vision, text, quick_gelu=True).double().eval()
    shapes = {name: list(x.shape) for name, x in model.state_dict().items()}
    model.load_state_dict(fill(shapes))
    images, texts, scale = model(2 * uniform("images", (3, 3, 16, 16)), torch.tensor(IDS))
    logits = scale * images @ texts.mT
    loss = pair_loss(logits)
    loss.backward()
    gradients = {
        name: round((p.grad * uniform(f"probe {name}", tuple(p.shape))).sum().item(), 10)
        for name, p in model.named_parameters()
    }
    numbers = [[round(v, 10) for v in row] for row in logits.tolist()]
    return {"source": "open-clip-torch 3.3.0", "size": SIZE, "ids": IDS, "shapes": shapes, "logits": numbers,
            "loss": round(loss.item(), 10), "gradients": gradients}  # fmt: skip


if __name__ == "__main__":
    prepare()
    FILE.write_text(json.dumps(made(), separators=(",", ":")) + "\n", "utf-8")
