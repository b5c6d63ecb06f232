"""Numbers from performer-pytorch 1.1.4: how efficient_mixing.json is made.

    python -m tests.models.golden.efficient_mixing

It needs that package, with axial-positional-embedding and local-attention, beside what the library needs. Its code is
run, not copied: the file has names, shapes and numbers. Its eps is an argument that its modules do not hand on, so it
is bound here: 1e-6, as in the official code; and 0 in the causal cases, where its largest key is of the whole sequence
and ours of none, so that only without eps both are the same function. Gradients are recorded without eps, too: it
holds the largest score constant in its gradients, which the official code and ours do not.
"""

import importlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tformerlib.peers.golden import fill, uniform

FILE = Path(__file__).resolve().parents[3] / "data" / "golden" / f"{Path(__file__).stem}.json"
SIZE = {"vocab": 23, "dim": 24, "depth": 2, "heads": 3, "hidden": 96, "context": 19, "features": 20}


def wide(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """The state dict of `fill`, with directions of unit variance."""
    state = fill(shapes)
    scale = {key: (shapes[key][1] / 2) ** 0.5 for key in state if key.endswith("projection_matrix")}
    return {key: x * scale.get(key, 1) for key, x in state.items()}


def rounded(x: torch.Tensor) -> Any:
    return [rounded(row) for row in x] if x.ndim else round(x.item(), 10)


def features(peer: Any, kind: str, *, causal: bool, eps: float) -> dict[str, Any]:
    """An attention of theirs: its outputs, and the products of its gradients with `uniform`."""
    q, k, v = (3 * uniform(name, (2, 3, 13, 8)).requires_grad_() for name in "qkv")
    for x in (q, k, v):
        x.retain_grad()
    if kind == "relu":
        f_q, f_k = (peer.generalized_kernel(x, projection_matrix=None, kernel_epsilon=eps, normalize_data=False)
                    for x in (q, k))  # fmt: skip
    else:
        directions = uniform("directions", (20, 8)) * 3**0.5
        f_q, f_k = (peer.softmax_kernel(x, projection_matrix=directions, is_query=x is q, eps=eps) for x in (q, k))
    attend = partial(peer.causal_linear_attention_noncuda, eps=0.0) if causal else peer.linear_attention
    out = attend(f_q, f_k, v)
    (out * uniform("cotangent", tuple(out.shape))).sum().backward()
    gradients = {name: round((x.grad * uniform(f"probe {name}", tuple(x.shape))).sum().item(), 10)
                 for name, x in zip("qkv", (q, k, v), strict=True)
                 if x.grad is not None and (kind == "relu" or not eps)}  # fmt: skip
    return {"kind": kind, "causal": causal, "eps": eps, "out": rounded(out.detach()), "gradients": gradients}


def model(peer: Any, *, causal: bool, eps: float) -> dict[str, Any]:
    """Their PerformerLM: its logits, and the products of its gradients with `uniform`."""
    original = peer.softmax_kernel
    peer.softmax_kernel = partial(original, eps=eps)
    net: nn.Module = peer.PerformerLM(
        num_tokens=SIZE["vocab"], max_seq_len=SIZE["context"], dim=SIZE["dim"], depth=SIZE["depth"],
        heads=SIZE["heads"], dim_head=SIZE["dim"] // SIZE["heads"], nb_features=SIZE["features"], causal=causal,
        rotary_position_emb=False, qkv_bias=True, attn_out_bias=True,
    ).double().eval()  # fmt: skip
    for module in net.modules():
        if hasattr(module, "causal_linear_fn"):
            vars(module)["causal_linear_fn"] = partial(peer.causal_linear_attention_noncuda, eps=0.0)
    shapes = {key: list(x.shape) for key, x in net.state_dict().items() if "proj_updater" not in key}
    net.load_state_dict(wide(shapes), strict=False)
    ids = torch.arange(34).view(2, 17) * 7 % SIZE["vocab"]
    logits = net(ids)
    assert logits.std() > 0.1
    (logits * uniform("cotangent", tuple(logits.shape))).sum().backward()
    gradients = {name: round((p.grad * uniform(f"probe {name}", tuple(p.shape))).sum().item(), 10)
                 for name, p in net.named_parameters() if p.grad is not None and not eps}  # fmt: skip
    peer.softmax_kernel = original
    return {"causal": causal, "eps": eps, "shapes": shapes, "logits": rounded(logits.detach()), "gradients": gradients}


if __name__ == "__main__":
    theirs = importlib.import_module("performer_pytorch.performer_pytorch")

    cases = {
        "attention": [
            features(theirs, kind, causal=causal, eps=eps)
            for kind, causal, eps in (("positive", False, 1e-6), ("positive", False, 0.0), ("positive", True, 0.0),
                                      ("relu", True, 1e-3))
        ],
        "model": [model(theirs, causal=causal, eps=eps) for causal, eps in ((False, 1e-6), (False, 0.0), (True, 0.0))],
    }  # fmt: skip
    FILE.write_text(json.dumps({"performer-pytorch": {"version": "1.1.4", "size": SIZE, **cases}}) + "\n", "utf-8")
