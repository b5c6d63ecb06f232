"""How tests hold a model of ours against somebody else's: the same wide weights, the same outputs and gradients."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import tformerlib as tf

TOLERANCE = 2e-5


def widen(model: nn.Module, seed: int = 0, gain: float = 1.5) -> None:
    """Weights far from where training starts: small ones hide errors, as every softmax is then nearly uniform.

    Matrices and kernels have variance gain^2 / fan-in, vectors 0.3^2 around 1 (norms' and layer scales) or 0; tables
    of positions and tokens 0.5^2. Running means and variances of BatchNorm move too.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(x: Tensor, mean: float, std: float) -> None:
        x.copy_(mean + std * torch.randn(x.shape, generator=generator))

    norms = {
        f"{prefix}.weight"
        for prefix, module in model.named_modules()
        if isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.BatchNorm2d) or "norm" in type(module).__name__.lower()
    }
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name in norms or p.ndim < 2:
                normal(p, float(name in norms), 0.3)
            elif p.ndim in (2, 4) and "embeddings" not in name.rpartition(".")[2] and "bias" not in name:
                normal(p, 0.0, gain / p[0].numel() ** 0.5)
            else:
                normal(p, 0.0, 0.5)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                normal(buffer, 0.0, 0.3)
            elif name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))


def assert_same(ours: Tensor, theirs: Tensor, what: str = "output") -> None:
    """Equal up to 2e-5 of the largest value, or of 1 where that is smaller."""
    assert ours.shape == theirs.shape, f"{what}: {tuple(ours.shape)} and {tuple(theirs.shape)}"
    error, scale = (ours - theirs).abs().max().item(), max(1.0, theirs.abs().max().item())
    assert error <= TOLERANCE * scale, f"{what}: largest error {error:.2e} among values up to {scale:.2g}"


def assert_parity(
    ours: nn.Module,
    theirs: nn.Module,
    source: str,
    images: Tensor,
    *,
    call: Callable[[Any, Tensor], Tensor] = lambda model, images: model(images),
    gradients: bool = True,
    double: bool = False,
) -> None:
    """Loads their widened weights into ours; compares the outputs, and the gradient of every parameter.

    The gradients travel back under our names by the same rules that the weights came by. Both models are in eval mode.

    Args:
        call: gives their output as a tensor.  double: in float64, for models in which rounding grows.
    """
    widen(theirs)
    if double:
        ours, theirs, images = ours.double(), theirs.double(), images.double()
    state = theirs.eval().state_dict()
    tf.load_published(ours.eval(), state, source=source)
    expected, out = call(theirs, images), ours(images)
    assert expected.std() > 0.1, "outputs that hardly differ prove little"
    assert_same(out, expected)
    if not gradients:
        return
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    grads = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in theirs.named_parameters()}
    twin = tf.load_published(copy.deepcopy(ours), state | grads, source=source)
    for (name, p), g in zip(ours.named_parameters(), twin.parameters(), strict=True):
        assert p.grad is not None and g.abs().sum() > 0, f"{name} has no gradient"
        assert_same(p.grad, g.detach(), f"gradient of {name}")
