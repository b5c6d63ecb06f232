"""Weights that other implementations of SqueezeBERT hold."""

import re

from torch import Tensor

from ..models.squeezebert import SqueezeBERT
from .bert import HEAD, around_the_layers, complete
from .rules import Rules, published


@published("SqueezeBERT", "transformers")
def from_transformers(model: SqueezeBERT, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """`SqueezeBertForMaskedLM`, and `SqueezeBertModel`, which has no head: the model keeps its own.

    Their convolutions (out, in / groups, 1) become our blocks (groups, in / groups, out / groups).
    """
    state = complete(model, state, "transformer.", {HEAD: "masked."})
    layer = r"transformer\.encoder\.layers\.(\d+)\."
    rules: Rules = [
        *around_the_layers("transformer."),
        (layer + r"attention\.(q|k|v)(?:uery|ey|alue)\.(.*)", r"blocks.\1.mixer.fn.\2.\3"),
        (layer + r"post_attention\.conv1d\.(.*)", r"blocks.\1.mixer.fn.out.\2"),
        (layer + r"post_attention\.layernorm\.(.*)", r"blocks.\1.mixer.norm.\2"),
        (layer + r"intermediate\.conv1d\.(.*)", r"blocks.\1.mlp.fn.layers.0.\2"),
        (layer + r"output\.conv1d\.(.*)", r"blocks.\1.mlp.fn.layers.2.\2"),
        (layer + r"output\.layernorm\.(.*)", r"blocks.\1.mlp.norm.\2"),
    ]
    for key, x in state.items():
        if re.fullmatch(layer + r".*(query|key|value|conv1d)\.\w+", key) and "post_attention" not in key:
            x = x.unflatten(0, (model.groups, -1))
            state[key] = x.squeeze(-1).mT if key.endswith("weight") else x[:, None]
        elif re.fullmatch(layer + r"post_attention\.conv1d\.weight", key):
            state[key] = x.squeeze(-1)
    return state, rules
