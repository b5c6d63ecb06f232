"""Weights in the layouts of GPT-3's relatives; its own were never published."""

from torch import Tensor

from ..models.gpt3 import GPT3
from .gpt import BLOCKS, START, tie, transpose_conv1d
from .gpt2 import EMBEDDINGS_AND_NORM
from .rules import Rules, published


@published("GPT3", "transformers")
def from_transformers(model: GPT3, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """`GPT2LMHeadModel` of the same size; its layers are all dense, its keys the same."""
    return tie(transpose_conv1d(state), "wte.weight"), [*EMBEDDINGS_AND_NORM, *BLOCKS]


@published("GPT3", "gpt-neo")
def from_gpt_neo(model: GPT3, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """`GPTNeoForCausalLM`: for GPT3(attention=partial(Attention, qkv_bias=False, scale=1.0)).

    Its queries, keys and values have no biases, and it does not divide scores by the square root of the head's width.
    """
    attention = START + r"h\.(\d+)\.attn\.attention\."
    return tie(state, "wte.weight"), [
        *EMBEDDINGS_AND_NORM,
        (attention + r"([qkv])_proj\.(.*)", r"blocks.\1.mixer.fn.\2.\3"),
        (attention + r"out_proj\.(.*)", r"blocks.\1.mixer.fn.out.\2"),
        (attention + r"(masked_)?bias", None),
        *BLOCKS,
    ]
