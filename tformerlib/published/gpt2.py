"""Weights that other implementations of GPT-2 hold."""

from torch import Tensor

from ..models.gpt2 import GPT2
from .gpt import BLOCKS, START, tie, transpose_conv1d
from .rules import Rules, published

EMBEDDINGS_AND_NORM = [
    (START + r"wte\.weight", "tokens.weight"),
    (START + r"wpe\.weight", "positions.weight"),
    (START + r"ln_f\.(.*)", r"norm.\1"),
]


@published("GPT2", "transformers")
def from_transformers(model: GPT2, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """`GPT2LMHeadModel`, or the `GPT2Model` inside, as the files on the hub are."""
    return tie(transpose_conv1d(state), "wte.weight"), [*EMBEDDINGS_AND_NORM, *BLOCKS]
