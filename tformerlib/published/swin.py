"""Weights of Swin and Swin V2 as timm and transformers name them. Bias tables of other windows are resized."""

import re

import torch
from torch import Tensor, nn

from ..layers.positions import resize_grid
from .rules import Rules, convert, published

TABLE = "relative_position_bias_table"
INNER = {  # of a block: timm's names and ours
    r"attn\.qkv\.(.*)": r"mixer.fn.qkv.\3",
    r"attn\.proj\.(.*)": r"mixer.fn.out.\3",
    rf"attn\.{TABLE}": "mixer.fn.bias.table",
    r"attn\.([qv]_bias)": r"mixer.fn.\3",
    r"attn\.logit_scale": "mixer.fn.log_scale",
    r"attn\.cpb_mlp\.(.*)": r"mixer.fn.bias.mlp.\3",
    r"norm1\.(.*)": r"mixer.norm.\3",
    r"norm2\.(.*)": r"mlp.norm.\3",
    r"mlp\.fc1\.(.*)": r"mlp.fn.0.\3",
    r"mlp\.fc2\.(.*)": r"mlp.fn.3.\3",
}
BLOCK = r"layers\.(\d)\.blocks\.(\d+)\."
TIMM: Rules = [
    (r"patch_embed\.proj\.(.*)", r"embed.0.conv.\1"),
    (r"patch_embed\.norm\.(.*)", r"embed.0.norm.\1"),
    (r"layers\.(\d)\.downsample\.norm\.(.*)", r"embed.\1.norm.\2"),
    (r"layers\.(\d)\.downsample\.reduction\.(.*)", r"embed.\1.reduce.\2"),
    *((BLOCK + theirs, r"stages.\1.\2." + ours) for theirs, ours in INNER.items()),
    (r"norm\.(.*)", r"norm.\1"),
    (r"head\.fc\.(.*)", r"head.\1"),
]
ATTENTION = {  # of a block: names of transformers 5, of version 4 (in published files), and timm's
    r"attention\.([qkv])_proj\.(.*)": r"attn.\3.\4",
    r"attention\.self\.([qkv])(?:uery|ey|alue)\.(.*)": r"attn.\3.\4",
    r"attention\.(?:o_proj|output\.dense)\.(.*)": r"attn.proj.\3",
    rf"attention\.(?:self|relative_position_bias)\.{TABLE}": rf"attn.{TABLE}",
    r"attention\.self\.logit_scale": "attn.logit_scale",
    r"attention\.self\.continuous_position_bias_mlp\.(.*)": r"attn.cpb_mlp.\3",
    r"attention\.self\.relative_(?:position_index|coords_table)": None,
    r"layernorm_before\.(.*)": r"norm1.\3",
    r"layernorm_after\.(.*)": r"norm2.\3",
    r"(?:mlp\.fc1|intermediate\.dense)\.(.*)": r"mlp.fc1.\3",
    r"(?:mlp\.fc2|output\.dense)\.(.*)": r"mlp.fc2.\3",
}
TRANSFORMERS: Rules = [
    (r"embeddings\.patch_embeddings\.projection\.(.*)", r"patch_embed.proj.\1"),
    (r"embeddings\.norm\.(.*)", r"patch_embed.norm.\1"),
    (r"encoder\.(layers\.\d\.downsample\..*)", r"\1"),
    *((r"encoder\." + BLOCK + theirs, ours and r"layers.\1.blocks.\2." + ours) for theirs, ours in ATTENTION.items()),
    (r"layernorm\.(.*)", r"norm.\1"),
    (r"classifier\.(.*)", r"head.fc.\1"),
]


@published("SwinV2", "timm")
@published("Swin", "timm")
def from_timm(model: nn.Module, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """timm's `swin_*` and `swinv2_*`."""
    own = model.state_dict()
    for key in [key for key in state if key.endswith(TABLE)]:
        (name,) = convert({key: state[key]}, TIMM)
        old, new = (round(len(table) ** 0.5) for table in (state[key], own[name]))
        state[key] = resize_grid(state[key], (old, old), (new, new))
    for key in [key for key in state if key.endswith("logit_scale")]:
        state[key] = state[key].flatten()
    return state, TIMM


@published("SwinV2", "transformers")
@published("Swin", "transformers")
def from_transformers(model: nn.Module, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """`SwinForImageClassification` and `Swinv2ForImageClassification`: one projection each for q, k and v."""
    state = convert({re.sub(r"^swin(v2)?\.", "", key): x for key, x in state.items()}, TRANSFORMERS)
    for key in [key for key in state if key.endswith(".attn.q.weight")]:
        at = key.removesuffix("q.weight")
        state[at + "qkv.weight"] = torch.cat([state.pop(f"{at}{name}.weight") for name in "qkv"])
        if f"{at}k.bias" in state:
            state[at + "qkv.bias"] = torch.cat([state.pop(f"{at}{name}.bias") for name in "qkv"])
        else:
            state |= {f"{at}{name}_bias": state.pop(f"{at}{name}.bias") for name in "qv"}
    for key in [key for key in state if ".downsample." in key]:  # here at the end of a stage, in timm at the beginning
        layers, s, *rest = key.split(".")
        state[".".join([layers, f"{int(s) + 1}", "moved", *rest])] = state.pop(key)
    return from_timm(model, {key.replace(".moved.", "."): x for key, x in state.items()})
