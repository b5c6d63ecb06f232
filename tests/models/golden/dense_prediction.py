"""Numbers from Segmenter's official heads, which no package holds, on timm's ViT: how dense_prediction.json is made.

    python -m tests.models.golden.dense_prediction FOLDER

FOLDER has a clone of rstrudel/segmenter under its name. Its code is run, not copied: the file has names, shapes and
numbers. The encoder is timm's, as its norms have the epsilon of 1e-6 that ours have.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tformerlib.peers.golden import run

FILE = Path(__file__).resolve().parents[3] / "data" / "golden" / f"{Path(__file__).stem}.json"
REPOSITORY = "rstrudel/segmenter"


class Encoder(VisionTransformer):
    """timm's ViT as the official Segmenter calls it."""

    patch_size, distilled = 4, False

    def forward(self, images: Tensor, return_features: bool = True) -> Tensor:  # type: ignore[override]
        return self.forward_features(images)


def segmenter(folder: Path) -> dict[str, Any]:
    sys.path.insert(0, str(folder))
    from segm.model.decoder import DecoderLinear, MaskTransformer  # type: ignore[import-not-found]
    from segm.model.segmenter import Segmenter  # type: ignore[import-not-found]

    size = {"image": 16, "patch": 4, "dim": 24, "depth": 2, "heads": 3, "classes": 3}
    mask = {"n_layers": 2, "n_heads": 3, "d_model": 24, "d_ff": 96, "drop_path_rate": 0.0, "dropout": 0.1}
    heads: dict[str, tuple[nn.Module, str]] = {
        "mask": (MaskTransformer(3, 4, 24, **mask), "segmenter_tiny_mask"),
        "linear": (DecoderLinear(3, 4, 24), "segmenter_base_linear"),
    }
    return {
        name: run(
            Segmenter(Encoder(img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=3, num_classes=0), head, 3),
            16, size, ours,
        ) for name, (head, ours) in heads.items()
    }  # fmt: skip


def main() -> None:
    folder = Path(sys.argv[1]) / REPOSITORY
    commit = subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    recorded = {REPOSITORY: {"commit": commit.stdout.strip(), "cases": segmenter(folder)}}
    FILE.write_text(json.dumps(recorded, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
