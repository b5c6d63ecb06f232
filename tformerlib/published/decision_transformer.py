"""Weights that other implementations of Decision Transformer hold."""

from torch import Tensor

from ..models.decision_transformer import DecisionTransformer
from .gpt import BLOCKS, transpose_conv1d
from .rules import Rules, published


@published("DecisionTransformer", "transformers")
def from_transformers(model: DecisionTransformer, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """`DecisionTransformerModel`, also as its files are on the hub.

    It looks up position 0 of GPT-2's table for every token and adds it after `embed_ln`. That vector is a shift which
    the bias of our `norm_in` takes in. Its table of words is not used.
    """
    state = transpose_conv1d(state)
    if (places := state.pop("encoder.wpe.weight", None)) is not None:
        state["embed_ln.bias"] = state["embed_ln.bias"] + places[0]
    rules: Rules = [
        (r"encoder\.wte\.weight", None),
        (r"encoder\.ln_f\.(.*)", r"norm.\1"),
        (r"embed_timestep\.weight", "times.weight"),
        (r"embed_(return|state|action)\.(.*)", r"embed_\1.\2"),
        (r"embed_ln\.(.*)", r"norm_in.\1"),
        (r"predict_(return|state)\.(.*)", r"to_\1.\2"),
        (r"predict_action\.(.*)", r"to_action.\1"),
        *((r"encoder\." + pattern.removeprefix(r"(?:transformer\.)?"), new) for pattern, new in BLOCKS),
    ]
    return state, rules
