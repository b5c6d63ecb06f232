"""Weights of Deformable DETR as transformers names them."""

import re
from typing import Any

from torch import Tensor

from .detr import BLOCK, backbone, layers
from .rules import Rules, published

INNER = {
    rf"{theirs}\.{name}\.(.*)": rf"cross.fn.{ours}.\2"
    for theirs in ("self_attn", "encoder_attn")  # the encoder's is called self_attn, as it looks at its own places
    for name, ours in (("sampling_offsets", "offsets"), ("attention_weights", "weights"), ("value_proj", "v"),
                       ("output_proj", "out"))
}  # fmt: skip


@published("DeformableDETR", "transformers")
def from_transformers(model: Any, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """`DeformableDetrForObjectDetection`, whose heads are one, or one for each layer with with_box_refine=True."""
    heads = len(model.locate)
    state = {key: x for key, x in state.items() if not key.startswith("model.decoder.bbox_embed")}  # bbox_embed again
    if heads == 1:
        state = {key: x for key, x in state.items() if not re.match(r"(class|bbox)_embed\.[1-9]", key)}
    both = state.pop("model.query_position_embeddings.weight")
    state["queries"], state["contents"] = both.chunk(2, 1)
    return state, [
        (r"queries|contents", r"\g<0>"),
        (r"model\.level_embed", "encoder.level"),
        (r"model\.input_proj\.(.*)", r"encoder.project.\1"),
        (r"model\.reference_points\.(.*)", r"point.\1"),
        (r"model\.encoder\.layers\.(\d+)\.self_attn_layer_norm\.(.*)", r"encoder.layers.\1.cross.norm.\2"),
        *backbone(r"model\.backbone\.model\."),
        *layers(INNER | BLOCK),
        (r"class_embed\.(\d+)\.(.*)", r"classify.\1.\2"),
        *[(rf"bbox_embed\.(\d+)\.layers\.{i}\.(.*)", rf"locate.\1.{2 * i}.\2") for i in range(3)],
    ]
