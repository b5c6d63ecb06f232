"""Weights that other implementations of ViT hold. Positions for another image size are resampled."""

import math

import torch
from torch import Tensor

from ..layers.positions import resize_grid
from ..models.vit import ViT
from .rules import Rules, published


@published("ViT", "timm")
def from_timm(model: ViT, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """timm's `vit_*` and `deit_*` with a class token, hybrids with `ResNetV2` stems included."""
    stem = r"patch_embed\.backbone\."
    block, backbone = r"blocks\.(\d+)\.", stem + r"(?:stem\.)?"
    rules = [
        (r"prefix|positions", r"\g<0>"),
        (r"patch_embed\.proj\.(.*)", r"patches.conv.\1"),
        (block + r"norm1\.(.*)", r"blocks.\1.mixer.norm.\2"),
        (block + r"norm2\.(.*)", r"blocks.\1.mlp.norm.\2"),
        (block + r"attn\.qkv\.(.*)", r"blocks.\1.mixer.fn.{q,k,v}.\2"),
        (block + r"attn\.proj\.(.*)", r"blocks.\1.mixer.fn.out.\2"),
        (block + r"mlp\.fc1\.(.*)", r"blocks.\1.mlp.fn.0.\2"),
        (block + r"mlp\.fc2\.(.*)", r"blocks.\1.mlp.fn.3.\2"),
        (r"(norm|head)\.(.*)", r"\1.\2"),
        (r"head_dist\.(.*)", r"teacher_head.\1"),
        (backbone + r"conv\.(.*)", r"stem.0.0.\1"),
        (backbone + r"norm\.(.*)", r"stem.0.1.\1"),
    ]
    place = 2  # after the convolution and the pooling
    for i, j in sorted({(int(k.split(".")[3]), int(k.split(".")[5])) for k in state if ".backbone.stages." in k}):
        here = stem + rf"stages\.{i}\.blocks\.{j}\."
        rules += [(here + rf"conv{n + 1}\.(.*)", rf"stem.{place}.branch.{n}.0.\1") for n in range(3)]
        rules += [(here + rf"norm{n + 1}\.(.*)", rf"stem.{place}.branch.{n}.1.\1") for n in range(3)]
        rules += [(here + r"downsample\.conv\.(.*)", rf"stem.{place}.shortcut.0.\1")]
        rules += [(here + r"downsample\.norm\.(.*)", rf"stem.{place}.shortcut.1.\1")]
        place += 1
    return _tokens(model, state, "cls_token", "dist_token", "pos_embed"), rules


@published("ViT", "transformers")
def from_transformers(model: ViT, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """`ViTForImageClassification` and `DeiTForImageClassification(WithTeacher)`, with the keys of transformers 4 or 5.

    Its default of 1e-12 in the norms is not ours, and not that of the released models of ViT, which say 1e-6 or 1e-12
    in their configurations.
    """
    embeddings = next(key for key in state if key.endswith("embeddings.cls_token")).removesuffix("cls_token")
    names = (embeddings + name for name in ("cls_token", "distillation_token", "position_embeddings"))
    block = r"\w+\.(?:encoder\.layer|layers)\.(\d+)\."
    return _tokens(model, state, *names), [
        (r"prefix|positions", r"\g<0>"),
        (r"\w+\.embeddings\.patch_embeddings\.projection\.(.*)", r"patches.conv.\1"),
        (block + r"attention\.attention\.([qkv])(?:uery|ey|alue)\.(.*)", r"blocks.\1.mixer.fn.\2.\3"),
        (block + r"attention\.([qkv])_proj\.(.*)", r"blocks.\1.mixer.fn.\2.\3"),
        (block + r"attention\.(?:output\.dense|o_proj)\.(.*)", r"blocks.\1.mixer.fn.out.\2"),
        (block + r"layernorm_before\.(.*)", r"blocks.\1.mixer.norm.\2"),
        (block + r"layernorm_after\.(.*)", r"blocks.\1.mlp.norm.\2"),
        (block + r"(?:intermediate\.dense|mlp\.fc1)\.(.*)", r"blocks.\1.mlp.fn.0.\2"),
        (block + r"(?:output\.dense|mlp\.fc2)\.(.*)", r"blocks.\1.mlp.fn.3.\2"),
        (r"\w+\.layernorm\.(.*)", r"norm.\1"),
        (r"(?:cls_)?classifier\.(.*)", r"head.\1"),
        (r"distillation_classifier\.(.*)", r"teacher_head.\1"),
    ]


def _tokens(model: ViT, state: dict[str, Tensor], label: str, teacher: str, positions: str) -> dict[str, Tensor]:
    """The class token, and the distillation token if there is one, as `prefix`; positions for the model's grid."""
    state["prefix"] = torch.cat([state.pop(name) for name in (label, teacher) if name in state], 1)
    count, table = state["prefix"].shape[1], state.pop(positions)
    patches = table.shape[1] - count
    old = (math.isqrt(patches),) * 2  # a table does not know its sides; published ones are squares
    if old[0] ** 2 != patches:
        old = model.grid
        if patches != old[0] * old[1]:
            raise ValueError(f"{positions} has {patches} patches, neither a square nor the model's grid {old}")
    grid = resize_grid(table[0, count:], old, model.grid)
    state["positions"] = torch.cat([table[:, :count], grid[None]], 1)
    return state
