# ---
# jupyter:
#   jupytext: {text_representation: {extension: .py, format_name: percent}}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---
# A chapter to copy: small, complete, linted and executed in the tests, and not in the table of contents.
# Comments up here are for authors; readers see only the cells below.

# %% [markdown]
# (chapter-template)=
# # Scores grow with width
#
# One sentence says what the chapter is about and names its paper: here, why {cite:t}`vaswani2017` divide the scores of
# dot-product attention by $\sqrt{d}$.
#
# After this chapter you can
# - say how the spread of a dot product depends on the width of its vectors, and why;
# - compute softmax attention over four keys by hand, and check the library's version against it;
# - see from a picture that a head is saturated.
#
# **Time**: 2 s on a CPU. **Before**: matrix products and the softmax.

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
import torch

import tformerlib as tf
from tformerlib import claims, show
from tformerlib.attention import attention, attention_weights

# %% tags=["parameters"]
profile = "quick"  # quick: one thread of a CPU.  colab: one T4.  full: one large GPU.
seed = 0

# %%
run = tf.parameters(profile=profile, seed=seed)
samples = run.pick(quick=4096, colab=65_536, full=262_144)

# %% [markdown]
# ## The question
#
# A head of attention compares a query with keys by a dot product. Make the vectors wider, change nothing else, and look
# at the weights that the softmax gives to four random keys.

# %%
for width in (4, 64, 1024):
    query, keys = torch.randn(1, 1, 1, width), torch.randn(1, 1, 4, width)
    weights = (query @ keys.mT).softmax(-1).flatten()
    print(f"d = {width:4d}:", " ".join(f"{weight:.3f}" for weight in weights))

# %% [markdown]
# The wider the head, the closer the weights come to a choice of one key, though nothing was learned in between.
# Where does the certainty come from?
#
# ## By hand
#
# Take $q = (1, 1)$ and four keys $(1, 1)$, $(1, 0)$, $(0, 1)$, $(0, 0)$. The scores $q \cdot k$ are $2, 1, 1, 0$. The
# softmax divides $e^2, e, e, 1$ by their sum, which is $(e + 1)^2$.

# %%
query = torch.tensor([[1.0, 1.0]])
keys = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
e = torch.e
by_hand = torch.tensor([e**2, e, e, 1.0]) / (e + 1) ** 2
assert torch.allclose((query @ keys.mT).softmax(-1), by_hand)
print("weights:", [round(weight, 3) for weight in by_hand.tolist()])

# %% [markdown]
# Now write every entry twice. The vectors are wider and say nothing new, but each score doubles, and the best key's
# weight grows.

# %%
wide = (query.repeat(1, 2) @ keys.repeat(1, 2).mT).softmax(-1).flatten()
assert wide[0] > by_hand[0]
show.glue("template-best-narrow", f"{by_hand[0]:.2f}")
show.glue("template-best-wide", f"{wide[0]:.2f}")

# %% [markdown]
# From {glue:text}`template-best-narrow` to {glue:text}`template-best-wide`: the head became surer by being wider.
#
# ## Build it
#
# For independent entries of mean 0 and variance 1 each product $q_i k_i$ has variance 1, and variances of independent
# terms add:
#
# $$ \operatorname{Var}(q \cdot k) = \sum_{i=1}^{d} \operatorname{Var}(q_i k_i) = d . $$
#
# So scores spread like $\sqrt{d}$, and $q \cdot k / \sqrt{d}$ has the same spread at every width.


# %%
def spread(width: int, seed: int) -> float:
    """Standard deviation of q . k over random pairs whose entries have unit variance."""
    generator = torch.Generator().manual_seed(seed)
    q, k = torch.randn(2, samples, width, generator=generator)
    return (q * k).sum(-1).std().item()


widths = [4, 16, 64, 256]
spreads = [spread(width, seed) for width in widths]
show.lines(
    widths,
    {"raw": spreads, "divided by √d": [s / d**0.5 for s, d in zip(spreads, widths, strict=True)]},
    x_label="head width d",
    y_label="spread of the scores",
    log_x=True,
    alt="Two curves over head width: raw scores spread more and more, scores divided by the root of the width do not.",
    caption="Raw scores spread with the root of the width. The division takes exactly that away.",
)

# %% [markdown]
# ## The library's version
#
# `attention` divides by $\sqrt{d}$ unless told otherwise. It must agree with the formula.

# %%
q, k, v = torch.randn(3, 2, 4, 6, 16)  # (B, H, N, D): two examples, four heads, six tokens, width 16
formula = (q @ k.mT / 16**0.5).softmax(-1) @ v
show.parity("attention against its formula", (attention(q, k, v) - formula).abs().max().item(), tolerance=1e-5)

