"""FAVOR+ and the Performer: the paper's equations, performer-pytorch's recorded numbers, and what must not leak."""

import copy
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import tformerlib as tf
from tests.models.golden.efficient_mixing import FILE, wide
from tformerlib.attention import attention
from tformerlib.attention.favor import (
    CHUNK,
    FAVOR,
    independent_directions,
    orthogonal_directions,
    positive,
    prefix_sums,
    relu,
    trigonometric,
    weighted,
)
from tformerlib.attention.linear import RandomFeatures
from tformerlib.models.performer import Performer
from tformerlib.peers.golden import uniform
from tformerlib.peers.parity import assert_same

RECORDED: dict[str, Any] = json.loads(FILE.read_text("utf-8"))["performer-pytorch"]
TINY: dict[str, Any] = {"vocab": 29, "dim": 24, "depth": 2, "heads": 3, "hidden": 40, "context": 37, "features": 16}
each_kernel = pytest.mark.parametrize("kernel", [positive, trigonometric, relu])


@pytest.fixture(autouse=True)
def same_directions() -> None:
    torch.manual_seed(0)


def inputs(tokens: int = 11, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(3, 2, 3, tokens, 8, dtype=dtype, generator=torch.Generator().manual_seed(1))


# --- the paper's equations, feature by feature ------------------------------------------------------------------------


def by_the_equations(kind: str, q: np.ndarray, k: np.ndarray, v: np.ndarray, w: np.ndarray, causal: bool) -> np.ndarray:
    """Equations 2, 4, 5 and 7 for one head, with every A(i, j) written out: (N, D) each to (N, E)."""
    q, k = q / q.shape[1] ** 0.25, k / k.shape[1] ** 0.25

    def h(x: np.ndarray, sign: int) -> float:
        return math.exp(sign * float(x @ x) / 2)

    def score(x: np.ndarray, y: np.ndarray) -> float:
        if kind == "positive":
            return float(np.mean([math.exp(a @ x) * h(x, -1) * math.exp(a @ y) * h(y, -1) for a in w]))
        pairs = [math.cos(a @ x) * math.cos(a @ y) + math.sin(a @ x) * math.sin(a @ y) for a in w]
        return h(x, 1) * h(y, 1) * float(np.mean(pairs))

    weights = np.array([[score(x, y) for y in k] for x in q])
    weights = np.tril(weights) if causal else weights
    return weights @ v / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("kernel", [positive, trigonometric])
@pytest.mark.parametrize("causal", [False, True])
def test_favor_equals_the_papers_equations(kernel, causal):
    q, k, v = inputs() / 2
    attend = FAVOR(8, 24, kernel=kernel, eps=0.0).double()
    out, w = attend(q, k, v, causal=causal), attend.directions.numpy()
    for b in range(2):
        for h in range(3):
            expected = by_the_equations(kernel.__name__, *(x[b, h].numpy() for x in (q, k, v)), w, causal)
            torch.testing.assert_close(out[b, h], torch.from_numpy(expected), atol=1e-10, rtol=1e-8)


@each_kernel
@pytest.mark.parametrize("causal", [False, True])
def test_gradients_are_those_of_what_is_computed(kernel, causal):
    attend = FAVOR(8, 5, kernel=kernel, eps=1e-2).double()
    q, k, v = (x[:1, :1, :4].clone().requires_grad_() for x in inputs() / 2)
    assert torch.autograd.gradcheck(lambda *x: attend(*x, causal=causal), (q, k, v))


@pytest.mark.parametrize("case", RECORDED["attention"], ids=lambda c: f"{c['kind']} {c['causal']} {c['eps']}")
def test_favor_equals_performer_pytorch(case):
    q, k, v = (3 * uniform(name, (2, 3, 13, 8)) for name in "qkv")
    for x in (q, k, v):
        x.requires_grad_()
    attend = FAVOR(8, 20, kernel={"positive": positive, "relu": relu}[case["kind"]], eps=case["eps"]).double()
    attend.directions = uniform("directions", (20, 8)) * 3**0.5
    out, expected = attend(q, k, v, causal=case["causal"]), torch.tensor(case["out"], dtype=torch.float64)
    assert expected.std() > 0.1
    assert_same(out, expected)
    (out * uniform("cotangent", tuple(out.shape))).sum().backward()
    for name, x in [pair for pair in zip("qkv", (q, k, v), strict=True) if pair[0] in case["gradients"]]:
        product = (x.grad * uniform(f"probe {name}", tuple(x.shape))).sum().item()
        assert abs(product - case["gradients"][name]) < 2e-5 * max(1.0, x.grad.norm().item()), name


def rebuilt(case: dict[str, Any], **changed: Any) -> Performer:
    model = Performer(**RECORDED["size"] | {"causal": case["causal"], "dropout": 0.0} | changed).double().eval()
    for module in model.modules():
        if isinstance(module, FAVOR):
            module.eps = case["eps"]
    return tf.load_published(model, wide(case["shapes"]), source="performer-pytorch")


@pytest.mark.parametrize("case", RECORDED["model"], ids=["both sides, eps", "both sides", "causal"])
def test_performer_equals_performer_pytorch(case):
    model, ids = rebuilt(case), torch.arange(34).view(2, 17) * 7 % RECORDED["size"]["vocab"]
    expected, logits = torch.tensor(case["logits"], dtype=torch.float64), model(ids)
    assert_same(logits, expected)
    assert_same(rebuilt(case).float()(ids).double(), expected, "float32")
    (logits * uniform("cotangent", tuple(logits.shape))).sum().backward()
    state = wide(case["shapes"])
    probes = {key: uniform(f"probe {key}", tuple(x.shape)) for key, x in state.items()}
    numbers = {key: torch.full_like(x, i) for i, (key, x) in enumerate(state.items())}
    probe, number = (tf.load_published(copy.deepcopy(model), s, source="performer-pytorch") for s in (probes, numbers))
    for p, direction, index in zip(model.parameters(), probe.parameters(), number.parameters(), strict=True):
        name = list(state)[int(index.flatten()[0])]
        if name not in case["gradients"]:
            continue
        assert p.grad is not None
        product = (p.grad * direction.detach()).sum().item()
        assert abs(product - case["gradients"][name]) < 2e-5 * max(1.0, p.grad.norm().item()), name


def test_the_recorded_numbers_catch_models_that_are_nearly_right():
    case, ids = RECORDED["model"][0], torch.arange(34).view(2, 17) * 7 % RECORDED["size"]["vocab"]
    expected = torch.tensor(case["logits"], dtype=torch.float64)

    def error(model: Performer) -> float:
        return (model(ids) - expected).abs().max().item()

    assert error(rebuilt(case)) < 1e-8
    assert error(rebuilt(case, causal=True)) > 1e-2
    assert error(rebuilt(case, kernel=trigonometric)) > 1e-2
    model = rebuilt(case)
    for block in model.blocks:
        block.mixer.fn.attend.directions *= 8**0.25  # only one side of the division by the root of D
    assert error(model) > 1e-2


# --- what an estimate must do -----------------------------------------------------------------------------------------


@each_kernel
def test_weights_that_are_never_formed_sum_to_one(kernel):
    q, k, v = inputs() / 2
    attend = FAVOR(8, 32, kernel=kernel).double()
    for causal in (False, True):
        torch.testing.assert_close(attend(q, k, torch.ones_like(v), causal=causal), torch.ones_like(v))


def test_the_estimate_is_unbiased_and_orthogonal_directions_have_the_lower_error():
    """Lemma 1 and Theorem 2 for one pair of vectors and F = D, within their own uncertainty.

    The theorem as the newer text has it. An older one promises 2 (1 - 1 / m) / (d + 2) exp(x y)^2, which can't be: for
    y = -x both errors are zero.
    """
    x, y = torch.tensor([[0.5] * 8, [0.1, -0.4] * 4], dtype=torch.float64)
    exact, errors = (x @ y).exp(), {}
    for draw in (orthogonal_directions, independent_directions):
        drawn = torch.stack([draw(8, 8) for _ in range(20_000)]).double()
        norms = (x @ x + y @ y) / 2
        estimates = torch.exp(drawn @ (x + y) - norms).mean(-1)
        assert abs(estimates.mean() - exact) < 4 * estimates.std() / 20_000**0.5
        errors[draw] = (estimates - exact).square().mean()
    gap = 2 * (8 - 1) / (8 * (8 + 2)) * (exact - (-(x @ x + y @ y) / 2).exp()) ** 2  # m = d = 8
    assert errors[independent_directions] - errors[orthogonal_directions] > gap


def test_directions_are_normal_point_everywhere_and_orthogonal_ones_need_their_coins():
    torch.manual_seed(0)
    for draw in (orthogonal_directions, independent_directions):
        drawn = torch.cat([draw(20, 6) for _ in range(1000)])  # (20000, 6)
        assert drawn.mean(0).abs().max() < 0.035 and (drawn.mT @ drawn / 20000 - torch.eye(6)).abs().max() < 0.05
        first = torch.stack([draw(6, 6) for _ in range(2000)]).mean(0)  # what each row prefers
        assert first.abs().max() < 0.1
    blocks = orthogonal_directions(12, 6).view(2, 6, 6)
    products = blocks @ blocks.mT
    assert (products - torch.diag_embed(products.diagonal(dim1=-2, dim2=-1))).abs().max() < 1e-5
    published = torch.stack([RandomFeatures(6, 6).directions for _ in range(2000)]).mean(0)  # as in the official code
    assert published.diagonal()[:-1].max() < -0.5


@each_kernel
@pytest.mark.parametrize("chunk", [1, 4, 11, 64])
def test_prefix_sums_are_the_lower_triangle(kernel, chunk):
    q, k, v = inputs()
    f_q, f_k = kernel(q, k, FAVOR(8, 5).double().directions, 1e-6, True)
    expected = (f_q @ f_k.mT).tril() @ v
    torch.testing.assert_close(prefix_sums(f_q, f_k, v, chunk), expected)
    torch.testing.assert_close(
        weighted(f_q, f_k, v, causal=True), expected / (f_q @ f_k.mT).tril().sum(-1, keepdim=True)
    )


@each_kernel
def test_a_causal_performer_says_nothing_of_the_future(kernel):
    tokens = CHUNK + 9
    q, k, v = inputs(tokens, torch.float32)
    attend, at = FAVOR(8, 32, kernel=kernel), CHUNK - 3
    outs = []
    for factor in (1.0, 5.0, 30.0):  # also a future key that is longer than all others
        q2, k2, v2 = (torch.cat([x[..., :at, :], factor * x[..., at:, :]], -2) for x in (q, k, v))
        outs.append(attend(q2, k2, v2, causal=True)[..., :at, :])
    assert outs[0].isfinite().all() and torch.equal(outs[0], outs[1]) and torch.equal(outs[0], outs[2])
    assert not torch.equal(attend(q, k, v)[..., :at, :], attend(q, 5 * k, v)[..., :at, :])


def test_padding_is_not_seen_whatever_it_holds():
    q, k, v = inputs()
    attend, mask = FAVOR(8, 32).double(), torch.ones(2, 1, 1, 14, dtype=torch.bool)
    mask[..., 11:] = False
    for filled in (0.0, 1e3, math.nan):
        longer = [torch.cat([x, torch.full_like(x[..., :3, :], filled)], -2) for x in (k, v)]
        torch.testing.assert_close(attend(q, *longer, mask=mask), attend(q, k, v))
    model = Performer(**TINY, pad=0, dropout=0.0).eval()
    ids = torch.randint(1, 29, (2, 9))
    torch.testing.assert_close(model(nn.functional.pad(ids, (0, 5)))[:, :9], model(ids), atol=1e-5, rtol=1e-5)


def test_long_keys_neither_overflow_nor_vanish():
    for width in (8, 64, 256):
        attend = FAVOR(width)
        for length in (1e-3, 1.0, 4.0):
            q, k, v = length * torch.randn(3, 1, 1, 40, width)
            for causal in (False, True):
                assert attend(q, k, v, causal=causal).isfinite().all()
        k = attend.directions[None, None, :40] * width**0.25  # the largest that exp(w k - |k|^2 / 2) can be
        assert attend(k, k, torch.ones_like(k), causal=True).isfinite().all()


def test_cost_is_linear_in_tokens():
    def products(attend: Any, tokens: int, **options: Any) -> int:
        with FlopCounterMode(display=False) as counter:
            attend(*torch.zeros(3, 1, 2, tokens, 16, device="meta"), **options)
        return counter.get_total_flops()

    favor = FAVOR(16, 32).to("meta")
    for causal in (False, True):
        assert products(favor, 4096, causal=causal) == 4 * products(favor, 1024, causal=causal)
    assert products(attention, 4096) == 16 * products(attention, 1024)


# --- training, sizes, errors ------------------------------------------------------------------------------------------


def test_directions_are_drawn_again_in_training_only_and_saved():
    q, k, v = inputs(dtype=torch.float32)
    attend = FAVOR(8, 12, redraw=3)
    first = attend.directions.clone()
    attend.eval()
    for _ in range(7):
        attend(q, k, v)
    assert torch.equal(attend.directions, first) and "directions" in attend.state_dict()
    attend.train()
    seen = []
    for _ in range(6):
        attend(q, k, v)
        seen.append(attend.directions.clone())
    assert torch.equal(seen[1], first) and torch.equal(seen[3], seen[2]) and torch.equal(seen[4], seen[2])
    assert not torch.equal(seen[2], first) and not torch.equal(seen[5], seen[2])
    block = seen[2][:8] @ seen[2][:8].mT
    assert (block - block.diag().diag()).abs().max() < 1e-4


def test_training_drops_and_every_parameter_gets_a_gradient():
    model, ids = Performer(**TINY, dropout=0.5), torch.randint(29, (2, 9))
    assert not torch.equal(model(ids), model(ids))
    model.eval()
    assert torch.equal(model(ids), model(ids))
    model(ids).logsumexp(-1).sum().backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not dead


def test_softmax_attention_can_stand_in_with_the_same_weights():
    ids = torch.randint(29, (2, 9))
    exact = Performer(**TINY, attend=lambda: attention, dropout=0.0).eval()
    many = Performer(**TINY | {"features": 4096}, dropout=0.0).eval()
    many.load_state_dict(exact.state_dict(), strict=False)
    torch.testing.assert_close(many(ids), exact(ids), atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize(("name", "total"), [("performer_base", 21_274_880), ("performer_protein", 76_258_336)])
def test_parameter_counts(name, total):
    """As many as a Transformer of the size has, for directions are drawn, not learned."""
    with torch.device("meta"):
        model, exact = tf.create_model(name), tf.create_model(name, attend=lambda: attention)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in exact.parameters()) == total


def test_bad_input_is_refused_with_its_value():
    q, k, v = inputs()
    attend = FAVOR(8, 16).double()
    for option in ({"bias": q}, {"dropout": 0.1}, {"scale": 1.0}):
        with pytest.raises(NotImplementedError, match=next(iter(option))):
            attend(q, k, v, **option)
    with pytest.raises(NotImplementedError, match=r"a mask of keys, not \(11, 11\)"):
        attend(q, k, v, mask=torch.ones(11, 11, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"\(2, 3, 11, 8\) and keys \(2, 3, 7, 8\)"):
        attend(q, k[..., :7, :], v[..., :7, :], causal=True)
    with pytest.raises(ValueError, match="features=0"):
        FAVOR(8, 0)
    with pytest.raises(ValueError, match="redraw=-1"):
        FAVOR(8, redraw=-1)
    with pytest.raises(ValueError, match="heads=5 does not divide dim=24"):
        Performer(**TINY | {"heads": 5})
    model = Performer(**TINY)
    with pytest.raises(ValueError, match="38 tokens do not fit the model's context=37"):
        model(torch.zeros(1, 38, dtype=torch.long))
    with pytest.raises(ValueError, match="ids from 0 to 29"):
        model(torch.tensor([[0, 29]]))
