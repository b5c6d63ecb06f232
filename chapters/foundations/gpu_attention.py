# ---
# jupyter:
#   jupytext: {text_representation: {extension: .py, format_name: percent}}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# (gpu-attention)=
# # Attention on a GPU: never write the scores down
#
# The formula of the first chapter is two matrix products with a softmax between. Written out, it fills memory with
# numbers that nobody keeps. Since {cite:t}`dao2022`, fast implementations do without: the scores exist a tile at a
# time, close to where they are computed, and are gone. This chapter derives the trick from {cite:t}`milakov2018`,
# writes it in Triton {cite:p}`tillet2019` as a **kernel** (a function that the GPU runs in one go, without handing
# anything back in between), runs that kernel here without a GPU, and looks at what a compiler makes of it.
#
# After this chapter you can
# - count the bytes of an attention call, and say whether arithmetic or memory bounds it;
# - derive the one-pass softmax and its backward, and write both in a few lines;
# - read a Triton kernel, tell which tiles a mask skips, and judge a claim about speed.
#
# **Time**: about half a minute on one CPU core; the line above says what this copy took. No GPU is needed. On Colab
# with a GPU the chapter also times attention on your card, which takes some five minutes. **Before**: the chapter
# {ref}`attention`.

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

# %%
import json
import math
import os
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import metadata
from itertools import pairwise
from types import SimpleNamespace

os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported: kernels run as Python
os.environ["KINETO_LOG_LEVEL"] = "99"  # the profiler need not say that it starts

import plotly.graph_objects as go
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity
from torch.profiler import profile as watch

import tformerlib as tf
from tformerlib import claims, show
from tformerlib.attention import attention, attention_reference, dispatch, window_attention
from tformerlib.attention.kernels.compile_only import compile_kernels
from tformerlib.attention.partition import region_mask

# %% tags=["parameters"]
profile = "quick"  # quick: one thread of a CPU.  colab: one T4.  full: one large GPU.
seed = 0

# %%
run = tf.parameters(profile=profile, seed=seed)
seeds = run.seeds(3)
no_triton = dispatch.unavailable(torch.device("cpu"))  # why not; "" if it is there
verdicts = []
if no_triton:
    print(f"{no_triton}: cells that run a kernel are passed over. Everything else works.")
    tl = SimpleNamespace(constexpr=int)  # enough to read the kernel below
else:
    import triton
    import triton.language as tl

# %% [markdown]
# ## The question: what does a score cost?
#
# A GPU computes far faster than it can fetch. So count bytes before anything else. Take one head with `N` queries, `N`
# keys and width `D`, in 16-bit numbers, and do what the formula says, one step after the other: each step reads its
# inputs from memory and writes its result back.


# %%
def bytes_moved(n: int, d: int) -> dict[str, int]:
    """Bytes that attention written out moves, step by step, for one head of n tokens."""
    table, rows = 2 * n * n, 2 * n * d  # scores or weights; q, k, v or output
    return {
        "scores = q kᵀ / √d": 2 * rows + table,
        "weights = softmax(scores)": 2 * table,
        "output = weights v": table + 2 * rows,
    }


n, d = 1024, 64
steps = bytes_moved(n, d)
needed = 4 * 2 * n * d  # q, k and v once in, the output once out
show.table(
    [{"step": step, "MB": moved / 1e6} for step, moved in steps.items()]
    + [{"step": "what has to move: q, k, v, output", "MB": needed / 1e6}],
    caption=f"Traffic of one head with {n} tokens of width {d}.",
)
show.glue("gpu-traffic", f"{sum(steps.values()) / needed:.0f}")

# %% [markdown]
# Written out, attention moves {glue:text}`gpu-traffic` times what it has to, and nearly all of it is the square table.
# Does that matter? Divide the arithmetic, $4 N^2 D$ operations (two products, a multiplication and an addition each),
# by the bytes: this is the **arithmetic intensity** {cite:p}`williams2009`. A card's own ratio, peak arithmetic over
# bandwidth, is its **ridge**. Below the ridge a program waits for memory; above it, for arithmetic.

# %%
cards = {  # 16-bit TFLOP/s and GB/s of the memory, from the maker's data sheets
    "T4": (65, 320),
    "A100 80GB": (312, 2039),
    "H100 SXM": (989, 3350),
}


def intensity(n: int, d: int, moved: float) -> float:
    """Operations per byte."""
    return 4 * n * n * d / moved


naive, tiled = intensity(n, d, sum(steps.values())), intensity(n, d, needed)
show.table(
    [
        {
            "card": card,
            "ridge": 1000 * tflops / gbs,
            "written out": naive,
            "only what has to move": tiled,
        }
        for card, (tflops, gbs) in cards.items()
    ],
    caption="Operations per byte: the card's ridge, and attention with 1024 tokens in heads of 64.",
)
assert all(naive < 1000 * tflops / gbs < tiled for tflops, gbs in cards.values())

# %% [markdown]
# Written out, attention lies far below every ridge, and more tokens do not help: as `N` grows, the intensity tends to
# $D / 2$. With only the necessary traffic it is $N / 2$, which passes every ridge at some length. So the aim is clear:
# **read q, k and v, write the output, and let nothing of size $N \times N$ touch the memory.** The softmax stands in
# the way. It divides by a sum over the whole row, so how can one begin with the values before the row is complete?
#
# ## By hand: six scores, two at a time
#
# Let a row have the scores $\ln 2 \cdot (1, 0, 3, 2, 3, 1)$, so that every exponential is a power of two, and let the
# values be the numbers $1$ to $6$. All at once, the weights are $2, 1, 8, 4, 8, 2$ over their sum $25$, and the answer
# is $96/25$.
#
# Now read two scores at a time and forget them. Keep three numbers: the largest score so far, $\mu$ (in units of
# $\ln 2$); the sum of exponentials *measured from $\mu$*, $\ell$; and the sum of values with the same weights, $o$.
#
# | read | $\mu$ | rescale by | $\ell$ | $o$ |
# |---|---|---|---|---|
# | 1, 0 | 1 | | $1 + 1/2 = 3/2$ | $1 + 2/2 = 2$ |
# | 3, 2 | 3 | $2^{1 - 3} = 1/4$ | $(3/2)/4 + 1 + 1/2 = 15/8$ | $2/4 + 3 + 4/2 = 11/2$ |
# | 3, 1 | 3 | $1$ | $15/8 + 1 + 1/4 = 25/8$ | $11/2 + 5 + 6/4 = 12$ |
#
# At the end $o / \ell = 12 \cdot 8 / 25 = 96/25$. When a larger score arrives, everything summed so far was measured
# from the wrong place. All of it is off by the same factor, so one multiplication puts it right.

