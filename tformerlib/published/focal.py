"""Weights of the Focal Transformer as the official code names them."""

from torch import Tensor

from ..models.focal import Focal
from .rules import Rules, published


@published("Focal", "official")
def from_official(model: Focal, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """`FocalTransformer` of microsoft/Focal-Transformer with two focal levels and pooling by a layer ("fc").

    What joins patches stands at the end of a stage there, here at the beginning of the next.
    """
    ring = "relative_position_bias_table_to_neighbors"
    state = {key: x[0] if key.endswith(ring) else x for key, x in state.items()}
    block, ours = r"layers\.(\d)\.blocks\.(\d+)\.", r"stages.\1.\2."
    rules: Rules = [
        (r"patch_embed\.proj\.(.*)", r"embed.0.conv.\1"),
        (r"patch_embed\.norm\.(.*)", r"embed.0.norm.\1"),
        (block + r"attn\.qkv\.(.*)", ours + r"mixer.fn.attn.{q,k,v}.\3"),
        (block + r"attn\.proj\.(.*)", ours + r"mixer.fn.attn.out.\3"),
        (block + r"attn\.relative_position_bias_table", ours + "mixer.fn.bias.table"),
        (block + rf"attn\.{ring}", ours + "mixer.fn.ring_bias"),
        (block + r"attn\.relative_position_bias_table_to_windows\.0", ours + "mixer.fn.pooled_bias"),
        (block + r"attn\.(?:relative_position_index.*|valid_ind_rolled)", None),
        (block + r"pool_layers\.0\.(.*)", ours + r"mixer.fn.pool.\3"),
        (block + r"norm1\.(.*)", ours + r"mixer.norm.\3"),
        (block + r"norm2\.(.*)", ours + r"mlp.norm.\3"),
        (block + r"mlp\.fc1\.(.*)", ours + r"mlp.fn.0.\3"),
        (block + r"mlp\.fc2\.(.*)", ours + r"mlp.fn.3.\3"),
        (r"norm\.(.*)", r"norm.\1"),
        (r"head\.(.*)", r"head.\1"),
    ]
    for s in range(1, len(model.stages)):
        rules = [
            *rules,
            (rf"layers\.{s - 1}\.downsample\.proj\.(.*)", rf"embed.{s}.conv.\1"),
            (rf"layers\.{s - 1}\.downsample\.norm\.(.*)", rf"embed.{s}.norm.\1"),
        ]
    return state, rules
