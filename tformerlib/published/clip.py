"""Weights that other implementations of CLIP hold. Positions for another image size are resampled."""

import math

import torch
from torch import Tensor

from ..layers.positions import resize_grid
from ..models.clip import CLIP
from .rules import Rules, published


@published("CLIP", "transformers")
def from_transformers(model: CLIP, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """`CLIPModel` with a `hidden_act` of "quick_gelu", as released; its end of a text is the largest id."""
    rules: list[tuple[str, str | None]] = [
        (r"logit_scale", "log_scale"),
        (r"(?:vision|text)_model\.embeddings\.position_ids", None),  # 0, 1, 2, ...: older versions store it
        (r"vision_model\.embeddings\.class_embedding", "image.label"),
        (r"vision_model\.embeddings\.patch_embedding\.weight", "image.patches.weight"),
        (r"vision_model\.pre_layrnorm\.(.*)", r"image.before.\1"),
        (r"vision_model\.post_layernorm\.(.*)", r"image.norm.\1"),
        (r"image\.positions", r"\g<0>"),
        (r"text_model\.embeddings\.token_embedding\.weight", "text.tokens.weight"),
        (r"text_model\.embeddings\.position_embedding\.weight", "text.positions.weight"),
        (r"text_model\.final_layer_norm\.(.*)", r"text.norm.\1"),
        (r"visual_projection\.weight", "image.project.weight"),
        (r"text_projection\.weight", "text.project.weight"),
    ]
    for theirs, ours in (("vision_model", "image"), ("text_model", "text")):
        layer = theirs + r"\.encoder\.layers\.(\d+)\."
        rules += [
            (layer + r"self_attn\.([qkv])_proj\.(.*)", ours + r".blocks.\1.mixer.fn.\2.\3"),
            (layer + r"self_attn\.out_proj\.(.*)", ours + r".blocks.\1.mixer.fn.out.\2"),
            (layer + r"layer_norm1\.(.*)", ours + r".blocks.\1.mixer.norm.\2"),
            (layer + r"layer_norm2\.(.*)", ours + r".blocks.\1.mlp.norm.\2"),
            (layer + r"mlp\.fc1\.(.*)", ours + r".blocks.\1.mlp.fn.0.\2"),
            (layer + r"mlp\.fc2\.(.*)", ours + r".blocks.\1.mlp.fn.3.\2"),
        ]
    return _positions(model, state, "vision_model.embeddings.position_embedding.weight"), rules


@published("CLIP", "official")
def from_official(model: CLIP, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """The official code's state dict, which OpenCLIP's `CLIP` shares; projections lie (in, out) there.

    OpenCLIP's models whose names do not say `quickgelu` compute the exact GELU: not these.
    """
    for name in ("visual.proj", "text_projection"):
        state[name] = state[name].T
    rules: list[tuple[str, str | None]] = [
        (r"logit_scale", "log_scale"),
        (r"input_resolution|context_length|vocab_size|attn_mask", None),  # sizes and the causal mask of old files
        (r"visual\.class_embedding", "image.label"),
        (r"visual\.conv1\.weight", "image.patches.weight"),
        (r"visual\.ln_pre\.(.*)", r"image.before.\1"),
        (r"visual\.ln_post\.(.*)", r"image.norm.\1"),
        (r"visual\.proj", "image.project.weight"),
        (r"image\.positions", r"\g<0>"),
        (r"token_embedding\.weight", "text.tokens.weight"),
        (r"positional_embedding", "text.positions.weight"),
        (r"ln_final\.(.*)", r"text.norm.\1"),
        (r"text_projection", "text.project.weight"),
    ]
    for theirs, ours in (("visual.", "image"), ("", "text")):
        layer = theirs.replace(".", r"\.") + r"transformer\.resblocks\.(\d+)\."
        rules += [
            (layer + r"attn\.in_proj_(.*)", ours + r".blocks.\1.mixer.fn.{q,k,v}.\2"),
            (layer + r"attn\.out_proj\.(.*)", ours + r".blocks.\1.mixer.fn.out.\2"),
            (layer + r"ln_1\.(.*)", ours + r".blocks.\1.mixer.norm.\2"),
            (layer + r"ln_2\.(.*)", ours + r".blocks.\1.mlp.norm.\2"),
            (layer + r"mlp\.c_fc\.(.*)", ours + r".blocks.\1.mlp.fn.0.\2"),
            (layer + r"mlp\.c_proj\.(.*)", ours + r".blocks.\1.mlp.fn.3.\2"),
        ]
    return _positions(model, state, "visual.positional_embedding"), rules


def _positions(model: CLIP, state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The label's position and those of the patches, the latter for the model's grid."""
    table = state.pop(name)
    side = math.isqrt(len(table) - 1)
    if side * side != len(table) - 1:
        raise ValueError(f"{name} has {len(table) - 1} patches, which is no square")
    state["image.positions"] = torch.cat([table[:1], resize_grid(table[1:], (side, side), model.image.grid)])
    return state
