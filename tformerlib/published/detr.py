"""Weights of DETR and its successors as transformers names them."""

from typing import Any

from torch import Tensor

from .rules import Rules, published

STAGE = r"encoder\.stages\.(\d+)\.layers\.(\d+)\."
RESNET: dict[str, str] = {  # transformers' own, not timm's
    r"embedder\.embedder\.convolution\.(.*)": r"stem.0.0.\1",
    r"embedder\.embedder\.normalization\.(.*)": r"stem.0.1.\1",
    STAGE + r"layer\.(\d+)\.convolution\.(.*)": r"stages.\1.\2.branch.\3.0.\4",
    STAGE + r"layer\.(\d+)\.normalization\.(.*)": r"stages.\1.\2.branch.\3.1.\4",
    STAGE + r"shortcut\.convolution\.(.*)": r"stages.\1.\2.shortcut.0.\3",
    STAGE + r"shortcut\.normalization\.(.*)": r"stages.\1.\2.shortcut.1.\3",
}
LAYERS = r"model\.(encoder|decoder)\.layers\.(\d+)\."
OURS = {"encoder": "encoder.layers", "decoder": "decoder"}


def backbone(prefix: str) -> list[tuple[str, str]]:
    return [(prefix + theirs, "encoder.backbone.body." + ours) for theirs, ours in RESNET.items()]


def layers(inner: dict[str, str]) -> list[tuple[str, str]]:
    """Rules of both stacks, of names inside a layer whose groups begin at 2."""
    return [(rf"model\.{stack}\.layers\.(\d+)\.{theirs}", rf"{name}.\1.{ours}")
            for stack, name in OURS.items() for theirs, ours in inner.items()]  # fmt: skip


def ends(classes: str) -> list[tuple[str, str]]:
    """Rules outside the layers."""
    return [
        (r"model\.query_position_embeddings\.weight", "queries"),
        (r"model\.input_projection\.(.*)", r"encoder.project.\1"),
        (r"model\.decoder\.layernorm\.(.*)", r"norm.\1"),
        (classes + r"\.(.*)", r"classify.\1"),
        *[(rf"bbox_predictor\.layers\.{i}\.(.*)", rf"locate.{2 * i}.\1") for i in range(3)],
    ]


BLOCK = {
    r"self_attn\.([qkv])_proj\.(.*)": r"attn.fn.\2.\3",
    r"self_attn\.o(?:ut)?_proj\.(.*)": r"attn.fn.out.\2",
    r"self_attn_layer_norm\.(.*)": r"attn.norm.\2",
    r"encoder_attn\.([qkv])_proj\.(.*)": r"cross.fn.\2.\3",
    r"encoder_attn\.o_proj\.(.*)": r"cross.fn.out.\2",
    r"encoder_attn_layer_norm\.(.*)": r"cross.norm.\2",
    r"(?:mlp\.)?fc1\.(.*)": r"mlp.fn.0.\2",
    r"(?:mlp\.)?fc2\.(.*)": r"mlp.fn.3.\2",
    r"(?:mlp\.)?final_layer_norm\.(.*)": r"mlp.norm.\2",
}


def flat(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """1 x 1 convolutions are linear layers here."""
    return {key: x.flatten(1) if key == "model.input_projection.weight" else x for key, x in state.items()}


@published("DETR", "transformers")
def from_transformers(model: Any, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """`DetrForObjectDetection` with a backbone of transformers' own."""
    return flat(state), [*backbone(r"model\.backbone\.model\."), *layers(BLOCK), *ends("class_labels_classifier")]
