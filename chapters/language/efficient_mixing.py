# ---
# jupyter:
#   jupytext: {text_representation: {extension: .py, format_name: percent}}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# (efficient-mixing)=
# # Mixing tokens without forming every pair
#
# Attention compares each token with each other one, and on long texts the table of comparisons is what fills the
# memory. {cite:t}`choromanski2021` estimate attention with random numbers and never write the table down.
# {cite:t}`leethorp2022` go further and look nothing up at all: they mix tokens by a Fourier transform, which has no
# parameters. This chapter builds both. How good is an estimate of attention, compared with what? And how much of a
# language model needs attention in the first place?
#
# After this chapter you can
# - turn a product of softmax weights and values into three thin matrix products, and make it causal;
# - say when random features estimate attention well, and hold an estimate against a baseline that costs nothing;
# - write FNet's layer by hand, and say what a fixed transform can't do.
#
# **Time**: about a minute on one CPU core, 50 minutes to read; difficulty: middle, with some probability. **Before**:
# the chapters on attention and on BERT.

# %% tags=["bootstrap"]
# tformerlib is installed, or lies above this folder, or (Colab) comes from the repository; torch stays as it is.
import importlib.util
import subprocess
import sys
from pathlib import Path

if importlib.util.find_spec("tformerlib") is None:
    here = Path.cwd().resolve()
    clone = next((folder for folder in (here, *here.parents) if (folder / "tformerlib").is_dir()), None)
    if clone is not None:
        sys.path.insert(0, str(clone))
    else:
        pip = [sys.executable, "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "--no-deps", "tformerlib @ git+{repository}"], check=True)
        subprocess.run([*pip, "einops", "num2words", "babel", "sacrebleu"], check=True)

# %% tags=["hide-input"]
import math
import time
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import tformerlib as tf
from tformerlib import claims, data, show, training
from tformerlib.attention import attention, attention_weights
from tformerlib.attention.favor import (
    FAVOR,
    independent_directions,
    orthogonal_directions,
    positive,
    prefix_sums,
    trigonometric,
    weighted,
)
from tformerlib.data.pairs import LANGUAGES, LOCALES
from tformerlib.layers.blocks import MLP, Attention, Block, PostNorm
from tformerlib.models.bert import BERT
from tformerlib.models.fnet import FNet, Fourier, Layer, Nothing

# %% tags=["parameters"]
profile = "quick"  # quick: one thread of a CPU.  colab: one T4.  full: one large GPU.
seed = 0

# %%
run = tf.parameters(profile=profile, seed=seed)

# %% [markdown]
# ## The question: where does the memory go?
#
# One head's weights for a text of $N$ tokens are $N \times N$ numbers. Training keeps them for the backward pass, in
# every head and every layer. Count, for eight heads of one layer and four bytes a number:

# %%
gigabytes = {n: 8 * n * n * 4 / 1e9 for n in (512, 4096, 65_536)}
assert gigabytes[4096] == 64 * gigabytes[512]
show.table(
    [{"tokens": n, "weights of one layer, GB": size} for n, size in gigabytes.items()],
    caption="Eight times as many tokens, 64 times as much memory.",
)

# %% [markdown]
# ```{diagram} efficient_mixing
# What is formed on the way. Attention forms a square with a side for the text; the Performer, only thin matrices; FNet
# multiplies with fixed waves.
# ```
#
# (Kernels that go through the keys in tiles avoid the memory, too, as the chapter on attention on GPUs shows. They do
# not avoid the multiplications.)
#
# Suppose for a moment that there was no softmax. Then attention would be $(Q K^\top) V$, a product of three matrices,
# and brackets may be moved: $Q (K^\top V)$ forms a small $D \times D$ matrix instead of the large one. The softmax
# stands in the way, because it needs each weight by itself. Unless each weight were a product of something of the query
# alone and something of the key alone.
#
# ## By hand: six tokens, two features
#
# Say that the weight of key $j$ for query $q$ is $f(q) \cdot f(k_j)$, where $f$ makes two numbers of a vector, its
# **features**. Here are the features of six keys, six values, and one query with $f(q) = (1, 2)$.

# %%
f_k = torch.tensor([[1.0, 0], [1, 1], [2, 1], [0, 1], [1, 2], [1, 0]])
v = torch.tensor([[4.0], [0], [8], [8], [0], [4]])
f_q = torch.tensor([[1.0, 2]])

weights = f_q @ f_k.T  # the long way: a weight for each key
assert weights.tolist() == [[1, 3, 4, 2, 5, 1]]
assert (weights @ v / weights.sum()).item() == 56 / 16

summary, total = f_k.T @ v, f_k.sum(0)  # the short way: two numbers about all values, two about all keys
assert summary.tolist() == [[24], [16]] and total.tolist() == [6, 5]
assert (f_q @ summary / (f_q @ total)).item() == (24 + 2 * 16) / (6 + 2 * 5)

# %% [markdown]
# With a pencil: the weights are 1, 3, 4, 2, 5, 1; they sum to 16, and the weighted values to
# $4 + 0 + 32 + 16 + 0 + 4$, which is 56. The mean is $56/16$. The short way never writes the six weights: the values
# add up to $(24, 16)$, once for each feature, the keys to $(6, 5)$, and any query takes its mean from those four
# numbers. A hundred queries, or a million keys, and still four numbers.
#
# A left-to-right model needs the same with sums that grow. After each key, the sums so far belong to the query at that
# place: **prefix sums**.

# %%
summaries, totals = (f_k * v).cumsum(0), f_k.cumsum(0)  # (6, 2) each
so_far = (summaries @ f_q.T) / (totals @ f_q.T)  # what the query (1, 2) would get at each place
assert torch.equal(so_far[:3, 0], torch.tensor([4.0, 4 / 4, 36 / 8]))
print([f"{value:.2f}" for value in so_far[:, 0].tolist()])

# %% [markdown]
# ## Build it: features for the softmax
#
# So which $f$ gives the weights of a softmax, $e^{q \cdot k / \sqrt{d}}$? Divide queries and keys by $d^{1/4}$ first,
# then the weight of $x$ and $y$ is $e^{x \cdot y}$. Draw a **direction** $w$, a vector of independent standard normal
# numbers. The mean of $e^{w \cdot z}$ over all directions is $e^{|z|^2 / 2}$. Put $z = x + y$, multiply out
# $|x + y|^2 = |x|^2 + 2\, x \cdot y + |y|^2$, and move the squares to the left:
#
# $$ e^{x \cdot y} = \text{mean over } w \text{ of } \; e^{w \cdot x - |x|^2 / 2} \; e^{w \cdot y - |y|^2 / 2} . $$
#
# On the right stands a product of something of $x$ and something of $y$. A feature is one factor for one direction;
# with $F$ directions we have $F$ features and a mean over $F$ draws. It is positive whatever $x$ is.


# %%
def positive_features(x: Tensor, w: Tensor) -> Tensor:
    """x (..., N, D), directions (F, D) to features (..., N, F)."""
    return torch.exp(x @ w.mT - x.square().sum(-1, keepdim=True) / 2) / len(w) ** 0.5


def wave_features(x: Tensor, w: Tensor) -> Tensor:
    """What was known before: a cosine and a sine for each direction, (..., N, 2 F)."""
    turned = x @ w.mT
    waves = torch.cat([turned.cos(), turned.sin()], -1) / len(w) ** 0.5
    return waves * torch.exp(x.square().sum(-1, keepdim=True) / 2)


x, y = torch.tensor([[0.6, 0.3]]), torch.tensor([[-0.5, 0.2]])
w = torch.randn(200_000, 2)
for features in (positive_features, wave_features):
    estimate = (features(x, w) @ features(y, w).mT).item()
    assert abs(estimate / math.exp(-0.24) - 1) < 0.02  # 0.6 * -0.5 + 0.3 * 0.2 = -0.24
    print(f"{features.__name__}: {estimate:.4f}; exactly {math.exp(-0.24):.4f}")

# %% [markdown]
# Both are right on average. The older one rests on $|x - y|^2$ and waves {cite:p}`rahimi2007`. What differs is how far
# a single estimate with few directions strays, and where. Take two vectors that point nearly away from each other, so
# that the true weight is small. In attention most weights are of this kind.

# %%
x, y = torch.full((1, 16), 0.4), torch.full((1, 16), -0.4)
y[0, :2] = 0.4  # nearly opposite: fourteen entries against two
truth = math.exp(-12 * 0.16)
drawn = torch.randn(2000, 64, 16)
rows, below = [], {}
for name, features in (("positive", positive_features), ("waves", wave_features)):
    f_x, f_y = (torch.stack([features(z, w)[0] for w in drawn]) for z in (x, y))
    estimates = (f_x * f_y).sum(-1)  # one for each draw of 64 directions
    below[name] = (estimates < 0).float().mean().item()
    low, high = estimates.quantile(torch.tensor([0.05, 0.95])).tolist()
    rows.append({"features": name, "5 % are below": low, "95 % are below": high, "negative, %": 100 * below[name]})
assert below["positive"] == 0 < below["waves"]
show.table(rows, caption=f"2000 estimates of a weight that is {truth:.3f}, with 64 directions each.")

# %% [markdown]
# Waves give negative weights, and a mean with negative weights is not a mean: the sum below the fraction can come near
# zero, and the output anywhere. That is the paper's case for positive features. Its Lemma 2 says exactly how large the
# squared errors are. For one direction,
#
# $$ \text{positive: } e^{|x + y|^2} e^{2\, x \cdot y} \left(1 - e^{-|x + y|^2}\right), \qquad
# \text{waves: } \tfrac12 e^{|x + y|^2} e^{-2\, x \cdot y} \left(1 - e^{-|x - y|^2}\right)^2 . $$
#
# Is that so? And who is ahead where? For $x$ and $y$ at right angles and of the same length both are functions of the
# length alone.


# %%
def lemma(x: Tensor, y: Tensor) -> dict[str, float]:
    """Squared error of one direction's estimate of exp(x y), by Lemma 2."""
    plus, minus, score = (x + y).square().sum(), (x - y).square().sum(), x @ y
    return {
        "positive": (plus + 2 * score).exp().mul(1 - (-plus).exp()).item(),
        "waves": (plus - 2 * score).exp().mul((1 - (-minus).exp()) ** 2).item() / 2,
    }


x, y = torch.tensor([0.5, 0.2, -0.1]), torch.tensor([-0.3, 0.4, 0.2])
w = torch.randn(1_000_000, 3)
for name, features in (("positive", positive_features), ("waves", wave_features)):
    f_x, f_y = (features(z[None], w)[0] * len(w) ** 0.5 for z in (x, y))
    products = (f_x * f_y).view(-1, len(w)).sum(0)  # a wave's cosine and sine belong together
    found = (products - (x @ y).exp()).square().mean().item()
    print(f"{name}: measured {found:.3f}, by the lemma {lemma(x, y)[name]:.3f}")
    assert abs(found / lemma(x, y)[name] - 1) < 0.1

# %% tags=["hide-input"]
lengths = torch.linspace(0.2, 2, 37)
errors = [lemma(length * torch.tensor([1.0, 0]), length * torch.tensor([0, 1.0])) for length in lengths]
show.lines(
    lengths,
    {name: [e[name] for e in errors] for name in ("positive", "waves")},
    x_label="length of both vectors",
    y_label="squared error, one direction",
    log_y=True,
    alt="Squared error of one direction's estimate over the length of two vectors at right angles. Both curves rise "
    "steeply; waves start far below positive features and are nearly half of it for long vectors.",
    caption="At right angles, where the weight is 1 and not small, waves are better at every length.",
)
turned = {angle: [] for angle in (90, 120, 150)}
for degrees, crossing in turned.items():
    direction = torch.tensor([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))])
    for length in torch.arange(0.05, 3, 0.01):
        e = lemma(length * torch.tensor([1.0, 0]), length * direction)
        crossing += [length.item()] if e["positive"] < e["waves"] else []
