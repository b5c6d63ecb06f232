"""Weights of DAB-DETR as transformers names them."""

from typing import Any

from torch import Tensor

from .detr import BLOCK, backbone, ends, flat, layers
from .rules import Rules, published

NAMES = {"query": "q", "key": "k", "value": "v"}
INNER: dict[str, str] = {
    f"{kind}_attn\\.{kind}_attn_{theirs}{part}_proj\\.(.*)": f"{name}.fn.{ours}{place}.\\2"
    for kind, name in (("self", "attn"), ("cross", "cross"))
    for theirs, ours in NAMES.items()
    for part, place in (("", ""), ("_content", ""), ("_pos", "_place"))
} | {
    r"self_attn\.self_attn\.output_proj\.(.*)": r"attn.fn.out.\2",
    r"self_attn\.self_attn_layer_norm\.(.*)": r"attn.norm.\2",
    r"cross_attn\.cross_attn_query_pos_sine_proj\.(.*)": r"cross.fn.where.\2",
    r"cross_attn\.cross_attn\.output_proj\.(.*)": r"cross.fn.out.\2",
    r"cross_attn\.cross_attn_layer_norm\.(.*)": r"cross.norm.\2",
    r"(?:mlp\.)?activation_fn\.(.*)": r"mlp.fn.1.\2",
}
HEADS = {r"encoder\.query_scale": "encoder.steer", r"decoder\.query_scale": "bend", r"decoder\.ref_point_head": "query",
         r"decoder\.ref_anchor_head": "size"}  # fmt: skip


@published("DABDETR", "transformers")
def from_transformers(model: Any, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """`DabDetrForObjectDetection` with a backbone of transformers' own."""
    heads = [(rf"model\.{theirs}\.layers\.{i}\.(.*)", rf"{ours}.{2 * i}.\1")
             for theirs, ours in HEADS.items() for i in range(2)]  # fmt: skip
    return flat(state), [
        *backbone(r"model\.backbone\.conv_encoder\.model\."), *layers(INNER | BLOCK), *heads, *ends("class_embed"),
        (r"model\.query_refpoint_embeddings\.weight", "anchors"),
        (r"model\.decoder\.bbox_embed\..*", None),  # the same tensors as bbox_predictor
    ]  # fmt: skip
