"""Numbers from the official code of Focal and HRFormer: how local_and_global.json is made.

    python -m tests.models.golden.local_and_global FOLDER

FOLDER has clones of microsoft/Focal-Transformer and HRNet/HRFormer under their names. Their code is run, not copied:
the file has names, shapes and numbers. See numbers.py.
"""

import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

from torch import nn

from tests.models.golden.conv_attention import import_official
from tformerlib.peers.golden import run

FILE = Path(__file__).resolve().parents[3] / "data" / "golden" / f"{Path(__file__).stem}.json"


def without_indices(model: nn.Module) -> nn.Module:
    """Tables of indices are no weights: `run` would fill them with noise."""
    for module in model.modules():
        for name in [n for n, x in module._buffers.items() if x is None or not x.is_floating_point()]:
            if "num_batches" not in name:
                module._non_persistent_buffers_set.add(name)
    return model


def focal(clone: Path) -> dict[str, Any]:
    """Four stages, of which two have a ring; and windows of 7 with a ring of 3, beyond the map's border too."""
    official = import_official(clone / "classification", "focal_transformer")
    pool = {"num_classes": 7, "focal_pool": "fc", "drop_path_rate": 0.0}
    four = official.FocalTransformer(
        img_size=64, embed_dim=8, depths=[1, 1, 2, 1], num_heads=[1, 2, 2, 4], window_size=4, focal_levels=[2] * 4,
        focal_windows=[3, 3, 3, 1], expand_sizes=[2] * 4, **pool,
    )  # fmt: skip
    size = {"classes": 7, "dim": 8, "depths": [1, 1, 2, 1], "heads": [1, 2, 2, 4], "regions": [3, 3, 3, 1]}
    two = official.FocalTransformer(
        img_size=112, embed_dim=16, depths=[1, 1], num_heads=[1, 2], window_size=7, focal_levels=[2] * 2,
        focal_windows=[7, 5], expand_sizes=[3] * 2, **pool,
    )  # fmt: skip
    wide = {"classes": 7, "dim": 16, "depths": [1, 1], "heads": [1, 2], "regions": [7, 5], "image": 112}
    return {
        "focal": run(without_indices(four), 64, size | {"image": 64, "window": 4, "expand": 2}, "focal_tiny"),
        "focal, windows of 7": run(without_indices(two), 112, wide, "focal_tiny"),
    }


def stage(modules: int, branches: int, blocks: int, dim: int, side: int) -> dict[str, Any]:
    """A stage as their configuration has it."""
    each = range(branches)
    return {
        "NUM_MODULES": modules, "NUM_BRANCHES": branches, "NUM_BLOCKS": [blocks] * branches,
        "NUM_CHANNELS": [dim * 2**i for i in each], "NUM_HEADS": [2**i for i in each], "NUM_MLP_RATIOS": [4] * branches,
        "NUM_RESOLUTIONS": [[side // 2**i] * 2 for i in each], "NUM_WINDOW_SIZES": [7] * branches,
        "ATTN_TYPES": [[["isa_local"] * blocks] * branches] * modules,
        "FFN_TYPES": [[["conv_mlp"] * blocks] * branches] * modules, "BLOCK": "TRANSFORMER_BLOCK",
    }  # fmt: skip


def hrformer(clone: Path) -> dict[str, Any]:
    """HRFormer in narrow, on images whose maps windows of 7 do not divide."""
    models = types.ModuleType("models")  # the package imports more than its model
    models.__path__ = [str(clone / "cls" / "models")]
    sys.modules["models"] = models
    official = import_official(clone / "cls", "models.hrt")
    import torch.nn.functional as F

    sys.modules["models.modules.multihead_isa_attention"].F = F  # type: ignore[attr-defined]  # theirs forgets it
    first = {"NUM_MODULES": 1, "NUM_BRANCHES": 1, "NUM_BLOCKS": [1], "NUM_CHANNELS": [64], "BLOCK": "BOTTLENECK"}
    config = {"DROP_PATH_RATE": 0.0, "STAGE1": first} | {f"STAGE{n}": stage(1, n, 1, 6, 16) for n in (2, 3, 4)}
    size = {"classes": 7, "dim": 6, "modules": [1, 1, 1], "blocks": 1, "bottlenecks": 1}
    model = official.HighResolutionTransformer(config, num_classes=7)
    return {"hrformer": run(without_indices(model), 64, size, "hrformer_tiny")}


def main(folder: Path) -> None:
    content: dict[str, Any] = {}
    for name, make in (("microsoft/Focal-Transformer", focal), ("HRNet/HRFormer", hrformer)):
        clone = folder / name.rpartition("/")[2]
        commit = subprocess.run(["git", "-C", clone, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        content[name] = {"commit": commit.stdout.strip(), "cases": make(clone)}
    FILE.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    from tformerlib.peers import prepare

    prepare()
    main(Path(sys.argv[1]))
