"""Weights of Conditional DETR as transformers names them."""

from typing import Any

from torch import Tensor

from .detr import BLOCK, backbone, ends, flat, layers
from .rules import Rules, published

SPLIT = {  # the decoder's projections of content and place
    r"self_attn\.([qk])_content_proj\.(.*)": r"attn.fn.\2.\3",
    r"self_attn\.([qk])_pos_proj\.(.*)": r"attn.fn.\2_place.\3",
    r"encoder_attn\.([qk])_content_proj\.(.*)": r"cross.fn.\2.\3",
    r"encoder_attn\.([qk])_pos_proj\.(.*)": r"cross.fn.\2_place.\3",
    r"encoder_attn\.q_pos_sine_proj\.(.*)": r"cross.fn.where.\2",
}
HEADS = {"query_scale": "bend", "ref_point_head": "point"}


@published("ConditionalDETR", "transformers")
def from_transformers(model: Any, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """`ConditionalDetrForObjectDetection` with a backbone of transformers' own."""
    heads = [(rf"model\.decoder\.{theirs}\.layers\.{i}\.(.*)", rf"{ours}.{2 * i}.\1")
             for theirs, ours in HEADS.items() for i in range(2)]  # fmt: skip
    rules = [*backbone(r"model\.backbone\.model\."), *layers(SPLIT | BLOCK), *heads, *ends("class_labels_classifier")]
    return flat(state), rules
