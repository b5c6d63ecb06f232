"""Numbers from the official code of CCT, CeiT and early convolutions, which no package holds: how stems.json is made.

    python -m tests.models.golden.stems FOLDER

FOLDER has clones of SHI-Labs/Compact-Transformers, coeusguo/ceit and facebookresearch/pycls under their names; pycls
needs yacs and iopath. Their code is run, not copied: the file has names, shapes and numbers.
"""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from tformerlib.peers.golden import run

FILE = Path(__file__).resolve().parents[3] / "data" / "golden" / f"{Path(__file__).stem}.json"
REPOSITORIES = {"cct": "SHI-Labs/Compact-Transformers", "ceit": "coeusguo/ceit", "pycls": "facebookresearch/pycls"}


def compact(folder: Path) -> dict[str, Any]:
    """ViT-Lite, CVT and CCT: patches and convolutions of two kinds; learned, fixed and no positions."""
    sys.path.insert(0, str(folder))
    from src.cct import CCT  # type: ignore[import-not-found]
    from src.cvt import CVT  # type: ignore[import-not-found]
    from src.vit import ViTLite  # type: ignore[import-not-found]

    theirs = {"num_classes": 5, "embedding_dim": 24, "num_layers": 2, "num_heads": 3, "mlp_ratio": 2.0}
    ours = {"classes": 5, "dim": 24, "depth": 2, "heads": 3, "mlp": 2.0}
    small = {"kernel_size": 3, "stride": 1, "padding": 1, "n_conv_layers": 2}
    large = {"kernel_size": 7, "stride": 2, "padding": 3, "n_conv_layers": 1}
    none = {"positional_embedding": "none"}
    ours7 = ours | {"image": 30, "kernel": 7, "layers": 1}
    return {
        "vit_lite": run(ViTLite(img_size=16, kernel_size=4, **theirs), 16, ours | {"image": 16}, "vit_lite_7_4_32"),
        "cvt": run(CVT(img_size=16, kernel_size=4, **theirs), 16, ours | {"image": 16}, "cvt_7_4_32"),
        "cct": run(CCT(img_size=18, **small, **theirs), 18, ours | {"image": 18, "layers": 2}, "cct_7_3x1_32"),
        "cct, kernels of 7": run(CCT(img_size=30, **large, **theirs), 30, ours7, "cct_7_3x1_32"),
        "cct, sinusoids": run_fixed(CCT(img_size=18, positional_embedding="sine", **small, **theirs), ours),
        "cct, no positions": run(
            CCT(img_size=18, **none, **small, **theirs), 18, ours | {"image": 18, "layers": 2}, "cct_7_3x1_32"
        ),
    }


def run_fixed(model: Any, ours: dict[str, Any]) -> dict[str, Any]:
    """As `run`; positions that the model computes stay what they are."""
    loading, fixed = model.load_state_dict, {"classifier.positional_emb": model.classifier.positional_emb.detach()}
    model.load_state_dict = lambda state: loading(state | fixed)
    return run(model, 18, ours | {"image": 18, "layers": 2}, "cct_7_3x1_32")


def ceit(folder: Path) -> dict[str, Any]:
    """CeiT with two sizes of patches and of kernels."""
    sys.path.insert(0, str(folder))
    import ceit_model as official  # type: ignore[import-not-found]

    ours = {"classes": 5, "dim": 24, "depth": 2, "heads": 3, "mlp": 2.0}
    make = partial(
        official.CeIT, embed_dim=24, depth=2, num_heads=3, mlp_ratio=2.0, num_classes=5, qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )  # fmt: skip
    tokens = official.Image2Tokens
    return {
        "ceit": run(make(img_size=16, patch_size=1, hybrid_backbone=tokens()), 16,
                    ours | {"image": 16, "patch": 4}, "ceit_tiny"),
        "ceit, kernels of 5": run(
            make(img_size=32, patch_size=2, hybrid_backbone=tokens(), leff_local_size=5), 32,
            ours | {"image": 32, "patch": 8, "kernel": 5}, "ceit_tiny"),
    }  # fmt: skip


def pycls(folder: Path) -> dict[str, Any]:
    """ViT_P and ViT_C with both kinds of stems, and an epsilon of 1e-6, which ours has."""
    sys.path.insert(0, str(folder))
    from pycls.core.config import cfg  # type: ignore[import-not-found]
    from pycls.models.vit import ViT  # type: ignore[import-not-found]

    cfg.LN.EPS, results = 1e-6, {}
    for name, patch, dims, strides in (
        ("vit_p", 4, (), ()),
        ("vit_c", 4, (8, 16), (2, 2)),
        ("vit_c, six", 8, (8, 8, 12, 12, 16, 16), (2, 2, 1, 2, 1, 1)),
    ):
        cfg.VIT.PATCH_SIZE = patch
        stem = {"c_stem_kernels": [3] * len(dims) + [1], "c_stem_strides": [*strides, 1], "c_stem_dims": [*dims, 24]}
        size = {"image_size": 16, "patch_size": patch, "stem_type": "conv" if dims else "patchify", "n_layers": 2}
        size |= {"n_heads": 3, "hidden_d": 24, "mlp_d": 48, "cls_type": "token", "num_classes": 5}
        model = ViT(size | stem)
        ours = {"image": 16, "patch": patch, "classes": 5, "dim": 24, "depth": 2, "heads": 3, "mlp": 2.0}
        results[name] = run(model, 16, ours | ({"convs": dims, "strides": strides} if dims else {}), "vit_p_1gf")
    return results


def main(folder: Path) -> None:
    content: dict[str, Any] = {}
    for name, make in (("cct", compact), ("ceit", ceit), ("pycls", pycls)):
        clone = folder / REPOSITORIES[name].rpartition("/")[2]
        commit = subprocess.run(["git", "-C", clone, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        content[REPOSITORIES[name]] = {"commit": commit.stdout.strip(), "cases": make(clone)}
    FILE.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    from tformerlib.peers import prepare

    prepare()
    main(Path(sys.argv[1]))
