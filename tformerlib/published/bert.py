"""Weights that other implementations of BERT hold."""

import torch
from torch import Tensor, nn

from ..models.bert import BERT
from .rules import Rules, published

HEAD = "cls.predictions."


@published("BERT", "transformers")
def from_transformers(model: BERT, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """`BertForPreTraining`, and `BertForMaskedLM` and `BertModel`, which have fewer heads: the model keeps its own.

    Their activation must be "gelu_new" for equal results, as in the official code; by default it is the exact GELU.
    """
    state = complete(model, state, "bert.", {HEAD: "masked.", "cls.seq_relationship.": "follows."})
    layer = r"bert\.encoder\.layer\.(\d+)\."
    return state, [
        *around_the_layers("bert."),
        (layer + r"attention\.self\.(q|k|v)(?:uery|ey|alue)\.(.*)", r"blocks.\1.mixer.fn.\2.\3"),
        (layer + r"attention\.output\.dense\.(.*)", r"blocks.\1.mixer.fn.out.\2"),
        (layer + r"attention\.output\.LayerNorm\.(.*)", r"blocks.\1.mixer.norm.\2"),
        (layer + r"intermediate\.dense\.(.*)", r"blocks.\1.mlp.fn.0.\2"),
        (layer + r"output\.dense\.(.*)", r"blocks.\1.mlp.fn.3.\2"),
        (layer + r"output\.LayerNorm\.(.*)", r"blocks.\1.mlp.norm.\2"),
        (r"cls\.seq_relationship\.(.*)", r"follows.\1"),
    ]


def complete(model: nn.Module, state: dict[str, Tensor], body: str, heads: dict[str, str]) -> dict[str, Tensor]:
    """A state in the form of the largest model: names of a bare body under `body`, tied tensors once, our own heads
    (their prefix -> ours, and the pooler) where the state has none.

    Raises:
        ValueError: tensors that should be tied and differ.
    """
    if not any(key.startswith(body) for key in state):
        state = {body + key: tensor for key, tensor in state.items()}
    state.pop(body + "embeddings.position_ids", None)  # 0, 1, 2, ...: older versions store it
    tokens, twin = body + "embeddings.word_embeddings.weight", HEAD + "bias"
    if any(key.startswith(HEAD) for key in state):
        for key, other in ((HEAD + "decoder.weight", tokens), (HEAD + "decoder.bias", twin)):
            if other in state and not torch.equal(state.setdefault(key, state[other]), state[other]):
                raise ValueError(f"{key!r} and {other!r} are one tensor in the paper, and differ here")
        state.pop(twin, None)
    for theirs, ours in {**heads, body + "pooler.": "pooler."}.items():
        if not any(key.startswith(theirs) for key in state):
            state |= {key: x for key, x in model.state_dict().items() if key.startswith(ours)}
    return state | ({"masked.output.weight": state[tokens]} if "masked.output.weight" in state else {})


def around_the_layers(body: str) -> Rules:
    """Rules for embeddings, pooler and masked head, and for heads of ours that stay as they are."""
    body = body.replace(".", r"\.")
    embeddings = body + r"embeddings\."
    return [
        (r"(masked|follows|pooler)\..*", r"\g<0>"),
        (embeddings + r"word_embeddings\.(.*)", r"embed.tokens.\1"),
        (embeddings + r"position_embeddings\.(.*)", r"embed.positions.\1"),
        (embeddings + r"token_type_embeddings\.(.*)", r"embed.segments.\1"),
        (embeddings + r"LayerNorm\.(.*)", r"embed.norm.\1"),
        (body + r"pooler\.dense\.(.*)", r"pooler.\1"),
        (r"cls\.predictions\.transform\.dense\.(.*)", r"masked.dense.\1"),
        (r"cls\.predictions\.transform\.LayerNorm\.(.*)", r"masked.norm.\1"),
        (r"cls\.predictions\.decoder\.(.*)", r"masked.output.\1"),
    ]
