"""Learning rates over time. A schedule is a function of the step, counted from 1, that returns a factor of `lr`."""

import math
from collections.abc import Callable

Schedule = Callable[[int], float]


def constant() -> Schedule:
    """The same learning rate at every step."""
    return lambda step: 1.0


def noam(dim: int, warmup: int) -> Schedule:
    """Linear warm-up, then decay with the inverse square root of the step (Vaswani et al. 2017, eq. 3).

    The factor is dim^-0.5 * min(step^-0.5, step * warmup^-1.5); the paper's learning rate is this with lr=1.
    """
    return parse("linear_warmup * rsqrt_decay * rsqrt_hidden_size", dim=dim, warmup=warmup)


def cosine(steps: int, warmup: int = 0) -> Schedule:
    """Linear warm-up to 1 at step `warmup`, then half a cosine down to 0 at step `steps` (Loshchilov 2017)."""
    if not 0 <= warmup < steps:
        raise ValueError(f"warmup={warmup} must lie between 0 and steps={steps}")

    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        return 0.5 + 0.5 * math.cos(math.pi * min(1.0, (step - warmup) / (steps - warmup)))

    return factor


def parse(
    product: str,
    *,
    constant: float | None = None,
    dim: int | None = None,
    warmup: int | None = None,
    steps: int | None = None,
    decay_steps: int | None = None,
) -> Schedule:
    """Reads a schedule written as Tensor2Tensor writes it, "constant*linear_warmup*rsqrt_decay*rsqrt_hidden_size".

    Args:
        product: names of factors joined by `*`.  constant: value of the factor of that name.
        dim: width of the model, for rsqrt_hidden_size.  warmup: steps of warm-up.
        steps: length of the training.  decay_steps: steps over which linear_decay falls from 1 to 0 at its end.

    Raises ValueError for an unknown factor and for a factor whose number is missing.
    """
    # what each factor needs, and what it is at a step; the names and meanings are Tensor2Tensor's
    factors: dict[str, tuple[dict[str, float | None], Callable[..., float]]] = {
        "constant": ({"constant": constant}, lambda step, constant: constant),
        "linear_warmup": ({"warmup": warmup}, lambda step, warmup: min(1.0, step / warmup)),
        "linear_decay": (
            {"steps": steps, "decay_steps": decay_steps},
            lambda step, steps, decay_steps: min(1.0, max(0.0, (steps - step) / decay_steps)),
        ),
        "rsqrt_decay": ({"warmup": warmup}, lambda step, warmup: max(step, warmup) ** -0.5),
        "rsqrt_normalized_decay": ({"warmup": warmup}, lambda step, warmup: (warmup / max(step, warmup)) ** 0.5),
        "rsqrt_hidden_size": ({"dim": dim}, lambda step, dim: dim**-0.5),
    }
    names = [name.strip() for name in product.split("*")]
    for name in names:
        if name not in factors:
            raise ValueError(f"unknown factor {name!r} in the schedule {product!r}; choices: {', '.join(factors)}")
        for number, value in factors[name][0].items():
            if value is None or value <= 0:
                raise ValueError(f"factor {name!r} of the schedule {product!r} needs {number} > 0, got {value}")
    parts = [factors[name] for name in names]
    return lambda step: math.prod(factor(step, **numbers) for numbers, factor in parts)
