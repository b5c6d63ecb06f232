"""Numbers from the official code of CvT, CMT and UniFormer: how conv_attention.json is made.

    python -m tests.models.golden.conv_attention FOLDER

FOLDER has clones of microsoft/CvT, ggjy/CMT.pytorch and Sense-X/UniFormer under their names. Their code is run, not
copied: the file has names, shapes and numbers. See numbers.py.
"""

import collections.abc
import importlib
import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

from torch import nn

from tformerlib.peers.golden import run

FILE = Path(__file__).resolve().parents[3] / "data" / "golden" / f"{Path(__file__).stem}.json"
STAGES: dict[str, Any] = {"classes": 7, "dims": [16, 32, 48, 64], "depths": [1, 1, 2, 1]}


def import_official(folder: Path, module: str) -> Any:
    """A module of theirs, with the names that timm and torch had when it was written."""
    import timm.layers

    keep: Any = lambda function: function  # noqa: E731
    for name, content in {
        "timm.models.helpers": {"load_pretrained": None},
        "timm.models.layers": vars(timm.layers),
        "timm.models.registry": {"register_model": keep},
        "torch._six": {"container_abcs": collections.abc},
    }.items():
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__dict__.update({key: x for key, x in content.items() if not key.startswith("__")})
    sys.path.insert(0, str(folder))
    return importlib.import_module(module)


def cvt(clone: Path) -> dict[str, Any]:
    """CvT-13 in narrow. Its LayerNorm rounds to float32, hence torch's, which is the same otherwise."""
    models = types.ModuleType("models")  # the package imports more than its model
    models.__path__ = [str(clone / "lib" / "models")]
    sys.modules["models"] = models
    official = import_official(clone / "lib", "models.cls_cvt")
    spec = {
        "NUM_STAGES": 3, "PATCH_SIZE": [7, 3, 3], "PATCH_STRIDE": [4, 2, 2], "PATCH_PADDING": [2, 1, 1],
        "DIM_EMBED": [16, 24, 32], "NUM_HEADS": [1, 3, 4], "DEPTH": [1, 1, 2], "MLP_RATIO": [4.0] * 3,
        "ATTN_DROP_RATE": [0.0] * 3, "DROP_RATE": [0.0] * 3, "DROP_PATH_RATE": [0.0, 0.0, 0.1], "QKV_BIAS": [True] * 3,
        "CLS_TOKEN": [False, False, True], "QKV_PROJ_METHOD": ["dw_bn"] * 3, "KERNEL_QKV": [3] * 3,
        "PADDING_KV": [1] * 3, "STRIDE_KV": [2] * 3, "PADDING_Q": [1] * 3, "STRIDE_Q": [1] * 3,
    }  # fmt: skip
    model = official.ConvolutionalVisionTransformer(
        num_classes=7, act_layer=official.QuickGELU, norm_layer=nn.LayerNorm, spec=spec
    )
    size = {"classes": 7, "dims": [16, 24, 32], "depths": [1, 1, 2], "heads": [1, 3, 4]}
    return {"cvt": run(model, 72, size, "cvt_13")}


def cmt(clone: Path) -> dict[str, Any]:
    """CMT in narrow, and CMT-Ti for small images."""
    official = import_official(clone, "cmt")
    narrow = official.CMT(
        img_size=64, num_classes=7, embed_dims=[16, 32, 48, 64], stem_channel=8, fc_dim=40, num_heads=[1, 2, 4, 8],
        mlp_ratios=[3.6] * 4, depths=[1, 1, 2, 1], sr_ratios=[8, 4, 2, 1],
    )  # fmt: skip
    size = STAGES | {"image": 64, "stem": 8, "wide": 40, "expansion": 3.6}
    return {
        "cmt": run(narrow, 64, size, "cmt_s"),
        "cmt_ti": run(official.cmt_ti(img_size=64, num_classes=7), 64, {"image": 64, "classes": 7}, "cmt_ti"),
    }


def uniformer(clone: Path) -> dict[str, Any]:
    """UniFormer in narrow: plain, with overlapping patches, with layer scale; and UniFormer-S."""
    del sys.modules["models"]
    official = import_official(clone / "image_classification", "models.uniformer")
    narrow = {"depth": [1, 1, 2, 1], "num_classes": 7, "embed_dim": [16, 32, 48, 64], "img_size": 64}
    cases = {
        "uniformer": run(official.UniFormer(head_dim=16, **narrow), 64, STAGES | {"head_dim": 16}, "uniformer_small"),
        "uniformer, overlapping": run(
            official.UniFormer(head_dim=8, conv_stem=True, **narrow),
            72,
            STAGES | {"head_dim": 8},
            "uniformer_small_plus",
        ),
        "uniformer_small": run(
            official.uniformer_small(img_size=96, num_classes=7), 96, {"classes": 7}, "uniformer_small"
        ),
    }
    official.layer_scale = True
    scaled = official.UniFormer(head_dim=16, **narrow)
    return cases | {"uniformer, scaled": run(scaled, 64, STAGES | {"head_dim": 16}, "uniformer_base_ls")}


def main(folder: Path) -> None:
    content: dict[str, Any] = {}
    for name, make in (("microsoft/CvT", cvt), ("ggjy/CMT.pytorch", cmt), ("Sense-X/UniFormer", uniformer)):
        clone = folder / name.rpartition("/")[2]
        commit = subprocess.run(["git", "-C", clone, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        content[name] = {"commit": commit.stdout.strip(), "cases": make(clone)}
    FILE.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    from tformerlib.peers import prepare

    prepare()
    main(Path(sys.argv[1]))
