"""Weights that other implementations of GPT hold."""

import re

import torch
from torch import Tensor

from ..models.gpt import GPT
from .rules import Rules, published


@published("GPT", "transformers")
def from_transformers(model: GPT, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """`OpenAIGPTLMHeadModel`, or the `OpenAIGPTModel` inside."""
    state = tie(transpose_conv1d(state), "tokens_embed.weight")
    return state, [(START + r"(tokens|positions)_embed\.weight", r"\1.weight"), *BLOCKS]


def transpose_conv1d(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The released code called its linear layers convolutions of width one: weights lie (in, out), ours (out, in)."""
    conv1d = re.compile(r".*\.(c_attn|c_proj|c_fc)\.weight")
    return {key: x.T if conv1d.fullmatch(key) else x for key, x in state.items()}


def tie(state: dict[str, Tensor], embedding: str) -> dict[str, Tensor]:
    """Adds the output layer's weights where a file holds them once, as the embeddings.

    Raises:
        ValueError: an output layer of its own, which ours has not.
    """
    tokens = next((x for key, x in state.items() if key.removeprefix("transformer.") == embedding), None)
    if tokens is not None and not torch.equal(tokens, state.setdefault("lm_head.weight", tokens)):
        raise ValueError("the published embeddings and output differ; ours share one table")
    return state


START = r"(?:transformer\.)?"  # the files of the hub have no prefix, the model with its output layer has
BLOCKS: list[tuple[str, str | None]] = [
    (START + r"h\.(\d+)\.attn\.c_attn\.(.*)", r"blocks.\1.mixer.fn.{q,k,v}.\2"),
    (START + r"h\.(\d+)\.attn\.c_proj\.(.*)", r"blocks.\1.mixer.fn.out.\2"),
    (START + r"h\.(\d+)\.ln_1\.(.*)", r"blocks.\1.mixer.norm.\2"),
    (START + r"h\.(\d+)\.mlp\.c_fc\.(.*)", r"blocks.\1.mlp.fn.0.\2"),
    (START + r"h\.(\d+)\.mlp\.c_proj\.(.*)", r"blocks.\1.mlp.fn.3.\2"),
    (START + r"h\.(\d+)\.ln_2\.(.*)", r"blocks.\1.mlp.norm.\2"),
    (START + r"h\.\d+\.attn\.(masked_)?bias", None),  # the causal mask, which old files hold
    (r"lm_head\.weight", "output.weight"),
]