# %%
scores = math.log(2) * torch.tensor([1.0, 0, 3, 2, 3, 1])
values = torch.arange(1.0, 7.0)
assert torch.isclose(scores.softmax(0) @ values, torch.tensor(96 / 25))

top, total, out = -math.inf, 0.0, 0.0
for pair, numbers in zip(scores.split(2), values.split(2), strict=True):
    new = max(top, pair.max().item())
    weights = (pair - new).exp()
    total = total * math.exp(top - new) + weights.sum().item()
    out = out * math.exp(top - new) + (weights @ numbers).item()
    top = new
assert math.isclose(total, 25 / 8, rel_tol=1e-6) and math.isclose(out / total, 96 / 25, rel_tol=1e-6)
print(f"sum {8 * total:.3f}/8, answer {25 * out / total:.3f}/25")

# %% [markdown]
# ## Build it: a softmax in one pass
#
# The plan: a tile of queries stays, tiles of keys and values pass by, and three running numbers a query are corrected
# each time.
#
# ```{diagram} tiles
# Only the tiles are ever in fast memory. The table of all scores does not exist anywhere.
# ```
#
# Write $e_j$ for the scores of a row, and let the sums run over the keys that were read so far:
#
# $$ \mu = \max_j e_j, \qquad \ell = \sum_j e^{e_j - \mu}, \qquad o = \sum_j e^{e_j - \mu}\, v_j . $$
#
# Read another key, with score $e_n$. The new maximum is $\mu' = \max(\mu, e_n)$, and because
# $e^{e_j - \mu'} = e^{\mu - \mu'} e^{e_j - \mu}$,
#
# $$ \ell' = e^{\mu - \mu'} \ell + e^{e_n - \mu'}, \qquad o' = e^{\mu - \mu'} o + e^{e_n - \mu'}\, v_n . $$
#
# By induction the three numbers are right after every key, and after the last one $o / \ell$ is the row's answer.
# Nothing is approximated. Two more things come for free. No exponent is ever positive, so nothing overflows. And
# $\lambda = \mu + \ln \ell$, the logarithm of the softmax's sum (the **log-sum-exp**), is one number a row from which
# any weight can be computed again: $p_j = e^{e_j - \lambda}$. Keep it in mind for the backward.
#
# Single keys are not worth a step, so a tile of keys is read at once; the same algebra holds with the tile's largest
# score for $e_n$ and sums over the tile. {cite:t}`milakov2018` published the recurrence for the softmax.
# {cite:t}`rabe2021` carried the values along, in chunks, to save memory. {cite:t}`dao2022` put the loop into one GPU
# kernel and counted what that saves in traffic, which is where the speed comes from. Fifteen lines:


# %%
def online(q: Tensor, k: Tensor, v: Tensor, block: int = 128) -> tuple[Tensor, Tensor]:
    """Queries (B, H, N, D), keys and values (B, H, M, ..) to outputs and log-sum-exps (B, H, N)."""
    top = q.new_full(q.shape[:-1], -math.inf)
    total, out = torch.zeros_like(top), q.new_zeros(*q.shape[:-1], v.shape[-1])
    for start in range(0, k.shape[-2], block):
        keys, values = (x[..., start : start + block, :] for x in (k, v))
        scores = q @ keys.mT / q.shape[-1] ** 0.5
        new = torch.maximum(top, scores.amax(-1))
        weights = (scores - new[..., None]).exp()
        rescale = (top - new).exp()
        total = total * rescale + weights.sum(-1)
        out = out * rescale[..., None] + weights @ values
        top = new
    return out / total[..., None], top + total.log()


def written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v


q, k, v = torch.randn(1, 2, 100, 16), torch.randn(1, 2, 333, 16), torch.randn(1, 2, 333, 8)
show.parity("one pass against two", (online(q, k, v)[0] - written_out(q, k, v)).abs().max().item(), 1e-5)

# %% [markdown]
# How exact is exact? Rescaling rounds once more for every tile. We take rows of 1000 scores that spread by up to 30 and
# more, so that the smallest weight is far below what a float can hold beside the largest, and compare in float64.


# %%
def one_pass_error(seed: int) -> float:
    """Largest difference between one pass in tiles of 16 keys and the softmax of the whole row."""
    torch.manual_seed(seed)
    q = 30 * torch.randn(1, 1, 64, 1, dtype=torch.float64)
    k, v = torch.randn(2, 1, 1, 1000, 1, dtype=torch.float64)
    return (online(q, k, v, block=16)[0] - written_out(q, k, v)).abs().max().item()


verdicts.append(claims.report("gpu_attention.online-exact", error=max(map(one_pass_error, seeds))))

# %% [markdown]
# ### Does the memory go away?
#
# Count what a call allocates at its peak, output included, inputs not. PyTorch's profiler notes every allocation and
# release, so the count is exact. `scaled_dot_product_attention` is PyTorch's own tiled kernel; here, the one for CPUs.


