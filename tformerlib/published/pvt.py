"""Weights of PVT as transformers and the official code name them. Positions of another image size are resized."""

import torch
from torch import Tensor, nn

from ..layers.positions import resize_grid
from .rules import Rules, published


def resize_positions(model: nn.Module, state: dict[str, Tensor], name: str) -> None:
    """Position tables (1, N, C), under `name` with the stage's number in it, as (N, C) of the model's size.

    The class token's comes first, in the last stage. The official code resizes bilinearly, in each forward pass.
    """
    own, stages = model.state_dict(), len(model.stages)  # type: ignore[arg-type]
    for s in range(stages):
        key, first = name.format(s), int(s == stages - 1)
        table, new = state[key][0], own[f"stages.{s}.positions"]
        sides = [round((len(t) - first) ** 0.5) for t in (table, new)]
        grid = resize_grid(table[first:], (sides[0], sides[0]), (sides[1], sides[1]))
        state[key] = torch.cat([table[:first], grid])


@published("PVT", "transformers")
def from_transformers(model: nn.Module, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """`PvtForImageClassification`.

    Its config has one epsilon for all norms; the official code, and ours, have 1e-6 in blocks and at the end, and 1e-5
    in embeddings and reductions.
    """
    resize_positions(model, state, "pvt.encoder.patch_embeddings.{}.position_embeddings")
    embed, block = r"pvt\.encoder\.patch_embeddings\.(\d)\.", r"pvt\.encoder\.block\.(\d)\.(\d+)\."
    ours = r"stages.\1.blocks.\2."
    return state, [
        (embed + r"position_embeddings", r"stages.\1.positions"),
        (embed + r"cls_token", r"stages.\1.cls"),
        (embed + r"projection\.(.*)", r"stages.\1.embed.conv.\2"),
        (embed + r"layer_norm\.(.*)", r"stages.\1.embed.norm.\2"),
        (block + r"attention\.self\.([qkv])(?:uery|ey|alue)\.(.*)", ours + r"mixer.fn.attn.\3.\4"),
        (block + r"attention\.self\.sequence_reduction\.(.*)", ours + r"mixer.fn.reduce.conv.\3"),
        (block + r"attention\.self\.layer_norm\.(.*)", ours + r"mixer.fn.reduce.norm.\3"),
        (block + r"attention\.output\.dense\.(.*)", ours + r"mixer.fn.attn.out.\3"),
        (block + r"layer_norm_1\.(.*)", ours + r"mixer.norm.\3"),
        (block + r"layer_norm_2\.(.*)", ours + r"mlp.norm.\3"),
        (block + r"mlp\.dense1\.(.*)", ours + r"mlp.fn.0.\3"),
        (block + r"mlp\.dense2\.(.*)", ours + r"mlp.fn.3.\3"),
        (r"pvt\.encoder\.layer_norm\.(.*)", r"norm.\1"),
        (r"classifier\.(.*)", r"head.\1"),
    ]