show.table(
    [
        {"angle, degrees": a, "positive is better from length": f"{min(c):.2f}" if c else "never"}
        for a, c in turned.items()
    ],
    caption="By Lemma 2. The wider the angle, the smaller the weight, and the sooner positive features win.",
)
assert not turned[90] and min(turned[150]) < min(turned[120])

# %% [markdown]
# So the lemma itself says two things. For small weights between long vectors, positive features win by orders of
# magnitude. For short vectors, waves win: with $|x|$ near zero their error shrinks like $|x - y|^4$, that of positive
# features like $|x + y|^2$. Which case is attention's? That has to be measured on whole attentions, below.
#
# ### Directions at right angles
#
# $F$ independent directions cluster here and leave a hole there. Directions at right angles cover space more evenly,
# and each may still be standard normal by itself: take a random rotation, give each row a random length. If $F > d$,
# take several blocks. The recipe is a QR decomposition of a random matrix. It has a trap. Average many such rotations:

# %%
blocks = torch.linalg.qr(torch.randn(4000, 8, 8)).Q.mT  # rows are directions, as in the official code
preferred = blocks.mean(0)
show.heatmap(
    preferred,
    [f"direction {i}" for i in range(1, 9)],
    [f"entry {i}" for i in range(1, 9)],
    alt="Mean of 4000 random orthogonal matrices of 8 by 8 from a QR decomposition. The diagonal is far below zero, "
    "but for its last entry; all others are near zero.",
    caption="A random rotation has no preferred sign. The Q of this QR has: on its diagonal.",
)
assert preferred.diagonal()[:-1].max() < -0.2
coins = 2.0 * torch.randint(2, (4000, 8, 1)) - 1
assert (coins * blocks).mean(0).abs().max() < 0.06  # with a coin for each row the preference is gone