# %%
def peak_bytes(call: Callable[[], object]) -> int:
    """The most memory that a call holds at once beyond what is there before it."""
    with watch(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        result = call()
    changes = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = highest = 0
    for change in sorted(changes, key=lambda e: e.start_ns()):
        held += change.nbytes()
        highest = max(highest, held)
    del result
    return highest


ways = {
    "written out": written_out,
    "our fifteen lines": lambda q, k, v: online(q, k, v)[0],
    "PyTorch's kernel": F.scaled_dot_product_attention,
}
lengths = [256, 512, 1024, 2048, 4096]
peaks: dict[str, list[int]] = {name: [] for name in ways}
for length in lengths:
    q, k, v = torch.randn(3, 1, 1, length, 64)
    for name, way in ways.items():
        peaks[name].append(peak_bytes(partial(way, q, k, v)))

# %%
powers = {name: math.log(each[4] / each[2]) / math.log(4) for name, each in peaks.items()}
verdicts.append(
    claims.report(
        "gpu_attention.linear-memory",
        fused_power=powers["PyTorch's kernel"],
        naive_power=powers["written out"],
    )
)

# %% tags=["hide-input"]
show.lines(
    lengths,
    {name: [each / 2**20 for each in every] for name, every in peaks.items()},
    x_label="tokens",
    y_label="peak memory of a call, MiB",
    log_x=True,
    log_y=True,
    alt="Peak memory over 256 to 4096 tokens, both axes logarithmic. At 4096 tokens: "
    + "; ".join(f"{name} {each[-1] / 2**20:.1f} MiB" for name, each in peaks.items())
    + ".",
    caption="One head of width 64, float32, forward. Two steps to the right are sixteen times the memory on a line of "
    "slope two, and four times on a line of slope one.",
)
fused = peaks["PyTorch's kernel"]
show.glue("gpu-memory-naive", f"{peaks['written out'][-1] / 2**20:.0f} MiB")
show.glue("gpu-memory-kernel", f"{fused[-1] / 2**20:.1f} MiB")
show.glue("gpu-power-ours", f"{powers['our fifteen lines']:.2f}")

# %% [markdown]
# At the longest length it is {glue:text}`gpu-memory-naive` against {glue:text}`gpu-memory-kernel`. Our fifteen lines
# grow with the power {glue:text}`gpu-power-ours`: they hold one tile of scores for *all* rows at once. A kernel cuts
# the rows as well.
#
# ## The same loop in Triton
#
# A GPU runs thousands of small **programs** at once. Each gets a number, its `program_id`, takes a block of `BM` rows,
# and walks over the keys in tiles of `BN`. Triton {cite:p}`tillet2019` lets us write the program as if it handled
# arrays; the compiler spreads them over threads, and keeps `q`, the tile of scores and the three sums in registers and
# in the small **shared memory** beside the arithmetic units. That is the whole trick: between the `tl.load` of keys and
# the `tl.store` of the output, nothing goes back.
#
# Read it beside `online`: line for line the same, but for three things. Addresses are computed by hand. The last tile
# may reach beyond the last key, so loads are masked and such scores set to $-\infty$. And exponentials are powers of
# two, because that is what the hardware has: $e^x = 2^{x \log_2 e}$, and the factor hides in the scale.
#
# Is the traffic now the least possible? Not quite: every program reads all keys and values for its own `BM` rows. That
# is $4 N D$ bytes for `BM` times $4 N D$ operations, so `BM` operations a byte. With blocks of 128 rows that is below
# every ridge of the table above. What helps is that the programs of one head read the *same* keys at about the same
# time: the keys and values of 1024 tokens take a quarter of a megabyte, which a card's cache holds, and memory itself
# sees them about once.


# %%
def one_head(Q, K, V, O, N, M, scale_log2, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """One program: BM queries of one head. Rows of width D lie one after the other in memory."""
    rows, d = tl.program_id(0) * BM + tl.arange(0, BM)[:, None], tl.arange(0, D)[None, :]
    q = tl.load(Q + rows * D + d, mask=rows < N, other=0.0)
    top = tl.full([BM], -1e30, tl.float32)  # finite: -inf minus -inf would be NaN
    total, out = tl.zeros([BM], tl.float32), tl.zeros([BM, D], tl.float32)
    for start in range(0, M, BN):
        keys = start + tl.arange(0, BN)
        k = tl.load(K + keys[:, None] * D + d, mask=keys[:, None] < M, other=0.0)
        v = tl.load(V + keys[:, None] * D + d, mask=keys[:, None] < M, other=0.0)
        scores = tl.dot(q, tl.trans(k)) * scale_log2
        scores = tl.where(keys[None, :] < M, scores, float("-inf"))
        new = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp2(scores - new[:, None])
        rescale = tl.exp2(top - new)
        total = total * rescale + tl.sum(weights, 1)
        out = out * rescale[:, None] + tl.dot(weights, v)
        top = new
    tl.store(O + rows * D + d, out / total[:, None], mask=rows < N)


# %% [markdown]
# Who runs it without a GPU? Triton's **interpreter**: it takes the programs one after the other and does with NumPy
# what each line says. That is slow, and it is the same kernel: addresses, masks and rounding are checked, speed and
# races between programs are not.

# %%
q, k, v = torch.randn(50, 16), torch.randn(75, 16), torch.randn(75, 16)  # no multiples of 16
if not no_triton:
    out = torch.empty_like(q)
    programs = triton.cdiv(50, 16)
    triton.jit(one_head)[(programs,)](q, k, v, out, 50, 75, 16**-0.5 * math.log2(math.e), D=16, BM=16, BN=16)
    show.parity("kernel, interpreted, against the formula", (out - written_out(q, k, v)).abs().max().item(), 1e-5)
    print(f"{programs} programs wrote {out.numel()} numbers; no table of {50 * 75} scores was stored")

# %% [markdown]
# ## Backward: compute it again
#
# Training wants gradients, and the textbook keeps the weights for them: the square table again. Write $\bar x$ for the
# gradient of the loss by $x$. For one query with weights $p_j$ and output $o = \sum_j p_j v_j$ (now normalized),
#
# $$ \bar v_j = p_j\, \bar o, \qquad \bar p_j = \bar o \cdot v_j . $$
#
# The softmax has the Jacobian $\operatorname{diag}(p) - p\,p^\top$, so
#
# $$ \bar e_j = p_j \Bigl( \bar p_j - \sum_m p_m \bar p_m \Bigr), \qquad
#    \sum_m p_m \bar p_m = \bar o \cdot \sum_m p_m v_m = \bar o \cdot o = \delta . $$
#
# The sum over the whole row, which seems to need all weights, is a product of two vectors that we have:
# {cite:t}`dao2022` use that, and it makes tiles possible in the backward. The rest is the derivative of a product:
# $\bar q = \sum_j \bar e_j k_j / \sqrt{d}$ and $\bar k_j = \bar e_j\, q / \sqrt{d}$. Keys and values serve all queries,
# so their gradients are summed over queries. Everything else in a tile follows from $q$, $k$, $v$, $\bar o$ and two
# numbers a row: $p_j = e^{e_j - \lambda}$ is computed again, used, and forgotten. One product more, and the table is
# gone.


# %%
def online_backward(q, k, v, out, lse, grad, block: int = 128) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v from that of `out`; `out` and `lse` are what `online` returned."""
    scale = q.shape[-1] ** -0.5
    delta = (grad * out).sum(-1, keepdim=True)
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for start in range(0, k.shape[-2], block):
        tile = slice(start, start + block)
        keys, values = k[..., tile, :], v[..., tile, :]
        weights = (q @ keys.mT * scale - lse[..., None]).exp()  # again
        dscores = weights * (grad @ values.mT - delta)
        dq += dscores @ keys * scale
        dk[..., tile, :] = dscores.mT @ q * scale
        dv[..., tile, :] = weights.mT @ grad
    return dq, dk, dv


def gradient_error(seed: int) -> float:
    """Largest difference from the gradients that autograd finds for the formula, float64."""
    torch.manual_seed(seed)
    q, k, v, grad = (torch.randn(2, 2, n, 8, dtype=torch.float64) for n in (40, 70, 70, 40))
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    exact = torch.autograd.grad(written_out(*leaves), leaves, grad)
    ours = online_backward(q, k, v, *online(q, k, v, 16), grad, 16)
    return max((a - b).abs().max().item() for a, b in zip(ours, exact, strict=True))


verdicts.append(claims.report("gpu_attention.tiled-gradients", error=max(map(gradient_error, seeds))))

# %% [markdown]
# Look at who adds to what. A program that owns a block of keys sums $\bar k$ and $\bar v$ over all queries, and nobody
# else writes there. $\bar q$ is a sum over keys, so in this loop many programs would add to one place. They do it by
# atomic additions, one at a time in whatever order they come; the order changes from run to run, and so do the last
# digits. The library's backward makes a second walk, in which programs own blocks of queries. That costs two products
# more (seven instead of five) and makes results equal bit for bit. Its kernels are checked like any function, against
# finite differences in float64:

# %%
shapes = ((1, 2, 3, 3), (1, 1, 18, 3), (1, 1, 18, 3))
q, k, v = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
bias = torch.randn(1, 2, 1, 18, dtype=torch.float64, requires_grad=True)


def kernels(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    return attention(q, k, v, bias=bias, causal=True, backend="triton")


if not no_triton:
    assert torch.autograd.gradcheck(kernels, (q, k, v, bias), fast_mode=True)
    print("forward, backward and bias gradient of the Triton kernels pass gradcheck")

# %% [markdown]
# ## The library's version
#
# `attention` of this book has a Triton path with everything that models ask for: causal masks, padding, other masks,
# biases with gradients, sliding windows (a query sees only the nearest keys), soft caps (a tanh that keeps scores below
# a limit), grouped heads (several heads of queries share one head of keys). All of them enter the loop at one place,
# where a tile of scores has been computed; each is one line there. Against the float64 oracle of the first chapter:

# %%
q, k, v = (torch.randn(2, h, n, 20) for h, n in ((4, 33), (2, 50), (2, 50)))  # two query heads share a key head
padding = torch.arange(50) < torch.tensor([[31], [50]])
calls = {
    "nothing": {},
    "causal": {"causal": True},
    "padding": {"key_mask": padding},
    "bias": {"bias": torch.randn(1, 4, 33, 50)},
    "a window of 9 keys, causal": {"window": 9, "causal": True},
    "soft cap": {"softcap": 2.0},
}
for name, options in calls.items():
    if not no_triton:
        error = (attention(q, k, v, **options, backend="triton") - attention_reference(q, k, v, **options)).abs().max()
        show.parity(f"Triton path, {name}", error.item(), 1e-5)

# %% [markdown]
# **Grouped heads** need no copy of the keys: a program computes which key head its query head belongs to, its number
# divided by the size of a group, and reads there. **A bias** is read tile by tile and added. Its gradient is the tile
# of $\bar e$ itself; where one bias serves a whole batch it is a sum over it, in a fixed order.
#
# **Masks** do more than hide: whole tiles can be left out. A tile in which nobody may see anything is not even loaded.
# A tile in which everybody may see everything needs no test. Only tiles on an edge pay for the mask.


# %%
def tiles(seen: Tensor, size: int = 64) -> Tensor:
    """(N, M) bool to tiles: 0 skipped, 1 computed without a test, 2 computed and tested."""
    cut = seen.unflatten(0, (-1, size)).unflatten(2, (-1, size)).transpose(1, 2).flatten(2)
    return torch.where(cut.all(-1), 1, torch.where(cut.any(-1), 2, 0))


place = torch.arange(1024)
ahead = place[None] - place[:, None]
masks = {
    "causal": ahead <= 0,
    "causal, a window of 200": (ahead <= 0) & (ahead > -200),
    "nothing": ahead == ahead,
    "padding after 600 keys": (place < 600).expand(1024, 1024),
    "a mask with holes": (place % 3 > 0).expand(1024, 1024),
}
maps = {name: tiles(seen) for name, seen in masks.items()}
assert (maps["causal"] == 2).sum() == 16 and (maps["causal"] > 0).sum() == 16 * 17 // 2

# %% tags=["hide-input"]
names = [f"{64 * i}" for i in range(16)]
show.explore(
    maps,
    names,
    names,
    slider_label="mask",
    alt="Sixteen by sixteen tiles of 64 queries and 64 keys. "
    + "; ".join(
        f"{name}: {(m > 0).float().mean():.0%} of the tiles computed, {(m == 2).float().mean():.0%} tested"
        for name, m in maps.items()
    )
    + ".",
    caption="Which tiles of a 1024 × 1024 table a kernel visits: 0 skipped, 1 computed without a test, 2 tested. Rows "
    "are queries, columns keys, labelled by their first token.",
)
show.table(
    [
        {
            "mask": name,
            "tiles computed, %": 100 * (m > 0).float().mean().item(),
            "tiles tested, %": 100 * (m == 2).float().mean().item(),
        }
        for name, m in maps.items()
    ]
)

# %% [markdown]
# This is where a general mask costs: a table of `N` by `M` bytes must be read, and every tile is tested. A key mask is
# one byte a key, and says beforehand where the padding starts.
#
# Who decides which path a call takes? `explain` names it with its reason. Rules are data; the library never guesses
# that its own kernel is the faster one. For dense attention it takes PyTorch's, unless a measured table for the card,
# the width and the length says otherwise.

# %%
q = torch.randn(1, 2, 8, 16)
print("here:", tf.attention.explain(q, q, q, causal=True))
print("cards with measured rows for dense attention:", ", ".join(dispatch.MEASURED) or "none so far")

# %% [markdown]
# ## What the compiler makes of it
#
# The interpreter says that a kernel is right. What it becomes on a card, the compiler says, and it needs no card
# either. We compile one of the library's kernels for three generations and count instructions: `sm_75` is the T4 of
# Colab's free tier, `sm_80` the A100, `sm_90` the H100. Repeat it on any machine with
# `python -m tformerlib.attention.kernels.compile_only window_forward --arch 75 80 90 --width 32 --length 7`.

# %%
compiled = []
if not no_triton:
    compiled = compile_kernels("window_forward", arch=(75, 80, 90), width=32, dtype="float16", length=7)
rows = [
    {
        "for": f"sm_{c.arch}",
        "tensor cores, mma": c.instructions["mma.sync"],
        "tensor cores, wgmma": c.instructions["wgmma.mma_async"],
        "multiply-adds": c.instructions["fma.rn.f32"],
        "powers of two": c.instructions["ex2.approx"],
        "registers": c.registers,
        "spilled bytes": c.spilled,
        "shared KiB": c.shared / 1024,
    }
    for c in compiled
]
if rows:
    show.table(
        rows,
        caption="One kernel, three generations: instructions of a thread's loop as Triton emits them.",
    )
else:
    print(no_triton)

# %%
for c in compiled:
    words = (word for word in c.ptx.split() if word.startswith(("mma.sync", "wgmma.mma_async")))
    print(f"sm_{c.arch}:", next(words, "no tensor-core instruction; multiply-adds one by one"))
if compiled:
    old, ampere, hopper = compiled
    assert old.instructions["mma.sync"] == 0 < old.instructions["fma.rn.f32"]
    assert ampere.instructions["mma.sync"] > 0 and hopper.instructions["wgmma.mma_async"] > 0
    show.expect(old.spilled > 0 == ampere.spilled, "registers spill on sm_75 and not on sm_80")

# %% [markdown]
# A **tensor core** multiplies small matrices in one instruction: `mma.sync` on an A100, by a warp of 32 threads;
# `wgmma` on an H100, by four warps at once, straight from shared memory and while the threads do something else. For
# the T4 Triton emits none, though the card has tensor cores: single multiply-adds by the thousand instead, and
# registers spill. So the library refuses to run there and hands a T4 to PyTorch's kernels, written in CUDA for it.
#
# Registers are the other limit. A thread can have 255; what does not fit *spills* into memory, and the loop waits for
# it. That is how this book's tile tables were made, and how a mistake in them came out: in float32, tiles made for
# 16-bit numbers asked for more shared memory than an A100 has. No interpreter would have noticed.
#
# ## Roofline: how fast could it be?
#
# Put a machine's two limits into one picture {cite:p}`williams2009`: attainable speed is the smaller of peak arithmetic
# and intensity times bandwidth. Below, the roof of the machine that executed this chapter, as measured, with attention
# written out and PyTorch's tiled kernel under it.


# %% tags=["nbval-ignore-output"]
def fastest(calls: dict[object, Callable[[], object]], rounds: int = 4) -> dict[object, float]:
    """Seconds of each call, the least over rounds in which all have their turn."""
    best = dict.fromkeys(calls, math.inf)
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


a, large = torch.randn(768, 768), torch.randn(2**24)
copy = torch.empty_like(large)
calls = {"product": lambda: a @ a, "copy": lambda: copy.copy_(large)}
for length in (256, 1024, 2048):
    qkv = torch.randn(3, 1, 1, length, 64)
    calls |= {(name, length): partial(ways[name], *qkv) for name in ("written out", "PyTorch's kernel")}
best = fastest(calls)
roof = {"gflops": 2 * 768**3 / best.pop("product") / 1e9, "gbs": 8 * 2**24 / best.pop("copy") / 1e9}
print(f"one thread here: {roof['gflops']:.0f} GFLOP/s in a product, {roof['gbs']:.1f} GB/s in a copy")

# %% tags=["nbval-ignore-output"]
points: dict[str, list[tuple[float, float]]] = {"written out": [], "PyTorch's kernel": []}
for (name, length), spent in best.items():
    numbers = sum(bytes_moved(length, 64).values()) / 2 if name == "written out" else 4 * length * 64
    points[name].append((intensity(length, 64, 4 * numbers), 4 * length**2 * 64 / spent / 1e9))  # 32 bits
highest = max(speed for each in points.values() for _, speed in each)
show.expect(highest < 1.1 * roof["gflops"], "no call is faster than the roof that was measured beside it")

# %% [markdown]
# And GPUs? This book has a benchmark, `python -m benchmarks.attention`, that times our kernels beside every backend of
# PyTorch, FlexAttention and compiled code, in turn, in one process, after checking each against the formula. **What it
# has recorded so far is listed by the next cell.** Where that is nothing, nothing about the speed of our kernels is
# known, and nothing is claimed. On Colab with a GPU, this cell runs the quick form on your card and adds it.

# %% tags=["nbval-ignore-output"]
home = next((f for f in (Path.cwd(), *Path.cwd().parents) if (f / "benchmarks" / "attention.py").exists()), None)
if run.device.type == "cuda":
    if home is None:
        home = Path("book").resolve()
        address = metadata("tformerlib")["Project-URL"].split(", ")[1]
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", address, str(home)], check=True)
    plain = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}  # compiled here
    quick = [
        sys.executable,
        "-m",
        "benchmarks.attention",
        "--quick",
        "--output",
        "benchmarks/results/here.json",
    ]
    subprocess.run(quick, cwd=home, env=plain, check=True)

recorded = {}
for file in sorted((home / "benchmarks" / "results").glob("*.json")) if home else []:
    result = json.loads(file.read_text())
    if result.get("provenance", {}).get("arch") and result.get("dispatch"):
        recorded[result["provenance"]["device"]] = result
print("GPUs recorded:", ", ".join(recorded) or "none yet")

# %% [markdown]
# Meanwhile, here is what others report, on an H100 with 16,384 tokens. We have not measured it, and the numbers are
# read off a chart. FlashAttention is the kernel of {cite:t}`dao2022`; its second version {cite:p}`dao2024` spreads the
# work better over warps and makes fewer operations outside of products; the third {cite:p}`shah2024` is written for
# Hopper, and lets exponentials of one tile run while the tensor cores multiply the next. cuDNN is NVIDIA's own library,
# which PyTorch prefers on an H100.

# %%
reported = {  # TFLOP/s forward, fp16, not causal, off the chart in FlashAttention-3's repository: width 64 and 128
    "FlashAttention-2": (324, 370),
    "Triton, the tutorial's kernel": (403, 395),
    "cuDNN, 2024": (413, 595),
    "FlashAttention-3": (497, 648),
}
peak = cards["H100 SXM"][0]
show.table(
    [
        {
            "kernel": name,
            **{f"D = {d}": f"{speed} ({speed / peak:.0%})" for d, speed in zip((64, 128), both, strict=True)},
        }
        for name, both in reported.items()
    ],
    caption="TFLOP/s, and share of the data sheet's peak, as FlashAttention-3's authors report; not measured by us.",
)

# %% [markdown]
# Why does nobody reach the peak, and why do narrow heads stay further below? Each score costs $4 D$ operations in the
# tensor cores and one exponential elsewhere. An H100 does some $3.9 \cdot 10^{12}$ exponentials a second
# {cite:p}`shah2024`. At $D = 64$ both take about the same time, so a kernel that does one after the other can't pass
# half of the peak. FlashAttention-3 does both at once, as far as it can.


# %% tags=["hide-input"]
def frame(title: str, tflops: float, gbs: float, marks: dict[str, list[tuple[float, float]]]) -> go.Figure:
    """A roof and three kinds of points under it, in TFLOP/s over operations per byte."""
    x = sorted([*(2.0**i for i in range(15)), 1000 * tflops / gbs])
    fig = go.Figure(go.Scatter(x=x, y=[min(tflops, i * gbs / 1000) for i in x], mode="lines", name=f"roof: {title}"))
    for kind in ("written out", "the best of others", "ours"):
        at = marks.get(kind, [])
        fig.add_scatter(x=[i for i, _ in at], y=[s for _, s in at], mode="markers", marker_size=9, name=kind)
    fig.update_xaxes(type="log", title="operations per byte").update_yaxes(type="log", title="TFLOP/s")
    return fig


def marks_of(result: dict) -> dict[str, list[tuple[float, float]]]:
    """Points of a recorded GPU: who was best beside us, and we."""
    kinds: dict[str, list[tuple[float, float]]] = {
        "the best of others": [],
        "ours": [],
        "written out": [],
    }
    for case in result["cases"].values():
        x = case.get("flops", 0) / case.get("bytes", 1)
        named = {"the best of others": case.get("best_peer"), "ours": "ours", "written out": "eager"}
        for kind, name in named.items():
            if "tflops" in case["providers"].get(name, {}):
                kinds[kind].append((x, case["providers"][name]["tflops"]))
    return kinds


# %% tags=["hide-input"]
tera = {name: [(x, y / 1000) for x, y in at] for name, at in points.items()}
figures = {
    "this CPU": frame("measured here", roof["gflops"] / 1000, roof["gbs"],
                      {"written out": tera["written out"], "the best of others": tera["PyTorch's kernel"]}),
    "H100, reported": frame("H100, data sheet", *cards["H100 SXM"],
                            {"the best of others": [(16384 / 2, speed[1]) for speed in reported.values()]}),
}  # fmt: skip
for device, result in recorded.items():
    ceiling = result["sessions"][-1]["ceilings"]
    figures[device] = frame(f"{device}, measured", ceiling["tflops"], ceiling["gbs"], marks_of(result))

# %% tags=["nbval-ignore-output", "hide-input"]
show.slider(
    figures,
    slider_label="machine",
    alt="Rooflines, speed over operations per byte, both logarithmic: a slope limited by memory, then a flat limit of "
    "arithmetic. On this CPU, attention written out lies to the left of PyTorch's tiled kernel. On the H100, kernels "
    "reported by others lie below the flat part. Recorded GPUs: " + (", ".join(recorded) or "none") + ".",
    caption="The further right, the less a call waits for memory. Move the slider for other machines; hover for a "
    "value. Points named ours appear for GPUs on which the benchmark ran" + ("." if recorded else ": none so far."),
)

# %% [markdown]
# On a CPU the ridge lies further to the left, for arithmetic is slower in proportion than memory, and caches are large.
# So less is lost by writing the table out than on a GPU. The paper's claim about speed is about GPUs, and only a GPU
# can judge it: in the profile `full`, this cell does.


# %%
def gpu_milliseconds(call: Callable[[], object]) -> float:
    """The median of twenty runs on a GPU, after three that do not count."""
    times = []
    for i in range(23):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times += [start.elapsed_time(end)] * (i >= 3)
    return sorted(times)[10]


measured = {}
if run.profile == "full" and run.device.type == "cuda":
    q, k, v = torch.randn(3, 16, 16, 1024, 64, device="cuda", dtype=torch.bfloat16)
    later = torch.ones(1024, 1024, dtype=torch.bool, device="cuda").triu(1)
    slow = gpu_milliseconds(lambda: (q @ k.mT / 8).masked_fill(later, -math.inf).softmax(-1) @ v)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
        fast = gpu_milliseconds(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True))
    measured = {"speedup": slow / fast}
verdicts.append(claims.report("gpu_attention.faster", **measured))

# %% [markdown]
# ## Look inside: Swin's windows without a copy
#
# {cite:t}`liu2021` let tokens of an image attend inside windows, and shift the windows in every other layer, so that
# neighbors across a border meet. (The chapter on Swin builds the model; here we need only the shift.) Shifted windows
# stick out at the border. One could pad them, but on a map of 2 × 2 windows that makes 3 × 3. The paper *rolls* the map
# instead: what sticks out on one side comes in on the other. Windows at the border then hold tokens that were never
# neighbors, and a mask keeps those apart.


# %%
def pieces(side: int, window: int, shift: int) -> list[Tensor]:
    """Rows that may see each other along one axis of a map, as places in the unshifted map."""
    edges = [0, *range(shift, side, window), side]
    return [torch.arange(a, b) for a, b in pairwise(edges) if b > a]


def one_by_one(qkv: Tensor, bias: Tensor, window: int, shift: int) -> tuple[Tensor, int]:
    """Attention in every window, cut off at the border, and how many; qkv (B, H, W, 3, G, D)."""
    out, count = torch.empty_like(qkv[:, :, :, 0]), 0
    for rows in pieces(qkv.shape[1], window, shift):
        for columns in pieces(qkv.shape[2], window, shift):
            y, x = (axis.flatten() for axis in torch.meshgrid(rows, columns, indexing="ij"))
            place = (y - shift) % window * window + (x - shift) % window  # in the window, for its bias
            q, k, v = qkv[:, y, x].permute(2, 0, 3, 1, 4)
            weights = (q @ k.mT / q.shape[-1] ** 0.5 + bias[:, place][:, :, place]).softmax(-1)
            out[:, y, x] = (weights @ v).transpose(1, 2)
            count += 1
    return out, count


# %%
errors, extra = [], []
for s in seeds:
    torch.manual_seed(s)
    qkv, bias = (
        torch.randn(1, 8, 8, 3, 2, 8, dtype=torch.float64),
        torch.randn(2, 16, 16, dtype=torch.float64),
    )
    expected, count = one_by_one(qkv, bias, window=4, shift=2)
    rolled = window_attention(qkv, bias, window=4, shift=2)
    errors.append((rolled - expected).abs().max().item())
    extra.append(count / (8 // 4) ** 2)
verdicts.append(claims.report("gpu_attention.shift-without-windows", error=max(errors), extra=min(extra)))

# %% tags=["hide-input"]
labels = [f"{i // 4},{i % 4}" for i in range(16)]
seen = region_mask(4, 2, 8, 8, torch.device("cpu")).float()
corner = ["inside the map", "at the right border", "at the lower border", "in the corner"]
show.explore(
    dict(zip(corner, seen, strict=True)),
    labels,
    labels,
    slider_label="window",
    alt="Masks of the four windows of an 8 by 8 map, 16 by 16 tokens each. Inside: all may see all. At a border: two "
    "groups. In the corner: four groups of four tokens.",
    caption="Who may see whom in the four rolled windows of 4 × 4 tokens (row, column): 1 may, 0 may not. In the "
    "last one four corners of the image meet and must not mix.",
)

# %% [markdown]
# Rolling, cutting into windows and putting everything back each read and write the whole map. In a kernel they are
# addresses: token $(y, x)$ of a shifted window lies at $(y + s, x + s)$ of the map, wrapped around. Nothing is copied,
# the mask is computed from coordinates, and a window of 49 tokens fits one tile, so not even the one-pass softmax is
# needed. Programs keep the gradient of the bias in registers while they walk over windows.

# %%
qkv = torch.randn(1, 14, 14, 3, 1, 16, requires_grad=True)
bias = torch.randn(1, 49, 49, requires_grad=True)


def through(backend: str) -> list[Tensor]:
    """Output, and the gradients of qkv and of the bias."""
    out = window_attention(qkv, bias, window=7, shift=3, backend=backend)
    return [out, *torch.autograd.grad(out.square().sum(), (qkv, bias))]


if not no_triton:
    names = ("output", "gradient of qkv", "gradient of the bias")
    for name, a, b in zip(names, through("triton"), through("torch"), strict=True):
        show.parity(f"one kernel against roll, cut, attend, put back: {name}", (a - b).abs().max().item(), 5e-5)

# %%
passes = {  # reads and writes of a tensor of the map's size, forward
    "one kernel": {"read q, k, v": 3, "write output": 1},
    "copies around a fused attention": {"roll": 6, "cut": 6, "attend": 4, "put back": 2, "roll back": 2},
}
show.table(
    [
        {
            "way": way,
            "passes over the map": sum(each.values()),
            "of which": ", ".join(f"{k} {n}" for k, n in each.items()),
        }
        for way, each in passes.items()
    ],
    caption="Counted, not timed. A compiler fuses some of these copies; how many is for a benchmark to say.",
)

# %% [markdown]
# ## What breaks
#
# The rescaling is easy to forget, and tests with friendly data do not notice: if the largest score comes first, nothing
# ever needs to be rescaled.


# %%
def forgetful(q: Tensor, k: Tensor, v: Tensor, block: int = 16) -> Tensor:
    """`online` without the rescaling of what was summed before."""
    top, total, out = q.new_full(q.shape[:-1], -math.inf), 0.0, 0.0
    for keys, values in zip(k.split(block, -2), v.split(block, -2), strict=True):
        scores = q @ keys.mT / q.shape[-1] ** 0.5
        top = torch.maximum(top, scores.amax(-1))
        weights = (scores - top[..., None]).exp()
        total, out = total + weights.sum(-1), out + weights @ values
    return out / total[..., None]


q, k, v = (
    torch.randn(50, 1, 1, 8),
    torch.randn(50, 1, 64, 8),
    torch.randn(50, 1, 64, 8),
)  # fifty queries, keys of their own
order = (q @ k.mT)[:, :, 0, :, None].argsort(2, descending=True).expand(k.shape)
errors = {
    "keys as they come": (forgetful(q, k, v) - written_out(q, k, v)).abs().max().item(),
    "best key first": (forgetful(q, k.gather(2, order), v.gather(2, order)) - written_out(q, k, v)).abs().max().item(),
}
assert errors["best key first"] < 1e-5 and errors["keys as they come"] > 1e-2
show.table([{"order": order, "largest error": error} for order, error in errors.items()])

# %% [markdown]
# Two more mistakes that people make, each of which passes some test:
#
# - **Causal from the wrong corner.** With fewer queries than keys, as in decoding with a cache, the last query stands
#   beside the last key. A mask that starts at the upper left hides almost everything from it. With equal lengths both
#   are the same. Libraries differ: PyTorch's `is_causal` is aligned at the upper left, FlashAttention and this book at
#   the lower right.
# - **A log-sum-exp in base two.** The kernel computes powers of two; whoever returns its $\mu + \log_2 \ell$ as it is
#   returns another number. The output is right. Only what uses $\lambda$ is wrong: the backward, and merging parts.
#
# Both are exercises below.
#
# ## Ours and the paper's
#
# Kernels of others are the measure, and each has its place:
#
# - **FlashAttention** {cite:p}`dao2022,dao2024,shah2024` is where tiles and recomputation come from. It takes causal
#   masks, windows, grouped heads and soft caps, and no trained bias.
# - **FlexAttention** {cite:p}`dong2024` compiles a few lines of Python that change a score or hide it into such a
#   kernel. It is the most general; the gradient of a bias is summed by atomic additions.
# - **xFormers** {cite:p}`lefaudeux2022` collected memory-efficient kernels before PyTorch had any; its kernel with
#   masks and biases lives on as PyTorch's *efficient* backend.
# - **cuDNN** is NVIDIA's library, and closed. On an H100 PyTorch prefers it where it can.
#
# What this book's kernels add is narrow: a deterministic gradient of the bias, padding that skips tiles, and Swin's
# windows in place. The papers' claims at stake here, as the ledger judges them:

# %% tags=["hide-input"]
claims.summary(verdicts)

# %% [markdown]
# Equalities are judged in float64 and say nothing of speed. The paper's speed needs a large GPU.
#
# ## Questions
#
# Choose before you read on: each answer says why it is right or wrong. Which one is right was computed by this run.

# %% tags=["hide-input"]
first, second = torch.tensor([1.0, 3.0]), torch.tensor([5.0, 2.0])
running = (first - 3).exp().sum() * torch.tensor(3.0 - 5.0).exp() + (second - 5).exp().sum()
right = torch.allclose(running, (torch.cat([first, second]) - 5).exp().sum())
show.quiz(
    "A row's largest score so far was 3, and a tile with a 5 arrives. What happens to the sum kept so far?",
    [
        ("It is multiplied by $e^{3 - 5}$.", "It was measured against 3 and has to be measured against 5.", right),
        ("Nothing; the new terms are added.", "Then old and new terms would be on different scales.", not right),
        ("It starts over.", "The old keys count too.", False),
    ],
    name="gpu-rescale",
)
gigabytes = 16 * 16_384**2 * 2 / 1e9
show.quiz(
    "Sixteen heads, 16,384 tokens, scores in 16 bits. How much memory would the written-out scores of a layer take?",
    [
        ("About 9 MB", "That is how the tiled way grows, with the tokens.", gigabytes < 0.1),
        ("About 0.5 GB", "That is one head.", 0.1 < gigabytes < 1),
        ("About 9 GB", "Tokens squared, times two bytes, times sixteen.", 5 < gigabytes < 15),
    ],
    name="gpu-memory",
)

# %% tags=["hide-input"]
scores = torch.randn(3, 7)
again = (scores - scores.logsumexp(1, keepdim=True)).exp()
kept = torch.allclose(again, scores.softmax(1), atol=1e-6)
show.quiz(
    "The backward pass needs the weights again, and nobody kept them. What was kept for each row instead?",
    [
        ("Its log-sum-exp: one number.", "$e^{s - \\lambda}$ is the weight, from scores that are computed anew.", kept),
        ("Its scores.", "They are as large as the weights.", not kept),
        ("Nothing: the softmax is run again from the start.", "One number saves a pass over the row.", False),
    ],
    name="gpu-backward",
)
tokens, width, tile = 4096, 64, 128
at_once, in_tiles = 4 * tokens**2 * width, (tokens // tile) ** 2 * (4 * tile * tile * width)
show.quiz(
    "The tiled forward pass is faster on a GPU. Does it multiply less?",
    [
        (
            "No: as much.",
            "Every score is computed, and every value is added. What it saves is traffic.",
            in_tiles == at_once,
        ),
        ("Yes: about half.", "A causal mask saves half of it, in both ways alike.", 2 * in_tiles == at_once),
        ("Yes: it grows with the tokens, not with their square.", "That is its memory.", in_tiles * tile == at_once),
    ],
    name="gpu-work",
)

# %% [markdown]
# ## Exercises
#
# ```{exercise} Where a T4 stops waiting
# :label: gpu-ridge
# With only the necessary traffic, attention makes $N / 2$ operations a byte in 16-bit numbers. From how many tokens on
# do a T4, an A100 and an H100 wait for arithmetic? Does the width of the head matter?
# ```
#
# ```{solution-start} gpu-ridge
# :class: dropdown
# ```

# %%
for card, (tflops, gbs) in cards.items():
    tokens = 2 * 1000 * tflops / gbs
    assert math.isclose(intensity(round(tokens), 64, 8 * round(tokens) * 64), 1000 * tflops / gbs, rel_tol=0.01)
    print(f"{card}: from about {tokens:.0f} tokens on")
assert intensity(512, 64, 8 * 512 * 64) == intensity(512, 128, 8 * 512 * 128)  # the width cancels

# %% [markdown]
# A ViT with 197 tokens waits for memory on all three, and this counts only the necessary traffic.
# ```{solution-end}
# ```
#
# ```{exercise} Two halves
# :label: gpu-merge
# Split the keys into two halves and attend to each by itself; you get two outputs and two log-sum-exps. Merge them into
# the answer for all keys. (Decoding does this when one program is too few for a long cache.)
# ```
#
# ```{solution-start} gpu-merge
# :class: dropdown
# ```


# %%
def merge(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
    """Outputs weighted by their shares of the sum; log-sum-exps are natural."""
    share = torch.sigmoid(first[1] - second[1])[..., None]  # e^a / (e^a + e^b)
    return share * first[0] + (1 - share) * second[0]


q, k, v = (torch.randn(1, 2, n, 8) for n in (5, 30, 30))
halves = [online(q, k[:, :, part], v[:, :, part]) for part in (slice(0, 12), slice(12, 30))]
show.parity("two halves against all", (merge(*halves) - written_out(q, k, v)).abs().max().item(), 1e-5)

# %% [markdown]
# ```{solution-end}
# ```
#
# ```{exercise} Break it: base two
# :label: gpu-base
# Return the log-sum-exp in base two, as the kernel has it inside. Which of these tests catches it: the output against
# the formula; gradients by `online_backward`; the merge of two halves?
# ```
#
# ```{solution-start} gpu-base
# :class: dropdown
# ```


# %%
def base_two(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    out, lse = online(q, k, v)
    return out, lse / math.log(2)


leaves = [x.clone().requires_grad_() for x in (q, k, v)]
exact = torch.autograd.grad(written_out(*leaves).sum(), leaves)
wrong = online_backward(q, k, v, *base_two(q, k, v), torch.ones_like(q))
halves = [base_two(q, k[:, :, part], v[:, :, part]) for part in (slice(0, 12), slice(12, 30))]
caught = {
    "output": not torch.allclose(base_two(q, k, v)[0], written_out(q, k, v), atol=1e-5),
    "gradients": not all(torch.allclose(a, b, atol=1e-3) for a, b in zip(wrong, exact, strict=True)),
    "merge": not torch.allclose(merge(*halves), written_out(q, k, v), atol=1e-4),
}
assert not caught["output"] and caught["gradients"] and caught["merge"]

# %% [markdown]
# The output can't tell. Every test of a kernel has to look at its log-sum-exp as well.
# ```{solution-end}
# ```
#
# ```{exercise} Break it: the wrong corner
# :label: gpu-corner
# Decode the last 3 of 10 tokens with cached keys. Compare `attention(..., causal=True)` with PyTorch's function and
# `is_causal=True`. How many keys does each query see? Write the shortest test that tells the two apart.
# ```
#
# ```{solution-start} gpu-corner
# :class: dropdown
# ```

# %%
q, k, v = (
    torch.randn(1, 1, 10, 8),
    torch.randn(1, 1, 10, 8),
    torch.eye(10)[None, None],
)  # the output is the weights
whole = attention(q, k, v, causal=True)
ours = attention(q[:, :, -3:], k, v, causal=True)
torchs = F.scaled_dot_product_attention(q[:, :, -3:], k, v, is_causal=True)
print(
    "keys seen, ours:",
    (ours > 0).sum(-1).flatten().tolist(),
    " torch:",
    (torchs > 0).sum(-1).flatten().tolist(),
)
assert torch.allclose(ours, whole[:, :, -3:], atol=1e-6)  # the test: the last rows of the whole
assert not torch.allclose(torchs, whole[:, :, -3:], atol=1e-2)

# %% [markdown]
# ```{solution-end}
# ```
#
# ```{exercise} A window's tiles
# :label: gpu-window
# How many tiles does a causal window of `w` keys visit in each row of tiles, at most, if tiles have `t` rows and keys?
# Derive a formula and check it against `tiles` for several widths.
# ```
#
# ```{solution-start} gpu-window
# :class: dropdown
# ```

# %%
for w in (1, 2, 64, 65, 66, 200, 400):
    visited = (tiles((ahead <= 0) & (ahead > -w), 64) > 0).sum(-1).max().item()
    assert visited == 1 + math.ceil((w - 1) / 64)  # its own tile, and w - 1 keys to the left of its first row
print("at most 1 + ceil((w - 1) / t) tiles, whatever the length of the sequence")

# %% [markdown]
# ```{solution-end}
# ```
#
# ```{exercise} What exponentials cost
# :label: gpu-exp
# With the figures of the text, 989 TFLOP/s of products and $3.9 \cdot 10^{12}$ exponentials a second, how long do both
# take for one score at $D = 64$, $128$ and $256$? What share of the peak can a kernel reach that does one after the
# other?
# ```
#
# ```{solution-start} gpu-exp
# :class: dropdown
# ```

# %%
for width in (64, 128, 256):
    product, exponential = 4 * width / 989e12, 1 / 3.9e12
    share = product / (product + exponential)
    print(f"D = {width}: exponential / product = {exponential / product:.2f}, so at most {share:.0%} of the peak")

# %% [markdown]
# Compare with the reported figures above. The others stay below these shares; FlashAttention-3 comes level with them at
# $D = 64$ and nearly so at $128$. They bound only kernels that do one after the other. One that overlaps the two could
# pass them, so exponentials are not all that costs it time.
# ```{solution-end}
# ```
#
# ## Further reading
#
# {cite:t}`dao2022` for the algorithm and its count of memory accesses; {cite:t}`dao2024` and {cite:t}`shah2024` for
# what it takes to fill a GPU; {cite:t}`rabe2021` for the same idea on TPUs; {cite:t}`dong2024` for masks as programs;
# the library's `tformerlib/attention/kernels/kernels.py`, which is this chapter's kernel with everything that models
# ask for.
