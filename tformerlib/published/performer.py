"""Weights that other implementations of the Performer hold."""

from torch import Tensor

from ..models.performer import Performer
from .rules import Rules, published


@published("Performer", "performer-pytorch")
def from_performer_pytorch(model: Performer, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """`PerformerLM` with learned positions (rotary_position_emb=False) and biases (qkv_bias, attn_out_bias).

    Its directions come along; its counter of calls until they are drawn again does not.
    """
    state.pop("performer.proj_updater.calls_since_last_redraw", None)
    state = {key: x for key, x in state.items() if not key.startswith("performer.proj_updater.instance.")}
    layer = r"performer\.net\.layers\.(\d+)\."
    return state, [
        (r"token_emb\.(.*)", r"tokens.\1"),
        (r"pos_emb\.emb\.(.*)", r"positions.\1"),
        (layer + r"0\.norm\.(.*)", r"blocks.\1.mixer.norm.\2"),
        (layer + r"0\.fn\.to_([qkv])\.(.*)", r"blocks.\1.mixer.fn.\2.\3"),
        (layer + r"0\.fn\.to_out\.(.*)", r"blocks.\1.mixer.fn.out.\2"),
        (layer + r"0\.fn\.fast_attention\.projection_matrix", r"blocks.\1.mixer.fn.attend.directions"),
        (layer + r"1\.norm\.(.*)", r"blocks.\1.mlp.norm.\2"),
        (layer + r"1\.fn\.fn\.w1\.(.*)", r"blocks.\1.mlp.fn.0.\2"),
        (layer + r"1\.fn\.fn\.w2\.(.*)", r"blocks.\1.mlp.fn.3.\2"),
        (r"norm\.(.*)", r"norm.\1"),
        (r"to_out\.(.*)", r"output.\1"),
    ]
