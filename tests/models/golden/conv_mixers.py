"""Numbers from the official code of CXV, Conviformer and the deepfake ViTs: how conv_mixers.json is made.

    python -m tests.models.golden.conv_mixers FOLDER

FOLDER has clones of pranavphoenix/CXV, vaishnavmohit/Conviformer and davide-coccomini/Combining-EfficientNet-and-...
under their names; the last needs the package efficientnet_pytorch 0.7.1. Their code is run, not copied: the file has
names, shapes and numbers. See numbers.py.
"""

import importlib
import json
import subprocess
import sys
import types
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tformerlib.peers.golden import run

FILE = Path(__file__).resolve().parents[3] / "data" / "golden" / f"{Path(__file__).stem}.json"
DEEPFAKE = "davide-coccomini/Combining-EfficientNet-and-Vision-Transformers-for-Video-Deepfake-Detection"


def execute(path: Path, first: str = "", **replaced: str) -> dict[str, Any]:
    """What a file of theirs defines: notebooks' cells in one text, or modules that import what is not there."""
    source = path.read_text("utf-8").split("\nmodel = ")[0]
    names: dict[str, Any] = {}
    lines = [line for line in source.splitlines() if not line.startswith("!")]
    missing = ("from performer_pytorch", "from local_attention", "from axial_", "import matplotlib", "import cv2")
    text = first + "\n".join(line for line in lines if not line.startswith(missing))
    for old, new in replaced.items():
        text = text.replace(old, new)
    exec(compile(text, path.name, "exec"), names)
    return names


def cxv(clone: Path) -> dict[str, Any]:
    """The three models in narrow, on maps of 16 x 16, where theirs have 32 x 32 written in."""
    first = "import math\nfrom math import ceil\nimport torch\nimport torch.nn.functional as F\nfrom torch import nn\n"
    first += "from einops import rearrange, reduce, repeat\nfrom einops.layers.torch import Rearrange\n"
    size, cases = {"dim": 16, "depth": 2, "classes": 7}, {}
    for name, ours in (("CPV", "cxv_performer"), ("CLTV", "cxv_linear"), ("CNV", "cxv_nystrom")):
        names = execute(clone / f"{name}.py", first, **{"h = 32, w = 32": "h = 16, w = 16"})
        model = names[name](num_classes=7, emb_dim=16, emb_kernel=3, emb_stride=1, heads=4, depth=2, mlp_mult=2)
        cases[ours] = run(model, 16, size, ours)
    return cases


def conviformer(clone: Path) -> dict[str, Any]:
    """In narrow, for images of 448 and of 896 pixels: the sizes are written in."""
    import timm.layers

    for name, content in {
        "timm.models.helpers": {"load_pretrained": None},
        "timm.models.layers": vars(timm.layers),
        "timm.models.registry": {"register_model": None},
    }.items():
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__dict__.update({key: x for key, x in content.items() if not key.startswith("__")})
    official, cases = execute(clone / "convit.py"), {}
    torch.set_default_dtype(torch.float64)  # it makes its offsets in the default type
    for side in (448, 896):
        model = official["VisionTransformer"](
            img_size=side, num_classes=7, embed_dim=16, depth=3, num_heads=4, local_up_to_layer=2,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
        )  # fmt: skip
        size = {"classes": 7, "dim": 16, "depth": 3, "heads": 4, "free": 1}
        cases[f"conviformer_{side}"] = run(model, side, size, f"conviformer_base_{side}")
    torch.set_default_dtype(torch.float32)
    return cases


def deepfake(clone: Path) -> dict[str, Any]:
    """Both models in narrow. The table of positions has one row, so that the place in the batch does not matter.

    With the 32 rows of the published one it does; what it then says of the same images is kept too.
    """
    without_weights = classmethod(lambda cls, name: cls.from_name(name))  # they are replaced
    importlib.import_module("efficientnet_pytorch").__dict__["EfficientNet"].from_pretrained = without_weights
    for name, content in (
        ("utils", {"resize": None}),
        ("efficient_net", {}),
        ("efficient_net.efficientnet_pytorch", {}),
    ):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__dict__.update(content)
    small = {
        "image-size": 224, "num-classes": 7, "patch-size": 7, "dim": 32, "depth": 2, "dim-head": 64, "heads": 8,
        "mlp-dim": 48, "emb-dim": 1, "dropout": 0.15, "emb-dropout": 0.15,
    }  # fmt: skip
    make = execute(clone / "efficient-vit" / "efficient_vit.py")["EfficientViT"]
    size: dict[str, Any] = {"classes": 7, "dim": 32, "depth": 2, "hidden": 48}
    cases = {}
    for name, rows in (("efficient_vit", 1), ("efficient_vit, 32 rows", 32)):
        model = make({"model": small | {"emb-dim": rows}}, channels=1280).requires_grad_(True)  # it freezes blocks
        cases[name] = run(model, 224, size, "efficient_vit")
    cross = clone / "cross-efficient-vit"
    its_own = execute(
        cross / "efficient_net" / "efficientnet_pytorch" / "model.py",
        **{"from .utils import": "from efficientnet_pytorch.utils import"},
    )["EfficientNet"]
    its_own.from_pretrained = without_weights
    sys.modules["efficient_net.efficientnet_pytorch"].__dict__["EfficientNet"] = its_own
    branches: dict[str, Any] = {}
    for branch, dim, patch, depth, channels in (("sm", 24, 7, 1, 1280), ("lg", 32, 56, 2, 24)):
        branches |= {
            f"{branch}-dim": dim, f"{branch}-patch-size": patch, f"{branch}-enc-depth": depth,
            f"{branch}-channels": channels, f"{branch}-enc-heads": 8, f"{branch}-enc-dim-head": 64,
            f"{branch}-enc-mlp-dim": 40,
        }  # fmt: skip
    branches |= {"cross-attn-depth": 2, "cross-attn-heads": 8, "cross-attn-dim-head": 64}
    model = execute(cross / "cross_efficient_vit.py")["CrossEfficientViT"](config={"model": small | branches})
    size = {"classes": 7, "small": [24, 7, 1], "large": [32, 56, 2], "rounds": 2, "hidden": 40}
    return cases | {"cross_efficient_vit": run(model, 224, size, "cross_efficient_vit")}


def main(folder: Path) -> None:
    content: dict[str, Any] = {}
    for name, make in (("pranavphoenix/CXV", cxv), ("vaishnavmohit/Conviformer", conviformer), (DEEPFAKE, deepfake)):
        clone = folder / name.rpartition("/")[2]
        commit = subprocess.run(["git", "-C", clone, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        content[name] = {"commit": commit.stdout.strip(), "cases": make(clone)}
    FILE.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    from tformerlib.peers import prepare

    prepare()
    main(Path(sys.argv[1]))