# %% [markdown]
# Torch and NumPy choose the signs of Q so that the computation is stable, not so that Q is uniform
# {cite:p}`mezzadri2007`. Waves do not care, because a cosine is the same for $w$ and $-w$. Positive features do. How
# much? Two pairs of vectors, with everything else equal:


# %%
def bias(z: Tensor, coin: bool, draws: int = 4000) -> float:
    """Mean estimate of exp(x y) over the true one, for x = y = z / 2 and 8 directions: 1 if it is unbiased."""
    rows = torch.linalg.qr(torch.randn(draws, 8, 8)).Q.mT * torch.randn(draws, 8, 8).norm(dim=-1, keepdim=True)
    if coin:
        rows = rows * (2.0 * torch.randint(2, (draws, 8, 1)) - 1)
    x = z / 2
    return ((rows @ z).exp().mean() / (x @ x).mul(2).exp()).item()


ones = torch.full((8,), 0.35)
with_coins, without = bias(ones, True), bias(ones, False)
mirrored = bias(-ones, False)
assert abs(with_coins - 1) < 0.06 and without < 0.9 and mirrored > 1.1
show.glue("mixing-bias", f"{without:.2f}")
show.glue("mixing-mirrored", f"{mirrored:.2f}")
show.glue("mixing-coins", f"{with_coins:.2f}")

# %% [markdown]
# For the vector of ones the published recipe estimates {glue:text}`mixing-bias` of the true weight on average, for its
# mirror image {glue:text}`mixing-mirrored`; with coins it is {glue:text}`mixing-coins`. The paper promises an unbiased
# estimate and orthogonalizes by Gram and Schmidt, which has no such preference; the official code calls a QR. We toss
# the coins.
#
# How much do right angles gain? Theorem 2 of the paper bounds the gain from below, and two versions of the text print
# two bounds. The older one is $\frac{2}{d + 2} e^{2\, x \cdot y}$ but for a factor near one, and can't be right: for
# $y = -x$ every estimate is exact with any directions, so there is nothing to gain. The newer one is zero there.
#
# ### Both orders, and the past only
#
# What remains is the order of multiplication, as by hand. For a causal model, prefix sums for each token would form $N$
# small matrices. The library goes in chunks: pairs inside a chunk, one running matrix for everything before it.


# %%
def favor_by_hand(q: Tensor, k: Tensor, v: Tensor, w: Tensor, causal: bool = False) -> Tensor:
    """Estimated attention with every weight written out: (..., N, D) each, directions (F, D)."""
    f_q, f_k = (positive_features(x / x.shape[-1] ** 0.25, w) for x in (q, k))
    weights = f_q @ f_k.mT
    weights = weights.tril() if causal else weights
    return weights @ v / weights.sum(-1, keepdim=True)


def chunks_by_hand(f_q: Tensor, f_k: Tensor, v: Tensor, size: int = 4) -> Tensor:
    """tril(f_q f_k^T) v without an N by N matrix."""
    past, parts = torch.zeros(f_k.shape[-1], v.shape[-1]), []
    for a, b, c in zip(f_q.split(size), f_k.split(size), v.split(size), strict=True):
        parts.append((a @ b.mT).tril() @ c + a @ past)
        past = past + b.mT @ c
    return torch.cat(parts)


# %% [markdown]
# ## The library's version
#
# `FAVOR` is an `attend` for any attention layer, with a mask of padding, causal or not. It also subtracts large
# exponents before it takes powers, and adds a small number to each feature (`eps`), as the official code does. Without
# `eps` it must be what we built.

# %%
q, k, v = torch.randn(3, 2, 3, 40, 16) / 2
favor = FAVOR(16, 64, eps=0.0)
for causal in (False, True):
    ours = favor_by_hand(q, k, v, favor.directions, causal)
    error = (favor(q, k, v, causal=causal) - ours).abs().max().item()
    show.parity(f"FAVOR, causal={causal}, against every weight written out", error, tolerance=2e-5)
f_q, f_k = torch.rand(2, 40, 5)
error = (chunks_by_hand(f_q, f_k, v[0, 0]) - prefix_sums(f_q, f_k, v[0, 0])).abs().max().item()
show.parity("prefix sums", error, tolerance=2e-5)

# %% [markdown]
# The tests hold it against the equations in double precision, one feature at a time, and against recorded numbers of
# the package performer-pytorch: attention and a whole model, outputs and the gradient of every parameter. A `Performer`
# is an ordinary Transformer but for that layer. Directions are drawn, not learned, so it has exactly as many
# parameters:

# %%
sizes = []
for name in ("performer_base", "performer_protein"):
    with torch.device("meta"):
        estimated, exact = tf.create_model(name), tf.create_model(name, attend=lambda: attention)
    counts = [sum(p.numel() for p in model.parameters()) for model in (estimated, exact)]
    assert counts[0] == counts[1]
    sizes.append({"model": name, "layers": len(estimated.blocks), "parameters": counts[0], "softmax": counts[1]})
show.table(sizes, caption="Sizes of sections 4.1 and 4.4. The paper prints no count.")

# %% [markdown]
# (mixing-error)=
# ## How good is the estimate?
#
# The paper's Figure 4 measures the squared error of the output, with 4096 random tokens in a head of width 16. We do
# the same, with one more curve. Whoever knows nothing of the weights can answer with **the plain mean of all values**.
# It costs nothing and looks nothing up. An estimate of attention should beat it.

# %%
tokens, width, counts = 4096, 16, (16, 64, 256)
inputs, draws = run.pick(quick=(10, 4), colab=(15, 20), full=(15, 20))


def errors_at(spread: float, arms: dict[str, Callable[[int], FAVOR]], inputs: int) -> dict[str, Tensor]:
    """Mean squared errors (inputs, counts) of each arm and (inputs, 1) of the plain mean."""
    found: dict[str, list[list[float]]] = {name: [] for name in [*arms, "plain mean"]}
    for _ in range(inputs):
        q, k = spread * torch.randn(2, 1, 1, tokens, width)
        v = torch.randn(1, 1, tokens, width)
        exact = attention(q, k, v)
        for name, arm in arms.items():
            error = [[(arm(m)(q, k, v) - exact).square().mean() for _ in range(draws)] for m in counts]
            found[name].append([torch.stack(each).mean().item() for each in error])
        found["plain mean"].append([(v.mean(-2, keepdim=True) - exact).square().mean().item()])
    return {name: torch.tensor(each) for name, each in found.items()}


