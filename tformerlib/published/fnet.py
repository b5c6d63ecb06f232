"""Weights that other implementations of FNet hold."""

from torch import Tensor

from ..models.fnet import FNet
from .bert import HEAD, around_the_layers, complete
from .rules import Rules, published


@published("FNet", "transformers")
def from_transformers(model: FNet, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """`FNetForPreTraining`, and `FNetForMaskedLM` and `FNetModel`, which have fewer heads: the model keeps its own."""
    state = complete(model, state, "fnet.", {HEAD: "masked.", "cls.seq_relationship.": "follows."})
    layer = r"fnet\.encoder\.layer\.(\d+)\."
    return state, [
        *around_the_layers("fnet."),
        (r"fnet\.embeddings\.projection\.(.*)", r"project.\1"),
        (layer + r"fourier\.output\.LayerNorm\.(.*)", r"blocks.\1.mixer.norm.\2"),
        (layer + r"intermediate\.dense\.(.*)", r"blocks.\1.mlp.fn.0.\2"),
        (layer + r"output\.dense\.(.*)", r"blocks.\1.mlp.fn.3.\2"),
        (layer + r"output\.LayerNorm\.(.*)", r"blocks.\1.mlp.norm.\2"),
        (r"cls\.seq_relationship\.(.*)", r"follows.\1"),
    ]
