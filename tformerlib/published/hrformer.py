"""Weights of HRFormer as the official code of classification names them."""

import torch
from torch import Tensor

from ..models.hrformer import HRFormer
from .rules import Rules, published

MLP = {"fc1": 0, "norm1": 1, "dw3x3": 3, "norm2": 4, "fc2": 6, "norm3": 7}


def residual(theirs: str, ours: str) -> list[tuple[str, str]]:
    """A bottleneck's three convolutions with their norms, and those of its shortcut."""
    parts = [(f"{kind}{n + 1}", f"branch.{n}.{i}") for n in range(3) for i, kind in enumerate(("conv", "bn"))]
    parts += [(rf"downsample\.{i}", f"shortcut.{i}") for i in range(2)]
    return [(rf"{theirs}\.{a}\.(.*)", rf"{ours}.{b}.\1") for a, b in parts]


def stage(s: int) -> list[tuple[str, str | None]]:
    """Their stage s + 2, which is ours number s."""
    block, ours = rf"stage{s + 2}\.(\d)\.branches\.(\d)\.(\d)\.", rf"stages.{s}.\1.branches.\2.\3."
    fuse, bridge = rf"stage{s + 2}\.(\d)\.fuse_layers\.(\d)\.(\d)\.", rf"stages.{s}.\1.fuse.\2.\3."
    return [
        (rf"transition{s + 1}\.{s + 1}\.0\.([01]\..*)", rf"open.{s}.\1"),
        (block + r"attn\.attn\.qkv\.(.*)", ours + r"mixer.fn.qkv.\4"),
        (block + r"attn\.attn\.out_proj\.(.*)", ours + r"mixer.fn.out.\4"),
        (block + r"attn\.attn\.relative_position_bias_table", ours + "mixer.fn.bias.table"),
        (block + r"attn\.attn\.relative_position_index", None),
        (block + r"norm1\.(.*)", ours + r"mixer.norm.\4"),
        (block + r"norm2\.(.*)", ours + r"mlp.norm.\4"),
        *((block + rf"mlp\.{a}\.(.*)", ours + rf"mlp.fn.{b}.\4") for a, b in MLP.items()),
        (fuse + r"([01]\.[a-z].*)", bridge + r"0.\4"),  # to a finer map
        *(
            (fuse + rf"{step}\.{n}\.(.*)", bridge + rf"{2 * step + n // 2}.{n % 2}.\4")
            for step in range(3) for n in range(4)  # to a coarser map, in steps of two convolutions with norms
        ),
    ]  # fmt: skip


@published("HRFormer", "official")
def from_official(model: HRFormer, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """`HighResolutionTransformer` of HRNet/HRFormer, folder cls. Its stages are counted from 2 there, from 0 here."""
    for at in [key.removesuffix("q_proj.weight") for key in state if key.endswith("attn.q_proj.weight")]:
        for part in ("weight", "bias"):
            state[f"{at}qkv.{part}"] = torch.cat([state.pop(f"{at}{name}_proj.{part}") for name in "qkv"])
    return state, [
        *((rf"{kind}{n}\.(.*)", rf"stem.{n - 1}.{i}.\1") for n in (1, 2) for i, kind in enumerate(("conv", "bn"))),
        *(rule for i in range(len(model.stem) - 2) for rule in residual(rf"layer1\.{i}", f"stem.{i + 2}")),
        (r"transition1\.0\.([01]\..*)", r"enter.\1"),
        *(rule for s in range(len(model.stages)) for rule in stage(s)),
        *(rule for i in range(len(model.widen)) for rule in residual(rf"incre_modules\.{i}\.0", f"widen.{i}")),
        (r"downsamp_modules\.(\d)\.(.*)", r"join.\1.\2"),
        (r"final_layer\.(.*)", r"last.\1"),
        (r"classifier\.(.*)", r"head.\1"),
    ]