def share(error: dict[str, Tensor], above: str, below: str) -> float:
    """Geometric mean of the ratio of two arms' errors."""
    return (error[above].log() - error[below].log()).mean().exp().item()


# %%
arms = {
    "positive": lambda m: FAVOR(width, m),
    "positive, independent": lambda m: FAVOR(width, m, draw=independent_directions),
    "waves": lambda m: FAVOR(width, m, kernel=trigonometric),
}
measured = {spread: errors_at(spread, arms, inputs) for spread in (0.5, 1.0)}
measured[2.0] = errors_at(2.0, arms, inputs // 3)
at_one = measured[1.0]

# %% tags=["hide-input"]
show.lines(
    {name: list(counts) for name in (*arms, "the plain mean of all values")},
    {name: at_one[name].log().mean(0).exp() for name in arms}
    | {"the plain mean of all values": [at_one["plain mean"].mean().item()] * 3},
    x_label="features",
    y_label="squared error of the output",
    log_x=True,
    log_y=True,
    alt="Squared error over the number of features, for entries of spread 1. Waves lie far above positive features, "
    "with orthogonal and with independent directions. The plain mean is a level line.",
    caption="Entries of standard deviation 1. Compare all curves with the level one, the plain mean.",
)
show.table(
    [
        {"spread of the entries": s}
        | {name: e[name][:, -1].log().mean().exp().item() for name in arms}
        | {"plain mean": e["plain mean"].mean().item()}
        for s, e in measured.items()
    ],
    caption="Squared error with 256 features, and that of the plain mean of the values.",
)

# %%
orthogonal = {s: share(e, "positive", "positive, independent") for s, e in measured.items()}
shares = {s: share(e, "positive", "waves") for s, e in measured.items()}
over_mean = {s: (e["positive"][:, -1].log() - e["plain mean"][:, 0].log()).mean().exp().item()
             for s, e in measured.items()}  # fmt: skip
verdicts = [
    claims.report("performer.orthogonal-directions", share_half=orthogonal[0.5], share_one=orthogonal[1.0]),
    claims.report("performer.positive-features", share_half=shares[0.5], share_one=shares[1.0], share_two=shares[2.0]),
]
for s, name in ((0.5, "half"), (1.0, "one"), (2.0, "two")):
    show.glue(f"mixing-mean-{name}", f"{over_mean[s]:.1f}")
show.glue("mixing-orthogonal-half", f"{orthogonal[0.5]:.2f}")
show.glue("mixing-orthogonal-one", f"{orthogonal[1.0]:.2f}")
show.glue("mixing-share-half", f"{shares[0.5]:.1f}")
show.glue("mixing-share-one", f"{shares[1.0]:.0e}")

# %% [markdown]
# In this run orthogonal directions have {glue:text}`mixing-orthogonal-half` times the error of independent ones at
# spread one half, and {glue:text}`mixing-orthogonal-one` times at spread 1
# ({verdict}`performer.orthogonal-directions`). Positive features have {glue:text}`mixing-share-one` times the error
# of waves at spread 1, and {glue:text}`mixing-share-half` times at spread one half, where the lemma speaks for waves
# ({verdict}`performer.positive-features`). The paper states both without a condition on lengths, and normalized its
# inputs *appropriately*; so much depends on the length that one would like to know how.
#
# And the fourth curve? With 256 features, the estimate has {glue:text}`mixing-mean-half` times the error of the plain
# mean at spread one half, {glue:text}`mixing-mean-one` times at spread 1, and {glue:text}`mixing-mean-two` times at
# spread 2. A number above 1 means that the estimate is worse than not looking at all. With few features its noise is
# larger than what there is to estimate; and with long vectors, where the softmax points at one key, the features see
# nothing of it. Where the number is above 1, both arms of the comparison lose against a third that is not in it.
#
# Does that sink the Performer? Not by itself. Random inputs have no structure, and a model that is *trained* with
# estimated attention can adapt queries and keys to what the estimate does well; the paper trains such models and finds
# them close to their exact twins. What the table says is that swapping the estimate into a trained model is another
# matter. The paper reports that its accuracy first collapses and needs some training to recover (its Figure 5).

# %%
show.quiz(
    "Queries and keys are very short, so that all softmax weights are nearly equal. Which features estimate a weight "
    "with the smaller error?",
    [
        ("Positive ones, always.", "By Lemma 2 their error shrinks like the square of the length only.",
         shares[0.5] < 1),
        ("Waves.", f"At spread 0.5 positive features had {shares[0.5]:.1f} times their error.", shares[0.5] > 1),
        ("Both have the same.", "The lemma gives them different powers of the length.", shares[0.5] == 1),
    ],
    name="mixing-short",
    section="mixing-error",
)  # fmt: skip

# %% [markdown]
# (mixing-cost)=
# ## What it costs
#
# Multiplications can be counted, kept bytes too; time is measured, forwards and backwards. In each case we fit the
# power of $N$ by which it grows: 1 is linear, 2 quadratic.


# %%
def macs(attend: Callable[..., Tensor], tokens: int) -> int:
    """Multiply-adds of one head of width 64."""
    with FlopCounterMode(display=False) as counter:
        attend(*torch.zeros(3, 1, 1, tokens, 64, device="meta"))
    return counter.get_total_flops() // 2


def kept(attend: Callable[..., Tensor], tokens: int) -> int:
    """Bytes of the tensors that one head keeps for the backward pass."""
    held: dict[int, Tensor] = {}

    def pack(x: Tensor) -> Tensor:
        held[x.untyped_storage().data_ptr()] = x
        return x

    q, k, v = torch.randn(3, 1, 1, tokens, 64, requires_grad=True).unbind()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        attend(q, k, v)
    return sum(x.untyped_storage().nbytes() for x in held.values())


def seconds(attend: Callable[..., Tensor], tokens: int) -> float:
    """Processor time, forward and backward."""
    q, k, v = torch.randn(3, 1, 1, tokens, 64, requires_grad=True).unbind()
    begin = time.process_time()
    attend(q, k, v).sum().backward()
    return time.process_time() - begin


# %%
def power(xs: list[int], ys: list[float]) -> float:
    """Slope of log y over log x, by least squares."""
    x, y = (torch.tensor(each).double().log() for each in (xs, ys))
    return (((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()).item()


lengths = [1024, 2048, 4096, 8192]
favor = FAVOR(64, 256)
on_paper = FAVOR(64, 256).to("meta")
rounds = [[seconds(favor, n) for n in lengths] for _ in range(run.pick(quick=5, colab=10, full=10))]
powers = {
    "macs_power": power(lengths, [macs(on_paper, n) for n in lengths]),
    "memory_power": power(lengths, [kept(favor, n) for n in lengths]),
    "time_power": power(lengths, [min(column) for column in zip(*rounds, strict=True)]),
    "attention_power": power(lengths, [macs(attention, n) for n in lengths]),
}
verdicts.append(claims.report("performer.linear-cost", **powers))
equal_at = next(n for n in range(64, 4096, 64) if macs(on_paper, n) < macs(attention, n))
show.glue("mixing-time-power", f"{powers['time_power']:.2f}")
show.glue("mixing-equal", str(equal_at))

# %% [markdown]
# Time grows with the power {glue:text}`mixing-time-power` of the length in this run; the counts are exact
# ({verdict}`performer.linear-cost`). Linear does not mean cheap: with 256 features in a head of width 64 the Performer
# multiplies less only from about {glue:text}`mixing-equal` tokens on. Below that, the square was never the problem.

# %%
show.quiz(
    "A head has width 64 and 256 features. The text becomes four times as long. What happens to the Performer's "
    "multiplications?",
    [
        ("Four times as many.", "Every product has one side of N and two that do not grow.",
         macs(on_paper, 4096) == 4 * macs(on_paper, 1024)),
        ("Sixteen times as many.", "That is attention's count.", macs(on_paper, 4096) == 16 * macs(on_paper, 1024)),
        ("Twice as many.", "No product grows that slowly.", macs(on_paper, 4096) == 2 * macs(on_paper, 1024)),
    ],
    name="mixing-four-times",
    section="mixing-cost",
)  # fmt: skip

# %% [markdown]
# (mixing-fnet)=
# ## FNet: mix, but look nothing up
#
# {cite:t}`leethorp2022` ask a bolder question: must mixing depend on what the tokens *are*? Their layer takes the
# tokens $X$, $N$ rows of $C$ channels, through a discrete Fourier transform over rows and one over columns, and keeps
# the real part. Writing the waves as a matrix of cosines and one of sines, over tokens and over channels, the real part
# of $(\cos - i \sin)\, X\, (\cos - i \sin)$ is
#
# $$ \cos\, X \cos \;-\; \sin\, X \sin . $$


# %%
def waves(n: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines (n, n) of a transform of n numbers: row i turns i times on its way through the columns."""
    places = torch.arange(n).double()
    angle = 2 * math.pi / n * torch.outer(places, places)
    return angle.cos(), angle.sin()


def fourier_by_hand(x: Tensor) -> Tensor:
    """(N, C) to (N, C)."""
    (cos_n, sin_n), (cos_c, sin_c) = waves(x.shape[0]), waves(x.shape[1])
    return cos_n @ x @ cos_c - sin_n @ x @ sin_c


x = torch.tensor([[1.0, 0], [2, 0], [0, 0], [4, 1]]).double()  # four tokens, two channels
print(fourier_by_hand(x).round().int().tolist())
assert torch.allclose(fourier_by_hand(x)[0], torch.tensor([8.0, 6]).double())
x = torch.randn(12, 8).double()
show.parity("Fourier", (Fourier(8, 12)(x) - fourier_by_hand(x)).abs().max().item(), tolerance=2e-5)

# %% [markdown]
# Check one row with a pencil. Row 0 has waves that do not turn, so it is a sum over all tokens: the channels sum to 7
# and 1, and the transform over two channels makes their sum 8 and their difference 6 of them. The first token, `[CLS]`
# in a text, hears everybody, each as loud as the others: a bag of words. The other rows are the same sum with each
# token weighted by a wave of its place, so what they hear depends on order.
#
# What can't be had from fixed waves is a *choice*. How much of token 5 reaches token 2 is the same number for every
# text. In attention it depends on the text. The derivative shows it:


# %%
def reach(mix: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """How output 2 changes with token 5, channel by channel: (C, C)."""
    return torch.autograd.functional.jacobian(lambda z: mix(z)[2], x)[:, 5]


one_text, another = torch.randn(2, 12, 8)
head = lambda z: attention(*[z[None, None]] * 3)[0, 0]  # noqa: E731
transform = Fourier(8, 12)
assert torch.allclose(reach(transform, one_text), reach(transform, another), atol=1e-5)
assert not torch.allclose(reach(head, one_text), reach(head, another), atol=1e-2)

# %%
first = transform(one_text)[0]
shuffled = transform(one_text[torch.randperm(12)])[0]
show.quiz(
    "The tokens of a text are shuffled. What happens to FNet's first output row after one transform?",
    [
        ("It stays as it is.", "Its wave does not turn: it is a sum over tokens, and a sum has no order.",
         torch.allclose(first, shuffled, atol=1e-4)),
        ("It becomes another old row.", "The first row is a plain sum, and no other row is.", False),
        ("It changes.", "Later rows do. The first weighs every token alike.",
         not torch.allclose(first, shuffled, atol=1e-4)),
    ],
    name="mixing-shuffled",
    section="mixing-fnet",
)  # fmt: skip

# %% [markdown]
# Everything else is BERT: embeddings, feed-forward networks, norms after each sum, the heads. One linear layer after
# the embeddings is easy to forget: the code has it even where both widths are equal. The tests compare the whole model
# with `FNetForPreTraining` of Hugging Face transformers, outputs, loss and gradients.

# %%
rows = []
for name, paper in (("fnet_base", 83), ("fnet_large", 238), ("bert_base", 110)):
    with torch.device("meta"):
        model = tf.create_model(name)
    mixers = sum(p.numel() for block in model.blocks for p in block.mixer.fn.parameters())
    total = sum(p.numel() for p in model.parameters())
    rows.append({"model": name, "paper, millions": paper, "ours": total, "in its mixers": mixers})
assert rows[0]["in its mixers"] == 0 < rows[2]["in its mixers"]
show.table(rows, caption="With both heads; FNet's printed counts at second hand. Its mixers have nothing to learn.")

# %% [markdown]
# ## The experiment: texts to be told apart
#
# The paper pretrains on a large corpus and compares on GLUE. A chapter can't. We ask the smaller question: does
# an encoder of two layers, trained from scratch on a few hundred texts, classify new ones nearly as well with a
# transform as with attention? Two tasks: in which of sixteen languages is a number written, and which of twenty-one
# places writes a date like that? Both models read letters, see 32 places, and answer from the first output. A model
# that mixes nothing could only ever see its first place, so it has one answer for all texts.

# %%
places = 32
lr = 3e-3  # of three the best for both models, on both tasks
steps = run.pick(quick=600, colab=3000, full=3000)
SPLITS = {"train": (0, 25), "validation": (1, 25), "test": (2, 60)}  # an offset of the seed, and texts of each class


@cache
def texts(task: str, split: str) -> list[tuple[str, int]]:
    """Texts and their classes; a split draws by a seed of its own, and none has a text to learn from."""
    offset, count = SPLITS[split]
    draw = {"count": count, "seed": 3 * seed + offset}
    if task == "languages":
        made = [[b for _, b in data.number_words("en", l, limit=10**6, **draw)] for l in LANGUAGES]
    else:
        made = [[a for a, _ in data.locale_dates(place, "iso", **draw)] for place in LOCALES]
    known = {text for text, _ in texts(task, "train")} if split != "train" else set()
    return [(text, label) for label, row in enumerate(made) for text in row if text not in known]


# %%
class Classifier(nn.Module):
    """Ids (B, N) to logits (B, classes), from the first output."""

    def __init__(self, body: BERT | FNet, classes: int) -> None:
        super().__init__()
        self.body, self.score = body, nn.Linear(body.dim, classes)

    def forward(self, ids: Tensor) -> Tensor:
        return self.score(self.body.pool(self.body.encode(ids)))


size = {"dim": 48, "depth": 2, "hidden": 96, "context": places, "dropout": 0.0}
makers = {
    "BERT": lambda vocab: BERT(vocab=vocab, heads=4, **size),
    "FNet": lambda vocab: FNet(vocab=vocab, segments=2, **size),
}


def encoded(rows: list[tuple[str, int]], vocabulary: data.Vocabulary) -> tuple[Tensor, Tensor]:
    ids = [[data.BOS, *vocabulary.encode(text)[: places - 1]] for text, _ in rows]
    return data.pad(ids, length=places), torch.tensor([label for _, label in rows])


# %%
def trained(arm: str, task: str, split: str = "test") -> list[float]:
    """Accuracy on a split in percent, at nine tenths of the training and at its end."""
    train, asked = texts(task, "train"), texts(task, split)
    vocabulary = data.Vocabulary.from_texts([text for text, _ in train])
    torch.manual_seed(seed)
    model = Classifier(makers[arm](len(vocabulary)), 1 + max(label for _, label in train))
    ids, labels = encoded(asked, vocabulary)

    def accuracy(model: nn.Module, step: int) -> dict[str, float]:
        right = model(ids.to(run.device)).argmax(-1).cpu() == labels
        return {"accuracy": 100 * right.float().mean().item()}

    history = training.fit(
        model, encoded(train, vocabulary),
        lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
        steps=steps, batch_size=32, lr=lr, schedule=training.cosine(steps, steps // 10),
        weight_decay=0.01, seed=seed, device=run.device, label=f"{arm}, {task}",
        evaluate=accuracy, evaluate_every=steps * 9 // 10,
    )  # fmt: skip
    return [row["accuracy"] for row in history.metrics]


tasks = ("languages", "dates")
accuracy = {(arm, task): trained(arm, task) for arm in makers for task in tasks}
chance = {"languages": 100 / len(LANGUAGES), "dates": 100 / len(LOCALES)}
unmixed = FNet(vocab=9, segments=2, mixer=Nothing, **size).eval()
assert unmixed.pool(unmixed.encode(F.pad(torch.arange(2, 9)[:, None], (1, 0), value=1))).std(0).max() < 1e-6

# %% tags=["hide-input"]
show.table(
    [{"model": arm} | {f"{task}, %": accuracy[arm, task][-1] for task in tasks} for arm in makers]
    + [{"model": "one answer for all", "languages, %": chance["languages"], "dates, %": chance["dates"]}],
    caption=f"Test texts told apart after {steps} steps, profile {run.profile}.",
)

# %%
relative = [accuracy["FNet", task][-1] / accuracy["BERT", task][-1] for task in tasks]
over_nothing = [accuracy["FNet", task][-1] - chance[task] for task in tasks]
gained = [accuracy["BERT", task][-1] - accuracy["BERT", task][0] for task in tasks]
verdicts.append(
    claims.report(
        "fnet.nearly-as-accurate",
        share=100 * sum(relative) / 2,
        over_nothing=sum(over_nothing) / 2,
        bert=min(accuracy["BERT", task][-1] for task in tasks),
        bert_last_tenth=sum(gained) / 2,
    )
)
show.glue("mixing-kept", f"{100 * sum(relative) / 2:.0f} %")

# %% [markdown]
# FNet reaches {glue:text}`mixing-kept` of BERT's accuracy in this run, and over the recorded seeds
# {recorded}`fnet.nearly-as-accurate:share` percent: {verdict}`fnet.nearly-as-accurate`. Mind what kind of task this is.
# Which letters and endings occur says most about a language, and a bag of letters is what the first row of a transform
# hears at once. A task that asks for one particular word among many would be another test; an exercise counts why.
#
# And the time? One layer of base size with 512 tokens, forwards and backwards, both models in turns, each with its best
# time.

# %%
layers = {
    "BERT": Block(768, Attention(768, 12), MLP(768, 3072), residual=PostNorm),
    "FNet": Layer(768, Fourier(768, 512), 3072, 0.0),
}
x = torch.randn(1, 512, 768, requires_grad=True)


def step_seconds(layer: nn.Module) -> float:
    begin = time.process_time()
    layer(x).sum().backward()
    return time.process_time() - begin


rounds = [[step_seconds(layer) for layer in layers.values()] for _ in range(8)]
fastest = [min(column) for column in zip(*rounds, strict=True)]
verdicts.append(claims.report("fnet.trains-faster", speedup=fastest[0] / fastest[1]))
show.glue("mixing-speedup", f"{fastest[0] / fastest[1]:.2f}")
matrices = {name: sum(p.numel() for p in layer.parameters() if p.ndim == 2) for name, layer in layers.items()}
show.glue("mixing-fewer", f"{(matrices['BERT'] + 2 * 512 * 768) / matrices['FNet']:.2f}")

# %% [markdown]
# FNet's layer takes a step {glue:text}`mixing-speedup` times as fast ({verdict}`fnet.trains-faster`). What could it be?
# The feed-forward network is the same in both, so even a transform that costs nothing would give a factor of
# {glue:text}`mixing-fewer` by the count of multiplications. The paper's 80 % were measured on other hardware, where a
# softmax and its traffic cost more than the count says {cite:p}`leethorp2022`.
#
# ## Look inside
#
# Twelve tokens, exact weights and estimated ones, beside each other by the slider. Longer queries and keys make the
# softmax choose; watch what 256 features make of it.

# %%
q, k = torch.randn(2, 1, 1, 12, 16)
maps, directions = {}, orthogonal_directions(256, 16)
for spread in (0.5, 1.0, 2.0, 3.0):
    maps[f"softmax, spread {spread:g}"] = attention_weights(spread * q, spread * k)[0, 0]
    for name, kernel in (("positive", positive), ("waves", trigonometric)):
        f_q, f_k = kernel(spread * q, spread * k, directions, 0.0, False)
        maps[f"{name}, spread {spread:g}"] = weighted(f_q, f_k, torch.eye(12)[None, None])[0, 0].clamp(-1, 1)

# %% tags=["hide-input"]
names = [f"token {i}" for i in range(12)]
show.explore(
    maps,
    names,
    names,
    slider_label="weights",
    alt="Weights of twelve queries on twelve keys: by softmax, by positive features and by waves, for entries of "
    "spread 0.5, 1, 2 and 3. The softmax's rows become choices; waves turn to wild positive and negative numbers.",
    caption="At spread 0.5 all three agree. Then waves go wild (cut off here at -1 and 1), and positive features blur.",
)

# %% [markdown]
# And FNet's weights on tokens, for some pairs of channels. They are the same for every text that was ever written.

# %%
cos_n, sin_n = waves(12)
fixed = {}
for c, other in ((0, 0), (0, 1), (1, 1), (2, 3)):
    (cos_c, sin_c) = waves(8)
    fixed[f"channel {c} to channel {other}"] = cos_n * cos_c[c, other] - sin_n * sin_c[c, other]
unit = torch.zeros(12, 8).double()
unit[4, 2] = 1  # one number in one token: what arrives is a column of the map
assert torch.allclose(Fourier(8, 12)(unit)[:, 3], fixed["channel 2 to channel 3"][:, 4])

# %% tags=["hide-input"]
show.explore(
    fixed,
    names,
    names,
    slider_label="from",
    alt="Four fixed maps of twelve tokens by twelve tokens with waves of growing frequency from row to row. For other "
    "pairs of channels the waves are shifted.",
    caption="Row 0 does not wave: the first token weighs every token alike, whatever the channels.",
)

# %% [markdown]
# ## What breaks
#
# Five mistakes, each from code that people use. All of them train.
#
# **A causal model that hears the future.** To keep exponents small, published code subtracts the largest score over all
# keys, and then adds `eps`. The largest key may lie in the future; `eps` makes its size matter. The check: change the
# last key, and look whether an earlier output moves. Ours subtracts a bound that knows no key.


# %%
def official_positive(q: Tensor, k: Tensor, w: Tensor, eps: float, causal: bool) -> tuple[Tensor, Tensor]:
    return positive(q, k, w, eps, causal=False)  # the largest of all keys, causal or not


def moved(kernel: Callable[..., tuple[Tensor, Tensor]]) -> float:
    """How far the first 15 outputs move when the last key grows."""
    q, k, v = torch.randn(3, 1, 1, 16, 8, generator=torch.Generator().manual_seed(1))
    later = k.clone()
    later[..., -1, :] *= 6
    attend = FAVOR(8, 64, kernel=kernel)
    a, b = (attend(q, keys, v, causal=True)[..., :15, :] for keys in (k, later))
    return (a - b).abs().max().item()


print(f"largest key of all: {moved(official_positive):.1e}; ours: {moved(positive):.1e}")
assert moved(positive) == 0 < moved(official_positive)

# %% [markdown]
# **Padding that weighs.** A package zeroes the *values* of padding and leaves its keys in the sum below the fraction.
# The check costs one line: pad a text, and compare. **Directions by QR without coins** were above; the check is that
# an average rotation is zero.

# %%
q, k, v = torch.randn(3, 1, 1, 8, 16) / 2
longer_k, longer_v = (F.pad(x, (0, 0, 0, 8)) for x in (k, v))
real = (torch.arange(16) < 8)[None, None, None]
favor = FAVOR(16, 64)
right = favor(q, k, v)
values_only = favor(q, longer_k, longer_v)  # zero values are all that says "padding"
assert torch.allclose(favor(q, longer_k, longer_v, mask=real), right, atol=1e-5)
assert values_only.norm() < 0.7 * right.norm()  # eight silent keys take about half of the weight

# %% [markdown]
# **A transform over everything.** `torch.fft.fftn(x)` without axes transforms the batch as well: texts hear each other,
# and results depend on who else is in the batch. **The real part too early**: taking it between the two transforms
# loses the product of sines. The checks: change another text of the batch; compare with the definition.

# %%
batch = torch.randn(3, 12, 8).double()
other = batch.clone()
other[2] = torch.randn(12, 8).double()
versions = {
    "as it should be": lambda x: torch.fft.fft2(x).real,
    "over the batch, too": lambda x: torch.fft.fftn(x).real,
    "real part too early": lambda x: torch.fft.fft(torch.fft.fft(x, dim=-1).real, dim=-2).real,
}
rows = []
for name, version in versions.items():
    alone = torch.equal(version(batch)[:2], version(other)[:2])
    equal = torch.allclose(version(batch)[0], fourier_by_hand(batch[0]))
    rows.append(
        {"version": name, "texts stay apart": "✓" if alone else "✗", "is the definition": "✓" if equal else "✗"}
    )
assert [row["texts stay apart"] + row["is the definition"] for row in rows] == ["✓✓", "✗✗", "✓✗"]
show.table(rows, caption="The third passes the first check: no test of one property finds everything.")

# %%
padded, shorter = (FNet(vocab=9, segments=2, dim=16, depth=1, hidden=16, context=12, dropout=0.0).eval(), 8)
ids = torch.randint(1, 9, (1, shorter))
difference = (padded.encode(F.pad(ids, (0, 4)))[:, :shorter] - padded.encode(ids)).abs().max().item()
show.quiz(
    "A text of 8 tokens is padded to 12 before FNet reads it. What happens to the outputs of the 8?",
    [
        ("Nothing: padding is masked.", "A transform has no mask, and the padding's embeddings are mixed in.",
         difference < 1e-6),
        ("They change.", "Padding is mixed in, and waves over 12 places are not waves over 8.", difference > 1e-6),
        ("The model refuses.", "It can't know that the last four are padding.", False),
    ],
    name="mixing-padding",
    section="mixing-fnet",
)  # fmt: skip

# %% [markdown]
# ## Ours and the paper's
#
# | What differs | Ours | The papers' | What it does |
# |---|---|---|---|
# | directions | QR with a coin for each row | Gram and Schmidt; the code: QR without | ours is unbiased, see above |
# | drawn again | every 1000 calls in training | at each call, seeded by the queries | not measured |
# | causal keys | a bound that knows no keys | the largest of all keys | nothing leaks |
# | ReLU kernel | no directions, as the official default | with directions, too, in the text | not measured |
# | inputs of the error | standard normal entries | *appropriately normalized* | the ranking depends on it, see above |
# | FNet's tasks | two, from scratch, letters | GLUE, pretrained | says little of GLUE |
#
# Easy: both layers are a dozen lines. Hard: to notice that the orthogonal directions were biased. A test of the average
# found it; no picture would have.

# %% tags=["hide-input"]
claims.summary(verdicts)

# %% [markdown]
# ## Exercises
#
# ```{exercise} Features
# :label: efficient-mixing-features
# :minutes: 8
# Write `features(x, w)`: for vectors $(..., N, D)$ and directions $(F, D)$ the $F$ positive features of each vector,
# such that their product is $e^{x \cdot y}$ on average.
# ```
#
# ```{stub} efficient-mixing-features
# def features(x, w):
#     raise NotImplementedError
# ```
#
# ```{admonition} Hint
# :class: dropdown
# A mean over $F$ directions is a sum divided by $F$. Each of the two factors takes its half of that.
# ```
#
# ```{solution-start} efficient-mixing-features
# :class: dropdown
# ```


# %%
def features(x: Tensor, w: Tensor) -> Tensor:
    return torch.exp(x @ w.mT - x.square().sum(-1, keepdim=True) / 2) / len(w) ** 0.5


tf.check("efficient-mixing-features", features)

# %% [markdown]
# ```{solution-end}
# ```
#
# ```{exercise} The past only
# :label: efficient-mixing-prefix-sums
# :minutes: 10
# Write `causal(f_q, f_k, v)` for features $(B, N, F)$ and values $(B, N, E)$: at each place the mean of the values so
# far, weighted by `f_q · f_k`. Form no matrix of $N \times N$.
# ```
#
# ```{stub} efficient-mixing-prefix-sums
# def causal(f_q, f_k, v):
#     raise NotImplementedError
# ```
#
# ```{admonition} Hint
# :class: dropdown
# By hand, two things were summed up as keys went by. `cumsum` sums along an axis.
# ```
#
# ```{solution-start} efficient-mixing-prefix-sums
# :class: dropdown
# ```


# %%
def causal_mean(f_q: Tensor, f_k: Tensor, v: Tensor) -> Tensor:
    summaries = (f_k[..., None] * v[..., None, :]).cumsum(1)  # (B, N, F, E)
    above = torch.einsum("bnf,bnfe->bne", f_q, summaries)
    return above / (f_q * f_k.cumsum(1)).sum(-1, keepdim=True)


tf.check("efficient-mixing-prefix-sums", causal_mean)

# %% [markdown]
# ```{solution-end}
# ```
#
# ```{exercise} The matrix of a transform
# :label: efficient-mixing-fourier
# :minutes: 5
# Write `matrix(n)`, the matrix $(N, N)$ by which the real part of a Fourier transform over tokens alone mixes $N$
# tokens.
# ```
#
# ```{stub} efficient-mixing-fourier
# def matrix(n):
#     raise NotImplementedError
# ```
#
# ```{solution-start} efficient-mixing-fourier
# :class: dropdown
# ```


# %%
def matrix(n: int) -> Tensor:
    places = torch.arange(n)
    return torch.cos(2 * math.pi / n * torch.outer(places, places))


tf.check("efficient-mixing-fourier", matrix)

# %% [markdown]
# ```{solution-end}
# ```
#
# ```{exercise} Twice
# :label: efficient-mixing-twice
# Apply FNet's transform twice. What comes out? Guess from the drawings of waves, then look.
# ```
#
# ```{solution-start} efficient-mixing-twice
# :class: dropdown
# ```
#
# The input plus its mirror image, times half the number of entries: the transform of a transform is the input read
# backwards, and the real part can't tell a wave from its mirror image.

# %%
x = torch.randn(12, 8)
mirrored = x.roll((-1, -1), (0, 1)).flip((0, 1))  # place i goes to place -i
assert torch.allclose(transform(transform(x)), 12 * 8 / 2 * (x + mirrored), atol=1e-3)

# %% [markdown]
# ```{solution-end}
# ```
#
# ```{exercise} When does the estimate beat the plain mean?
# :label: efficient-mixing-mean
# At spread 1, how many features does it take until the estimate's error is below that of the plain mean? Double them
# until it is.
# ```
#
# ```{solution-start} efficient-mixing-mean
# :class: dropdown
# ```

# %%
q, k, v = torch.randn(3, 1, 1, 1024, 16)
exact = attention(q, k, v)
nothing = (v.mean(-2, keepdim=True) - exact).square().mean()
m = 64
while (FAVOR(16, m)(q, k, v) - exact).square().mean() > nothing and m < 2**15:
    m *= 2
print(f"{m} features for 1024 tokens; the error falls about like one over their number")
show.expect(m > 64, "64 features are not enough")

# %% [markdown]
# Compare that number with the number of tokens. Where more features are needed than there are keys, the estimate costs
# more than what it estimates.
#
# ```{solution-end}
# ```
#
# ```{exercise} Break it: a mixer that is no mixer
# :label: efficient-mixing-break
# A colleague transforms the channels only: `torch.fft.fft(x, dim=-1).real`. Shapes, speed and the number of parameters
# are as before. Write the shortest test of meaning that catches it.
# ```
#
# ```{solution-start} efficient-mixing-break
# :class: dropdown
# ```


# %%
def mixes(mixer: Callable[[Tensor], Tensor]) -> bool:
    """Whether the last token has an influence on the first output."""
    x = torch.randn(1, 6, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(mixer(x)[0, 0].square().sum(), x)
    return gradient[0, -1].abs().max().item() > 1e-6


assert mixes(Fourier(4, 6)) and not mixes(lambda x: torch.fft.fft(x, dim=-1).real)

# %% [markdown]
# ```{solution-end}
# ```
#
# ## Further reading
#
# - {cite:t}`choromanski2021`, sections 2 and 3: the features and their errors, in four pages. The proofs are in the
#   appendix.
# - {cite:t}`leethorp2022`: which mixers were tried beside the transform, and how speed and size trade off.
# - {cite:t}`rahimi2007`: random features before attention had heard of them.