# %% [markdown]
# ## The experiment
#
# The paper says that the variance of a score equals the width, so that the spread grows with the power one half of it.
# We fit the power and leave it to the ledger, which judges over recorded seeds.


# %%
def growth_power(seed: int) -> float:
    """Slope of log(spread) over log(width) by least squares."""
    x = torch.tensor(widths).log()
    y = torch.tensor([spread(width, seed) for width in widths]).log()
    return (((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()).item()


claims.report("template.scores-spread", power=growth_power(seed))

# %% [markdown]
# ## Look inside
#
# Drag the slider: the same random vectors, more and more of their entries. Rows are queries, columns are keys.

# %%
tokens = [f"token {i}" for i in range(6)]
q, k = torch.randn(2, 1, 1, 6, 256)
maps = {f"d = {width}": attention_weights(q[..., :width], k[..., :width], scale=1.0)[0, 0] for width in widths}
show.explore(
    maps,
    tokens,
    tokens,
    slider_label="width",
    alt="Attention weights of six random tokens; the wider the vectors, the closer each row comes to a single key.",
    caption="Unscaled weights. At width 4 a row is a mixture; at width 256 it is a choice.",
)

# %% [markdown]
# ## What breaks
#
# A common mistake divides by the width of the *model* instead of the width of the *head*. With eight heads the scores
# are then too small by $\sqrt{8}$, and the weights too even. The entropy of the rows shows it.


# %%
def entropy(weights: torch.Tensor) -> float:
    """Mean entropy of the rows in nats; log(keys) where all keys are equal."""
    return torch.special.entr(weights).sum(-1).mean().item()


q, k = torch.randn(2, 64, 8, 6, 16)
right, wrong = attention_weights(q, k), attention_weights(q, k, scale=(8 * 16) ** -0.5)
assert entropy(wrong) > entropy(right)
print(f"entropy {entropy(right):.2f} with the head's width, {entropy(wrong):.2f} with the model's")

# %% [markdown]
# ## Ours and the paper's
#
# The paper states the variance in a footnote and measures nothing; we measure random vectors, not trained ones. The
# verdict above is about them only.
#
# ## Exercises
#
# ```{exercise} Two entries
# :label: template-two-entries
# For $d = 2$ and entries that are $+1$ or $-1$ with equal probability, list the values of $q \cdot k$ and their
# probabilities. What is the variance?
# ```
#
# ```{solution-start} template-two-entries
# :class: dropdown
# ```

# %%
signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 4)
scores = (signs[:, :2] * signs[:, 2:]).sum(-1)
print(scores.unique(return_counts=True), "variance", scores.var(correction=0).item())

# %% [markdown]
# ```{solution-end}
# ```
#
# ```{exercise} A shift
# :label: template-shift
# Add the same number to every score of a row. What happens to the weights?
# ```
#
# ```{solution-start} template-shift
# :class: dropdown
# ```

# %%
row = torch.randn(6)
assert torch.allclose(row.softmax(-1), (row + 3).softmax(-1))  # e^3 cancels

# %% [markdown]
# ```{solution-end}
# ```
#
# ```{exercise} Uniform entries
# :label: template-uniform
# Draw the entries uniformly from $[-1, 1]$ instead. By what must the scores be divided to have unit spread?
# ```
#
# ```{solution-start} template-uniform
# :class: dropdown
# ```

# %%
q, k = torch.rand(2, samples, 64) * 2 - 1
ratio = (q * k).sum(-1).std() / (64**0.5 / 3)  # a uniform entry has variance 1/3, a product of two 1/9
assert abs(ratio - 1) < 0.1

# %% [markdown]
# ```{solution-end}
# ```
#
# ```{exercise} Shared direction
# :label: template-shared
# Add one fixed vector to all keys. Which rows of the attention weights change?
# ```
#
# ```{solution-start} template-shared
# :class: dropdown
# ```

# %%
q, k, shared = torch.randn(1, 1, 6, 16), torch.randn(1, 1, 6, 16), torch.randn(16)
assert torch.allclose(attention_weights(q, k), attention_weights(q, k + shared), atol=1e-5)  # none: a shift of each row

# %% [markdown]
# ```{solution-end}
# ```
#
# ```{exercise} Break it
# :label: template-break
# Someone takes the softmax over the queries instead of the keys. Write the shortest test that catches it.
# ```
#
# ```{solution-start} template-break
# :class: dropdown
# ```


# %%
def broken(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    return (q @ k.mT).softmax(-2)


assert not torch.allclose(broken(q, k).sum(-1), torch.ones(6))  # rows of real attention weights sum to one

# %% [markdown]
# ```{solution-end}
# ```
#
# ## Further reading
#
# Section 3.2.1 of {cite:t}`vaswani2017`, with its footnote on the variance.
