# ---
# jupyter:
#   jupytext: {text_representation: {extension: .py, format_name: percent}}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# (attention)=
# # Attention: looking back instead of remembering
#
# A neural translator of 2014 read a sentence, closed the book, and wrote the translation from memory: one vector, as
# wide for three words as for fifty {cite:p}`cho2014,sutskever2014`. {cite:t}`bahdanau2015` left the book open. Before
# each word that it writes, their model looks back at the whole source and decides where to read. This chapter builds
# that look four times, each time with less machinery: the additive score of Bahdanau et al., the products of
# {cite:t}`luong2015`, and the scaled, many-headed form of {cite:t}`vaswani2017`, of which every later chapter is made.
#
# After this chapter you can
# - compute attention by hand, write it in ten lines, and hold your lines against torch's;
# - say why scores are divided by $\sqrt{d}$, where a mask has to stand, and what a change of order changes;
# - tell from numbers whether attention helped: on which sentences, by how much, over several seeds.
#
# **Time**: about a minute and a half on a CPU; the line above says what this copy took. The larger profiles are sized
# for a quarter of an hour on a T4 and an hour on a large GPU. **Before**: matrix products, the softmax, and what a
# recurrent network is.

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
import math
import re
from collections import Counter
from functools import partial
from itertools import permutations

import torch
import torch.nn.functional as F
from sacrebleu import corpus_bleu
from torch import Tensor, nn

import tformerlib as tf
from tformerlib import claims, data, show, training
from tformerlib.attention import attention, attention_reference, attention_weights, record_attention
from tformerlib.decoding.search import greedy
from tformerlib.layers.blocks import Attention
from tformerlib.layers.positions import sinusoids
from tformerlib.models.rnn import Additive, General, Luong, RNNEncoderDecoder

# %% tags=["parameters"]
profile = "quick"  # quick: one thread of a CPU.  colab: one T4.  full: one large GPU.
seed = 0

# %%
run = tf.parameters(profile=profile, seed=seed)

# %% [markdown]
# ## The question: how much fits into one vector?
#
# An encoder that keeps one vector has to write every word of the sentence into it, and the decoder has to get every
# word out again. Leave out learning for a moment and use a random code: give each position a random rotation of its
# own, turn each word's vector by it, and add everything up. To read position $j$, turn the sum back by the rotation of
# $j$ and take the nearest word. The other words do not vanish; they become noise.


# %%
def recalled(length: int, width: int, *, words: int = 32, sentences: int = 200) -> float:
    """Share of words that are read correctly out of one vector that holds a sentence of random words."""
    vectors = F.normalize(torch.randn(words, width), dim=-1)
    turn = torch.linalg.qr(torch.randn(length, width, width)).Q  # one rotation for each position
    sentence = torch.randint(words, (sentences, length))
    whole = torch.einsum("nij,bnj->bi", turn, vectors[sentence])  # the fixed vector
    read = torch.einsum("nij,bi->bnj", turn, whole) @ vectors.T
    return (read.argmax(-1) == sentence).float().mean().item()


lengths = [1, 2, 4, 8, 16, 32]
kept = {f"one vector, {width} wide": [recalled(n, width) for n in lengths] for width in (32, 64, 128)}
assert all(shares[0] == 1.0 for shares in kept.values())  # a word alone is found: turns undo
assert all(shares[-1] < 0.75 for shares in kept.values())  # every width fails at some length

# %% tags=["hide-input"]
show.glue("attention-recalled", f"{kept['one vector, 64 wide'][-1]:.0%}")
show.lines(
    lengths,
    kept,
    x_label="words in the sentence",
    y_label="share of words read correctly",
    log_x=True,
    alt="Share of words read correctly over sentence length, for vectors of width 32, 64 and 128. All start at one and "
    "fall; each doubling of the width moves the fall to sentences about twice as long.",
    caption="A sum of rotated words, no learning. A wider vector fails later; every width fails.",
)

# %% [markdown]
# With 32 words in a vector of width 64, {glue:text}`attention-recalled` are read correctly. Training can find better
# codes than random rotations, so these are not the numbers of a trained model. The reason to worry stays: a width is
# fixed when the model is built, and sentences have no longest length. {cite:t}`cho2014properties` saw it in
# translations, whose quality fell with the length of the source.
#
# The way out is to keep one vector for each word, so that the memory grows with the sentence. Then the decoder faces a
# new question at each step: *which of them do I need now?* The answer has to be learned by gradient descent, so it
# can't be a hard choice. It is a soft one.
#
# ## By hand: six words
#
# We translate *forty two thousand three hundred seven* into German, which says *zwei und vierzig tausend drei hundert
# sieben*: units before tens, so the first word to write comes from the second word to read. Suppose an encoder left two
# numbers at each word, its **key** $k_j$: is this a small number (1) or a power of ten (0), and does German want it now
# (2) or later (0)? The decoder asks with a **query** $q$ of the same width. The **score** $e_j = q \cdot k_j$ is high
# where key and query agree. The softmax turns scores into weights,
#
# $$ \alpha_j = \frac{e^{e_j}}{\sum_m e^{e_m}}, \qquad c = \sum_j \alpha_j v_j , $$
#
# and the answer $c$, the **context**, is the mean of the **values** $v_j$ under these weights. Our values say what kind
# of word it is: a digit, a multiple of ten, or a power of ten. With $q = (\ln 2, \ln 2)$ each weight is a power of two
# over their sum, and nothing needs a calculator.

# %%
words = ["forty", "two", "thousand", "three", "hundred", "seven"]
keys = torch.tensor([[1.0, 0], [1, 2], [0, 0], [1, 0], [0, 0], [1, 0]])
digit, ten, power = torch.eye(3)
values = torch.stack([ten, digit, power, digit, power, digit])
query = math.log(2) * torch.tensor([1.0, 1.0])

scores = keys @ query
weights = scores.softmax(-1)
context = weights @ values
assert torch.allclose(16 * weights, torch.tensor([2.0, 8, 1, 2, 1, 2]))
assert torch.allclose(16 * context, torch.tensor([12.0, 2, 2]))

# %% tags=["hide-input"]
rows = zip(words, keys.int().tolist(), scores, weights, strict=True)
show.table(
    [
        {
            "word": w,
            "key": str(k),
            "score / ln 2": f"{e / math.log(2):.0f}",
            "weight": f"{16 * a:.0f}/16",
        }
        for w, k, e, a in rows
    ],
    caption="The query finds “two”: it gets half of the weight, because 8 of the 16 parts are its own.",
)

# %% [markdown]
# The context is $(12, 2, 2)/16$: with three quarters of its weight it says that a digit comes next, and it carries all
# three digits with it, most of them from *two*. Two things are worth a pencil.
#
# **A longer query is a harder choice.** Double $q$ and every power of two becomes a power of four: the weight of *two*
# rises from $8/16$ to $64/78$. In the limit the softmax is an argmax. Nothing about the direction of $q$ has changed.
#
# **A soft choice has a gradient.** Raise one score $e_j$: its own weight grows at the rate $\alpha_j (1 - \alpha_j)$,
# and every other weight $\alpha_m$ shrinks at the rate $\alpha_m \alpha_j$. Add up what that does to the mean:
#
# $$ \frac{\partial c}{\partial e_j} = \alpha_j v_j - \alpha_j \sum_m \alpha_m v_m = \alpha_j\,(v_j - c) . $$
#
# The context is pulled towards $v_j$, and harder if word $j$ weighs much already or differs much from the mean. An
# argmax has derivative zero almost everywhere; through it, gradient descent could never learn where to look.

# %%
assert torch.isclose((2 * scores).softmax(-1)[1], torch.tensor(64 / 78))

pulls = torch.autograd.functional.jacobian(lambda e: e.softmax(-1) @ values, scores).T  # (6, 3)
assert torch.allclose(pulls, weights[:, None] * (values - context))
print("pull of “two” on the context, in 32nds:", (32 * pulls[1]).tolist())

# %% [markdown]
# Check one number yourself: *two* has weight $1/2$ and value $(1, 0, 0)$, so its pull is
# $\frac12 (\frac{4}{16}, -\frac{2}{16}, -\frac{2}{16})$, which is $(4, -2, -2)$ in 32nds.
#
# Numbers that you can move say more. Below, six other words lie in a plane, each of them key and value at once, and
# the scores are divided by $\sqrt 2$, for a reason that comes later in this chapter. Turn the query toward *home* and
# then toward the two animals: what happens to the mixed value between *dog* and *cat*? Then make all scores larger.

# %% tags=["landing", "hide-input"]
plane = {
    "the": (-0.4, 0.3), "dog": (1.6, 1.1), "chased": (-1.2, 1.3), "a": (-0.3, -0.5), "cat": (1.7, 0.4),
    "home": (0.2, -1.6),
}  # fmt: skip
pointing = (torch.tensor(list(plane.values())) @ torch.tensor([1.2, 0.8]) / 2**0.5).softmax(0)
listed = "\n".join(f"{word:7} {share:.2f}" for word, share in zip(plane, pointing.tolist(), strict=True))
show.live_widget(
    "attention",
    fallback=f"<p>Weights of six words for the query (1.2, 0.8):</p><pre>{listed}</pre>",
    alt="Six words as arrows in a plane and a query arrow that can be moved; bars show the six weights.",
    caption="A query that you can drag. The arrows' width is the weight; the green arrow is the mixed value.",
)

# %% [markdown]
# ## Build it
#
# The whole machine first. What is new is the part in the middle: a comparison, weights, a weighted sum.
#
# ```{diagram} encoder_decoder
# One step of writing. The decoder's state is compared with every state of the source; the weights say how much of each
# goes into the next word.
# ```
#
# ### The words
#
# Number words are a small language with everything we need: sentences of one word to fourteen, a grammar, an order that
# differs between languages, and a right answer that a program can check. English and German come from num2words.
# German writes a number as one long word; we cut it into its parts, as a linguist would.

# %%
simple = {en: de for en, de in data.number_words("en", "de", limit=100) if " " not in en}
simple |= {"hundred": "hundert", "thousand": "tausend", "million": "million"}
german_parts = {*simple.values(), "ein", "eine", "millionen", "und"}
PART = re.compile("|".join(sorted(german_parts, key=len, reverse=True)))  # dreizehn before drei


def cut(german: str) -> str:
    """zweiundvierzig to "zwei und vierzig"."""
    parts = PART.findall(german.lower())
    assert "".join(parts) == german.lower().replace(" ", ""), german
    return " ".join(parts)


english_words = data.Vocabulary(sorted(simple), "word")
german_words = data.Vocabulary(sorted(german_parts), "word")

# %%
pairs = data.number_words("en", "de", limit=10**9, count=6, seed=seed)
show.table([{"English": english, "German, cut": cut(german)} for english, german in pairs])
show.glue("attention-simple", str(len(simple)))

# %% [markdown]
# The assert inside `cut` is the check: parts that do not make up the word again would stop the chapter.
# {glue:text}`attention-simple` English words are enough for every number below a thousand million.
#
# ### Bahdanau's score: ask a small network
#
# Write $h_j$ for what the encoder keeps of word $j$ and $s_{i-1}$ for the decoder's state before it writes word $i$.
# Both are states of a GRU {cite:p}`cho2014`, a recurrent cell that decides at each step, channel by channel, how much
# of its old state to keep. Whether the two fit need not be a dot product. {cite:t}`bahdanau2015` let a network with one
# hidden layer decide:
#
# $$ e_{ij} = v_a^\top \tanh(W_a s_{i-1} + U_a h_j) . $$
#
# The rest is as by hand: $\alpha_{ij} = \operatorname{softmax}_j(e_{ij})$, and the context is
# $c_i = \sum_j \alpha_{ij} h_j$.
#
# The states serve as keys and as values. All pairs of $i$ and $j$ are scored at once by broadcasting a sum, hence
# **additive**; and $U_a h_j$ is the same at every step, so it is computed once for a sentence.


# %%
def additive_scores(q: Tensor, k: Tensor, W: Tensor, U: Tensor, v: Tensor) -> Tensor:
    """Queries (B, N, S) and keys (B, M, C) to scores (B, N, M); W (A, S), U (A, C), v (A,)."""
    hidden = torch.tanh((q @ W.T)[:, :, None] + (k @ U.T)[:, None])  # (B, N, M, A)
    return hidden @ v


def equal(name: str, a: Tensor, b: Tensor, tolerance: float = 1e-5) -> None:
    """Prints the largest error between two results; stops the chapter if it is too large."""
    show.parity(name, (a - b).abs().max().item(), tolerance=tolerance)


q, k = torch.randn(1, 3, 8), torch.randn(1, 6, 10)
W, U, v = torch.randn(5, 8), torch.randn(5, 10), torch.randn(5)
by_loop = [[v @ torch.tanh(W @ s + U @ h) for h in k[0]] for s in q[0]]
equal("additive scores against a loop", additive_scores(q, k, W, U, v)[0], torch.tensor(by_loop))
assert (additive_scores(1000 * q, 1000 * k, W, U, v).abs() <= v.abs().sum() + 1e-4).all()

# %% [markdown]
# The last line is a property to remember: however large the states grow, the tanh keeps every score below
# $\sum_a |v_a|$. Additive attention can't be driven into a hard choice by its inputs alone. Products can.
#
# ### Luong's scores: multiply
#
# {cite:t}`luong2015` compare three scores. *Concat* is Bahdanau's network. The other two are products:
#
# $$ \text{dot:}\quad e_{ij} = s_i^\top h_j, \qquad\qquad \text{general:}\quad e_{ij} = s_i^\top W_a h_j . $$


# %%
def dot_scores(q: Tensor, k: Tensor) -> Tensor:
    """Queries (B, N, D) and keys (B, M, D) to scores (B, N, M)."""
    return q @ k.mT


def general_scores(q: Tensor, k: Tensor, W: Tensor) -> Tensor:
    """Queries (B, N, S), keys (B, M, C), W (S, C): `dot` of the queries and projected keys."""
    return dot_scores(q, k @ W.T)


q, k, W = torch.randn(2, 3, 8), torch.randn(2, 6, 8), torch.randn(8, 8)
assert torch.allclose(general_scores(q, k, torch.eye(8)), dot_scores(q, k))
assert not torch.allclose(general_scores(q, k, W), general_scores(k, q, W).mT)  # the sides differ

# %% [markdown]
# With the identity for $W_a$, *general* is *dot*. The second check says what the matrix is for: asking and being asked
# are different roles. What products buy is size. Additive attention forms a hidden layer for each pair of words, and a
# product forms one number. And all pairs together are a single product of two matrices, which is what hardware does
# best.


# %%
def formed(queries: int, keys: int, hidden: int) -> dict[str, object]:
    """Numbers that must exist at once between two sentences, before the softmax."""
    pairs = queries * keys
    return {"words": f"{queries} × {keys}", "additive": pairs * hidden, "product": pairs}


show.table(
    [formed(n, n, 1000) for n in (10, 50, 500)],
    caption="Intermediate numbers for one sentence pair, with the paper's hidden layer of 1000: a factor of 1000.",
)

# %% [markdown]
# ### Before or after the step?
#
# The two papers differ in a second way, and code that mixes them up trains all the same. Bahdanau's decoder looks
# *before* it updates its state: the query is $s_{i-1}$, and the context is an input of the update. Luong's looks
# *after*: the query is $s_i$, and the context goes on to the output.
#
# | | Bahdanau et al. | Luong et al. |
# |---|---|---|
# | query | $s_{i-1}$, the state before the step | $s_i$, the state after it |
# | order | attend, update, write | update, attend, write |
# | score | additive | dot, general or concat |
# | the context reaches the next state | through the update itself | only if it is fed in again (*input feeding*) |
# | encoder | both directions | left to right, stacked (ours: both directions, for a fair comparison) |


# %%
def attend(s: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    """State (S,) and memory (M, S) to context and weights, by plain dot products."""
    weights = (cells @ s).softmax(-1)
    return weights @ cells, weights


def bahdanau_step(s: Tensor, y: Tensor, cells: Tensor, gru: nn.GRUCell) -> tuple[Tensor, Tensor]:
    context, weights = attend(s, cells)
    return gru(torch.cat([y, context]), s), weights


def luong_step(s: Tensor, y: Tensor, cells: Tensor, gru: nn.GRUCell) -> tuple[Tensor, Tensor]:
    s = gru(y, s)
    context, weights = attend(s, cells)
    return torch.cat([s, context]), weights


# %% [markdown]
# How would you find out which one you have in front of you? Ask whether the weights depend on the word that was just
# written, $y_{i-1}$. Bahdanau's can't: they are made before that word is read.


# %%
def listens_to_last_word(step, inputs: int) -> bool:
    """Whether two different last words lead to different weights, in the same state."""
    gru, s, cells = nn.GRUCell(inputs, 8), torch.randn(8), torch.randn(6, 8)
    first, second = (step(s, torch.randn(8), cells, gru)[1] for _ in range(2))
    return not torch.equal(first, second)


assert listens_to_last_word(luong_step, inputs=8)
assert not listens_to_last_word(bahdanau_step, inputs=16)

# %% [markdown]
# ### Scaled dot products: why $\sqrt{d}$?
#
# {cite:t}`vaswani2017` keep the product and drop the recurrence around it. Queries, keys and values are rows of three
# matrices, and everything is two matrix products with a softmax between:
#
# $$ \operatorname{attention}(Q, K, V) = \operatorname{softmax}\!\left(\frac{Q K^\top}{\sqrt{d}}\right) V . $$


# %%
def scaled_dot_product(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Tensor:
    """Queries (..., N, D), keys (..., M, D), values (..., M, E) to (..., N, E).

    `seen` (..., N, M) is True where a query may look; everywhere if it is left out.
    """
    scores = q @ k.mT / q.shape[-1] ** 0.5
    if seen is not None:
        scores = scores.masked_fill(~seen, -torch.inf)
    return scores.softmax(-1) @ v


equal("the six words", scaled_dot_product(math.sqrt(2) * query[None], keys, values)[0], context)

# %% [markdown]
# The check undoes the scale ($d$ was 2) and finds the context that we computed by hand. So what is the scale for?
#
# Let the entries of $q$ and $k$ be independent, with mean 0 and variance 1. Each product of two entries has mean 0 and
# variance $1 \cdot 1$, and variances of independent terms add up, so the score $q \cdot k$ has variance $d$: it spreads
# like $\sqrt{d}$. We saw by hand what that does. A query twice as long makes a harder choice, and a head four times as
# wide does the same thing by accident, before anything is learned.
#
# A hard choice is not wrong in itself. It is wrong as a *beginning*, because it is hard to unlearn. The hand example
# shows why: if one weight is 1, the context *is* that value, and the pull $\alpha_j (v_j - c)$ is zero for every word.
# In general the softmax has the Jacobian (the matrix of its derivatives) $\operatorname{diag}(p) - p\,p^\top$, and its
# trace, $\sum_j p_j (1 - p_j) = 1 - \sum_j p_j^2$, falls to zero as $p$ becomes one-hot. Take this trace for what the
# scores can still learn from.


# %%
def left_to_learn(width: int, *, scaled: bool, keys: int = 32) -> float:
    """Mean trace of the softmax's Jacobian; 0 for one-hot rows, 1 - 1/32 for uniform ones."""
    q, k = torch.randn(1024, 1, width), torch.randn(1024, keys, width)
    p = (q @ k.mT / (width**0.5 if scaled else 1.0)).softmax(-1)
    return 1 - p.square().sum(-1).mean().item()


p = torch.randn(6).softmax(-1)
jacobian = torch.autograd.functional.jacobian(lambda e: e.softmax(-1), p.log())
assert torch.isclose(jacobian.trace(), 1 - p.square().sum())

widths = [1, 4, 16, 64, 256, 1024]
left = {name: [left_to_learn(w, scaled=name != "raw") for w in widths] for name in ("divided by √d", "raw")}
assert max(left["divided by √d"]) - min(left["divided by √d"]) < 0.06
assert left["raw"][-1] < 0.15 < 0.85 < left["divided by √d"][-1]

# %% tags=["hide-input"]
show.glue("attention-left-raw", f"{left['raw'][-1]:.2f}")
show.glue("attention-left-scaled", f"{left['divided by √d'][-1]:.2f}")
show.lines(
    widths,
    left,
    x_label="head width d",
    y_label="trace of the softmax's Jacobian",
    log_x=True,
    alt="Two curves over head width from 1 to 1024. Divided by the root of d, the trace stays near its greatest value. "
    "Raw, it starts there and falls to nearly nothing.",
    caption="What 32 random keys leave to learn from. Scaled heads begin soft; wide raw heads begin decided.",
)

# %% [markdown]
# At width 1024 the raw head begins with {glue:text}`attention-left-raw` of it, the scaled one with
# {glue:text}`attention-left-scaled`. That is a statement about random vectors. {cite:t}`vaswani2017` suspect that it
# matters in training, and show no experiment; we judge that below. Additive scores have no such problem: the tanh
# bounds them, however wide and however large the states are.

# %%
draw = torch.Generator().manual_seed(0)
narrow, twice = (torch.randn(2, 4096, width, generator=draw).prod(0).sum(-1).std().item() for width in (64, 128))
show.quiz(
    "Entries have mean 0 and variance 1. The width of queries and keys goes from 64 to 128. What happens to the spread "
    "of the raw scores $q \\cdot k$?",
    [
        ("It stays as it is.", "A sum of 128 terms varies more than a sum of 64.", abs(twice / narrow - 1) < 0.1),
        ("It grows by $\\sqrt 2$.", f"Variances add, so the spread grows with the root of the width: {narrow:.1f} and "
         f"{twice:.1f} for 4096 random pairs.", abs(twice / narrow - 2**0.5) < 0.1),
        ("It doubles.", "The variance doubles; the spread is its root.", abs(twice / narrow - 2) < 0.1),
    ],
    name="attention-spread",
)  # fmt: skip

# %% [markdown]
# ### Masks: what may be seen
#
# Sentences in a batch have different lengths, and the short ones are filled up with padding. A decoder in training sees
# its whole answer at once, and must not peek at the next word. Both are the same operation: a score of $-\infty$ before
# the softmax, which is a weight of exactly zero after it. Our convention is torch's and reads aloud: True means *may be
# seen*.

# %%
tokens = ["zwei", "und", "vierzig", "tausend", "<pad>", "<pad>"]
real = torch.tensor([token != "<pad>" for token in tokens])
padding = real.expand(6, 6)  # nobody sees padding: whole columns
causal = torch.ones(6, 6, dtype=torch.bool).tril()  # row i sees columns 0 to i
q, k = torch.randn(2, 6, 4)
masks = {
    "nothing": padding | True,
    "padding": padding,
    "the future": causal,
    "both": padding & causal,
}
maps = {name: (q @ k.mT / 2).masked_fill(~seen, -torch.inf).softmax(-1) for name, seen in masks.items()}
assert all(torch.allclose(weights.sum(-1), torch.ones(6)) for weights in maps.values())

# %% tags=["hide-input"]
show.explore(
    maps,
    tokens,
    tokens,
    slider_label="hidden",
    alt="Attention weights of six random tokens, the last two of them padding. Hiding padding empties two columns; "
    "hiding the future empties the upper triangle; hiding both leaves the lower triangle without the last columns.",
    caption="Rows ask, columns answer. Whatever is hidden, each row still sums to one.",
)

# %% [markdown]
# Rows of padding still ask, and get an answer that nobody uses; only columns have to be empty.
#
# What if a row may see *nothing*? It happens: a sentence padded at the front under a causal mask, an empty document, a
# window that holds only padding. Then the softmax divides zero by zero. Many people clean up afterwards. The output is
# fine then, and the gradient is not: the derivative of the softmax multiplies by its NaN.

# %%
scores = torch.randn(2, 6, requires_grad=True)
mask = torch.tensor([[0.0], [-torch.inf]])  # a float mask is added; row 1 sees nothing
weights = (scores + mask).softmax(-1)
cleaned = weights.nan_to_num(0.0)
(gradient,) = torch.autograd.grad(cleaned.square().sum(), scores)
print("row 1 after cleaning:", cleaned[1].tolist(), "and its gradient:", gradient[1].tolist())
assert cleaned.isfinite().all() and gradient[0].isfinite().all() and gradient[1].isnan().all()

# %% [markdown]
# One empty row is enough: its gradient flows into the weights that all rows share, and after one step the model is NaN.
# The cure is to fill such a row with any finite number *before* the softmax, and to set its weights to zero afterwards.


# %%
def safe_weights(scores: Tensor, seen: Tensor) -> Tensor:
    """Softmax over the keys that are `seen`; rows that see none get zeros, and zero gradients."""
    empty = ~seen.any(-1, keepdim=True)
    scores = scores.masked_fill(~seen, -torch.inf).masked_fill(empty, 0.0)
    return scores.softmax(-1).masked_fill(empty, 0.0)


scores = torch.randn(2, 6, requires_grad=True)
seen = torch.arange(6) < torch.tensor([[4], [0]])  # one row sees four words, one sees none
weights = safe_weights(scores, seen)
weights.square().sum().backward()
assert torch.allclose(weights.sum(-1), torch.tensor([1.0, 0.0]))
assert scores.grad.isfinite().all() and not scores.grad[1].any()

# %% [markdown]
# ### Several heads
#
# One softmax makes one pattern. Several heads make several, at the price of one:
#
# ```{diagram} heads
# The width of 512 is cut into eight heads of 64; each has its own table of weights. At the end the parts are joined and
# projected.
# ```
#
# A head returns a mean, and a mean forgets who said what. Give two words half of the weight each, and *three, seven*
# comes out like *seven, three*. Two heads that return one word each keep them apart.

# %%
three, seven = F.one_hot(torch.tensor([3, 7]), 10).float()
assert torch.equal((three + seven) / 2, (seven + three) / 2)  # one head: which came first?
assert not torch.equal(torch.cat([three, seven]), torch.cat([seven, three]))  # two heads

# %% [markdown]
# So {cite:t}`vaswani2017` project the tokens to queries, keys and values once, cut the width `C` into `H` slices of
# width `D = C / H`, let each slice attend by itself, put the results side by side, and mix them by one more matrix
# $W^O$. (The paper writes small matrices for each head. Stacked, they are the large ones; the check below cuts them
# apart again.) All heads together cost as much as one wide head: four matrices of `C` by `C`, however many slices.
# Where queries, keys and values are all made of the same tokens, as here, one speaks of **self-attention**.


# %%
def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, C) to (B, H, N, D): the width is cut, then heads move in front of tokens."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, H, N, D) back to (B, N, C)."""
    return x.transpose(1, 2).flatten(-2)


def multi_head(x: Tensor, W: dict, heads: int, seen: Tensor | None = None) -> Tensor:
    """Self-attention over tokens (B, N, C); W holds the matrices q, k, v and o, each (C, C)."""
    q, k, v = (split_heads(x @ W[name].T, heads) for name in "qkv")
    return merge_heads(scaled_dot_product(q, k, v, seen)) @ W["o"].T


x = torch.randn(2, 6, 16)
W = {name: torch.randn(16, 16) / 4 for name in "qkvo"}
slices = [slice(4 * h, 4 * h + 4) for h in range(4)]  # the rows of each head's matrices
alone = [scaled_dot_product(*(x @ W[name][rows].T for name in "qkv")) for rows in slices]
equal("four heads, four attentions", multi_head(x, W, 4), torch.cat(alone, -1) @ W["o"].T)
assert torch.equal(merge_heads(split_heads(x, 4)), x)

# %% [markdown]
# ### Change the order, and nothing else changes
#
# Nothing in the formula knows where a token stands. Put the tokens into another order by a permutation matrix $\Pi$:
# the rows of $Q$, $K$ and $V$ move along, and the scores become $\Pi\, Q K^\top \Pi^\top$. A softmax of rows does not
# care in which order the columns come, and the $\Pi^\top$ meets the permuted values, $\Pi^\top \Pi V = V$. So
#
# $$ \operatorname{attention}(\Pi X) = \Pi \operatorname{attention}(X) : $$
#
# the outputs are the same, in the new order. Self-attention is **equivariant** to permutations. With six tokens there
# are $6! = 720$ orders, few enough to try them all.

# %%
orders = torch.tensor(list(permutations(range(6))))  # (720, 6)
tokens = x[0]  # (6, 16)
every = multi_head(tokens[orders], W, 4)  # a batch of 720 sentences
equal("equivariance", every, multi_head(tokens[None], W, 4)[0][orders])

asker = torch.randn(1, 1, 16)  # a query from outside, as in a decoder
answers = scaled_dot_product(asker, tokens[orders], tokens[orders])
equal(f"answers over {len(orders)} orders", answers, answers[:1])

# %% [markdown]
# A query from outside gets the same answer in every order: a memory is a *set*. This is a gift for sets and a problem
# for sentences, where *three hundred* is not *hundred three*. In the papers of 2015 a recurrent encoder walks along the
# words and leaves the order in their states. Without it, positions have to be put in by hand; the next
# chapter does that.
#
# ## The library's version
#
# `tformerlib.attention.attention` is the one function through which every model of this book attends. It checks its
# arguments, turns masks and biases into what torch's fused kernel takes, and calls that kernel. Nothing of ours went
# into the kernel, so it is an independent implementation; a sum over single queries and keys in float64 is another.

# %%
q = torch.randn(2, 4, 6, 16)  # 6 queries of width 16
k, v = torch.randn(2, 4, 9, 16), torch.randn(2, 4, 9, 5)  # 9 keys, and values of another width
seen = torch.rand(2, 1, 6, 9) < 0.7
seen[0, 0, 0] = False  # one query sees nothing
ours = safe_weights(q @ k.mT / 16**0.5, seen) @ v
peers = {
    "tformerlib": attention(q, k, v, mask=seen),
    "torch": F.scaled_dot_product_attention(q, k, v, attn_mask=seen),
    "float64 sums": attention_reference(q, k, v, mask=seen),
}
for name, theirs in peers.items():
    equal(f"by hand against {name}", ours, theirs)

# %% [markdown]
# `Attention` is the layer with its four matrices. Torch's `nn.MultiheadAttention` stores three of them in one block,
# and its boolean mask means the opposite: True is *hidden*. Two functions of one library disagree about a bool; the
# outputs below agree only with the `~`. Their gradients agree too.

# %%
layer, peer = Attention(32, heads=4), nn.MultiheadAttention(32, 4, batch_first=True)
with torch.no_grad():
    peer.in_proj_weight.copy_(torch.cat([layer.q.weight, layer.k.weight, layer.v.weight]))
    peer.in_proj_bias.copy_(torch.cat([layer.q.bias, layer.k.bias, layer.v.bias]))
    peer.out_proj.load_state_dict(layer.out.state_dict())

x, causal = torch.randn(2, 6, 32), torch.ones(6, 6, dtype=torch.bool).tril()
y = layer(x, mask=causal)
theirs, _ = peer(x, x, x, attn_mask=~causal)
equal("Attention against nn.MultiheadAttention", y, theirs)

ends = (y, layer.out.weight), (theirs, peer.out_proj.weight)
grads = [torch.autograd.grad(out.square().sum(), weight)[0] for out, weight in ends]
equal("and their gradients", *grads, tolerance=1e-4)

# %%
matrices = {name: linear.weight for name, linear in layer.named_children()}
matrices["o"] = matrices.pop("out")
with torch.no_grad():
    for linear in layer.children():  # our lines have no biases
        linear.bias.zero_()
    equal("Attention against our lines", multi_head(x, matrices, 4, causal), layer(x, mask=causal))

# %% [markdown]
# ### The recurrent models
#
# `models/rnn.py` holds Bahdanau's and Luong's translators. How large is the real one? The appendix of
# {cite:t}`bahdanau2015` gives its sizes: 1000 units in each direction and in the decoder, embeddings of 620, a hidden
# layer of 1000 in the score, 500 maxout units, 30,000 words in each language. Multiply it out with a pencil and hold
# the sum against the weights of the library's model. (It adds biases, which the paper leaves out of its equations.)


# %%
def gru(inputs: int, units: int) -> int:
    return 3 * units * (inputs + units)  # three gates, each reads the input and the state


embeddings, output = 2 * 30_000 * 620, 30_000 * 500
by_pencil = {
    "rnnsearch": embeddings + 2 * gru(620, 1000)  # reads in both directions
    + gru(620 + 2000, 1000) + 1000 * 1000  # the decoder, and its first state
    + 1000 * 1000 + 1000 * 2000 + 1000  # the score: W_a, U_a, v_a
    + 2 * 500 * (1000 + 620 + 2000) + output,  # maxout over the state, the last word and the context
    "rnnencdec": embeddings + gru(620, 1000) + gru(620 + 1000, 1000) + 1000 * 1000
    + 2 * 500 * (1000 + 620 + 1000) + output,
}  # fmt: skip
rows = []
for name, weights in by_pencil.items():
    with torch.device("meta"):  # shapes without memory
        parameters = list(tf.create_model(name).parameters())
    assert sum(p.numel() for p in parameters if p.ndim > 1) == weights
    total = sum(p.numel() for p in parameters)
    rows.append({"model": name, "weights, by pencil": weights, "ours, with biases": total})
show.table(
    rows,
    caption="The paper prints sizes, not sums. What attention costs: the score, and a second direction.",
)

# %% [markdown]
# ## A task that needs nothing but attention
#
# Take everything else away: no recurrence, no order, no language. A memory holds pairs of a key and a value, in no
# order; a query repeats one of the keys, and its value is the answer. One model attends to the pairs. The other gets
# their mean, a fixed vector of the same width, and otherwise the same layers. Both train on eight pairs. Then the
# memory grows.


# %%
class LookUp(nn.Module):
    """Keys (B, M), values (B, M) and a queried key (B,) to logits (B, symbols) of its value."""

    def __init__(self, symbols: int, dim: int, *, attends: bool) -> None:
        super().__init__()
        self.attends = attends
        self.key, self.value = nn.Embedding(symbols, dim), nn.Embedding(symbols, dim)
        self.q, self.k = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.pair = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.answer = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, symbols))

    def forward(self, keys: Tensor, values: Tensor, query: Tensor) -> Tensor:
        asked, keys = self.key(query), self.key(keys)
        memory = self.pair(torch.cat([keys, self.value(values)], -1))
        if self.attends:
            context = scaled_dot_product(self.q(asked)[:, None], self.k(keys), memory)[:, 0]
        else:
            context = memory.mean(1)
        return self.answer(torch.cat([context, asked], -1))


def memories(count: int, size: int, symbols: int = 64) -> tuple[Tensor, ...]:
    """Random examples: keys (count, size), all different; values; a queried key; its value."""
    keys = torch.rand(count, symbols).argsort(1)[:, :size]
    values, place = torch.randint(symbols, (count, size)), torch.randint(size, (count, 1))
    return keys, values, keys.gather(1, place)[:, 0], values.gather(1, place)[:, 0]


# %%
sizes = [2, 4, 8, 16, 32, 64]
found = {}
for name, attends in (("attention", True), ("mean of the pairs", False)):
    torch.manual_seed(seed)
    model = LookUp(64, 32, attends=attends)
    training.fit(
        model, memories(20_000, 8), lambda model, batch: F.cross_entropy(model(*batch[:3]), batch[3]),
        steps=300, batch_size=128, lr=1e-2, schedule=training.cosine(300), seed=seed, device="cpu",
        label=name,
    )  # fmt: skip
    with torch.no_grad():
        answers = [(model(*test[:3]).argmax(-1), test[3]) for test in (memories(1000, n) for n in sizes)]
    found[name] = [(given == wanted).float().mean().item() for given, wanted in answers]

show.expect(min(found["attention"]) > 0.9, "attention finds the value in memories of every size")
show.expect(max(found["mean of the pairs"][2:]) < 0.5, "a mean of the pairs does not")

# %% tags=["hide-input"]
show.lines(
    sizes,
    found,
    x_label="pairs in the memory (trained on 8)",
    y_label="share of right answers",
    log_x=True,
    alt="Share of right answers over the number of pairs, from 2 to 64. With attention it stays near one. With the "
    "mean of the pairs it is far lower and falls as the memory grows.",
    caption="Attention learned to look up, not to hold eight pairs: it does as well in a memory eight times larger.",
)

# %% [markdown]
# Attention did not learn these pairs, which are new in every example. It learned the *operation*: compare, choose,
# copy. That is why it carries over to memories of a size that it never saw.
#
# ## The experiment: who pays for long sentences?
#
# Now the claim of the paper. Three translators read English number words and write German ones:
#
# - **fixed vector**: an encoder in both directions, whose two last states are all that the decoder gets, at every step;
# - **additive**: the same with Bahdanau's attention over all states;
# - **product**: Luong's decoder with the *general* score.
#
# They get the same data, the same steps, the same optimizer, and, by the choice of their width, the same number of
# parameters. In training the decoder reads the right words up to the one that it is asked for. In the test it reads its
# own: at each step the likeliest word (**greedy** decoding). A translation counts only if every word is right (**exact
# match**). The test numbers never occur in training.
#
# Two things would make an unfair race. A code for a whole sentence may only take longer to find than a place to look
# at: so the fixed vector trains for three times as many steps as the others. And one learning rate may suit one model
# alone: so each has its own, the best of four that were tried in pilots, on other seeds and other numbers. One run
# could be luck all the same. What you see in this chapter is one run; the cards count recorded runs of other seeds.

# %%
count, steps, batch_size = run.pick(quick=(6000, 400, 64), colab=(30_000, 1200, 128), full=(100_000, 4000, 256))
width = run.pick(quick=16, colab=96, full=192)
patience = {"fixed vector": 3, "additive": 1, "product": 1}  # how many times the steps of the others
rates = run.pick(
    quick={"fixed vector": 1.8e-2, "additive": 3.6e-2, "product": 3.6e-2},
    colab=dict.fromkeys(patience, 2e-3),
    full=dict.fromkeys(patience, 1e-3),
)
translators = {
    "fixed vector": partial(RNNEncoderDecoder, attention=None),
    "additive": partial(RNNEncoderDecoder, attention=Additive),
    "product": partial(RNNEncoderDecoder, attention=General, decoder=Luong),
}


def build(name: str, hidden: int) -> RNNEncoderDecoder:
    sizes = {"source_vocab": len(english_words), "target_vocab": len(german_words)}
    return translators[name](**sizes, embed=32, hidden=hidden)


def size(name: str, hidden: int) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build(name, hidden).parameters())


budget = size("additive", width)
hidden = {name: min(range(width // 2, 2 * width), key=lambda h: abs(size(name, h) - budget)) for name in translators}
show.table([{"model": name, "hidden": h, "parameters": size(name, h)} for name, h in hidden.items()])
assert all(abs(size(name, h) / budget - 1) < 0.03 for name, h in hidden.items())


# %%
def sentences(seed: int) -> tuple[tuple[Tensor, Tensor], list[tuple[str, str]]]:
    """Training pairs as ids, and test pairs as text."""
    pairs = data.number_words("en", "de", limit=10**9, count=count, seed=seed)
    cut_pairs = [(english, cut(german)) for english, german in pairs]
    train, test = data.split(cut_pairs, seed=seed, test=600)
    return data.encode_pairs(train, english_words, german_words), test


def next_word_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The decoder reads the target up to word i and is asked for word i + 1."""
    source, target = batch
    logits = model(source, target[:, :-1])
    return F.cross_entropy(logits.mT, target[:, 1:], ignore_index=data.PAD)


def exact(model: nn.Module, source: Tensor, target: Tensor) -> Tensor:
    """100 for each row (B,) that the model translates without a mistake, else 0: means are in %."""
    wanted = target[:, 1:]
    written = greedy(model, source, limit=wanted.shape[1])
    written = F.pad(written, (0, wanted.shape[1] - written.shape[1]))
    return 100.0 * (written == wanted).all(1)


# %% [markdown]
# Progress is shown while it trains, one bar for a model. Every so often the loop stops its clock and translates 200 of
# the test sentences; for one model we also keep a map of where it looks, for later.


# %%
def alignment(model: nn.Module, source: Tensor, target: Tensor) -> Tensor:
    """Attention weights (B, M, N) of a model that writes the target: who asks, who is asked."""
    with torch.no_grad(), record_attention() as calls:
        model(source, target[:, :-1])
    return torch.cat(calls, dim=2)[:, 0].cpu()  # additive attention is called once for each word


examples, test_pairs = sentences(seed)
test = [ids.to(run.device) for ids in data.encode_pairs(test_pairs, english_words, german_words)]
models, histories, right, growing = {}, {}, {}, {}
for name, h in hidden.items():
    torch.manual_seed(seed)
    models[name], total = build(name, h), patience[name] * steps

    def watch(model: nn.Module, step: int, name: str = name) -> dict[str, float]:
        if name == "additive":
            growing[step] = alignment(model, *test)
        return {"exact": exact(model, *(ids[:200] for ids in test)).mean().item()}

    histories[name] = training.fit(
        models[name], examples, next_word_loss, steps=total, batch_size=batch_size, lr=rates[name], seed=seed,
        schedule=training.cosine(total, warmup=steps // 8), collate=data.trim, device=run.device,
        evaluate=watch, evaluate_every=total // 10, label=name,
    )  # fmt: skip
    right[name] = exact(models[name], *test).cpu()

# %%
ranges = [(1, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14)]
source_lengths = torch.tensor([len(english.split()) for english, _ in test_pairs])


def by_length(name: str) -> list[float]:
    """Exact match in percent, for each range of source lengths."""
    groups = [(source_lengths >= low) & (source_lengths <= high) for low, high in ranges]
    return [right[name][group].mean().item() for group in groups]


curves = {name: by_length(name) for name in translators}

# %% tags=["hide-input"]
show.lines(
    [sum(each) / 2 for each in ranges],
    curves,
    x_label="words in the English source",
    y_label="exact match, %",
    alt="Exact match over source length from 2 to 14 words. From the shortest to the longest range: "
    + "; ".join(f"{name} {each[0]:.0f} % to {each[-1]:.0f} %" for name, each in curves.items()),
    caption=f"Profile {run.profile}, seed {seed}, equal parameters; the fixed vector trained for three times as many "
    "steps. Compare how steeply the curves fall.",
)

# %% [markdown]
# To judge the claim, sort the test sentences by length and cut them into quarters. The gain is the exact match of
# additive attention minus that of the fixed vector on the longest quarter; its growth is this gain minus the same on
# the shortest. A test of memory means something only if the fixed vector can translate at all, which the shortest
# quarter tells, and if it has stopped learning, which the last tenth of its training tells. Both are in the ledger as a
# **gate**; gate and thresholds were written down before any of the runs that judge.


# %%
def quarters(name: str) -> Tensor:
    """Mean exact match (4,) in quarters of the test set, from the shortest sources to the longest."""
    by_length = right[name][source_lengths.argsort(stable=True)]
    return torch.stack([quarter.mean() for quarter in by_length.chunk(4)])


late = [tested["exact"] for tested in histories["fixed vector"].metrics[-2:]]
baseline = {"fixed_shortest": quarters("fixed vector")[0].item(), "fixed_last_tenth": late[1] - late[0]}
gains = quarters("additive") - quarters("fixed vector")
verdicts = [
    claims.report(
        "attention.gain-grows-with-length",
        gain_longest=gains[3].item(),
        growth=(gains[3] - gains[0]).item(),
        **baseline,
    )
]

# %%
means = {name: hits.mean().item() for name, hits in right.items()}
gain = means["product"] - means["fixed vector"]
verdicts.append(claims.report("attention.luong-gain", gain=gain, **baseline))

# %% [markdown]
# On the longest quarter the fixed vector gets {glue:text}`attention-fixed-longest` right, additive attention
# {glue:text}`attention-additive-longest`, products {glue:text}`attention-product-longest`. Is this a wall, as the toy
# at the beginning suggests, or a matter of time? Here are the curves over training.

# %% tags=["hide-input"]
for name in translators:
    show.glue(f"attention-{name.split()[0]}-longest", f"{quarters(name)[3]:.0f} %")
climbs = {name: history.metrics for name, history in histories.items()}
show.lines(
    {name: [tested["step"] for tested in climb] for name, climb in climbs.items()},
    {name: [tested["exact"] for tested in climb] for name, climb in climbs.items()},
    x_label="training step",
    y_label="exact match, %",
    alt="Exact match on 200 test sentences over training steps. After half of its steps and at the end: "
    + "; ".join(f"{name} {each[4]['exact']:.0f} % and {each[9]['exact']:.0f} %" for name, each in climbs.items()),
    caption="Attention is learned early. The fixed vector comes later, and flattens when the learning rate runs out.",
)
show.glue("attention-fixed-third", f"{climbs['fixed vector'][2]['exact']:.0f} %")
show.glue("attention-fixed-end", f"{climbs['fixed vector'][9]['exact']:.0f} %")

# %% [markdown]
# After three tenths of its steps, when the others are nearly done, the fixed vector has
# {glue:text}`attention-fixed-third` of these sentences, and {glue:text}`attention-fixed-end` at its end. So patience
# helps it. A code for a whole sentence has to be *found*, position by position, where attention only has to find a
# word; and at this width, which pilots chose so that a patient fixed vector would still stay below the ceiling, it does
# not find one for every long sentence.
#
# :::{when} attention.gain-grows-with-length positive
# Over the recorded seeds the lead on the longest quarter is {recorded}`attention.gain-grows-with-length:gain_longest`
# points, and it grows with length: what {cite:t}`bahdanau2015` saw in translations shows in this small world, too.
# :::
# :::{when} attention.gain-grows-with-length partly
# Over the recorded seeds the lead on the longest quarter is {recorded}`attention.gain-grows-with-length:gain_longest`
# points: attention is ahead there, by less, or with less growth, than we had asked for.
# :::
# :::{when} attention.gain-grows-with-length negative
# Over the recorded seeds attention is not ahead on the longest quarter
# ({recorded}`attention.gain-grows-with-length:gain_longest` points): with so much patience a fixed vector is enough for
# sentences of this length.
# :::
# :::{when} attention.gain-grows-with-length otherwise
# The recorded seeds do not settle yet by how much attention leads; the card says why.
# :::
#
# ### Does the scale matter when we train?
#
# The second claim needs wide heads, and no recurrence that could help out. Dates as people write them, *Mar 9, 1987*,
# become *1987-03-09*. Ten learned queries, one for each character of the answer, attend to the characters of the
# source, after these have attended to each other. It is a small Transformer that writes all ten at once; positions are
# added as the next chapter explains.


# %%
class DateReader(nn.Module):
    """Characters (B, N) of a date to logits (B, 10, V) of the ten characters of its ISO form."""

    def __init__(self, vocab: int, length: int, *, heads: int = 1, **head) -> None:
        super().__init__()
        dim = 32  # the width of a character's vector, whatever the width of the head
        self.chars, self.questions = nn.Embedding(vocab, dim), nn.Parameter(torch.randn(10, dim))
        self.register_buffer("places", sinusoids(length, dim), persistent=False)
        self.mix, self.read = Attention(dim, heads, **head), Attention(dim, heads, **head)
        self.think = nn.Sequential(nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))
        self.write = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, vocab))
        self.norm = nn.LayerNorm(dim)

    def forward(self, source: Tensor) -> Tensor:
        seen = (source != data.PAD)[:, None, None]  # (B, 1, 1, N)
        x = self.chars(source) + self.places[: source.shape[1]]
        x = x + self.mix(x, mask=seen)
        x = self.norm(x + self.think(x))
        asked = self.questions.expand(len(source), -1, -1)
        return self.write(asked + self.read(asked, x, mask=seen))


# %%
narrow, wide = run.pick(quick=(4, 128), colab=(4, 512), full=(4, 1024))
date_steps = run.pick(quick=600, colab=1000, full=3000)
arms = {"divided by √d": None, "raw": 1.0}
date_rates = run.pick(  # for narrow and wide heads: each the best of four in pilots
    quick={"divided by √d": (7e-3, 7e-3), "raw": (7e-3, 3.5e-3)},
    colab=dict.fromkeys(arms, (2e-3, 2e-3)),
    full=dict.fromkeys(arms, (1e-3, 1e-3)),
)


def date_loss(model: DateReader, batch: tuple[Tensor, Tensor]) -> Tensor:
    """All ten characters at once; BOS and EOS are cut off."""
    return F.cross_entropy(model(batch[0]).mT, batch[1][:, 1:-1])


def train_reader(seed: int, rate: float, **head) -> tuple[DateReader, list[float], float, list, Tensor]:
    """A trained reader, its losses, its exact match in %, and the test dates as text and as ids."""
    pairs = data.locale_dates("en", "iso", count=4000, seed=seed, formats=("medium",))
    train, test = data.split(pairs, seed=seed, test=500)
    letters = data.Vocabulary.from_texts([text for pair in pairs for text in pair])
    examples = data.encode_pairs(train, letters, letters)
    source, target = (ids.to(run.device) for ids in data.encode_pairs(test, letters, letters))
    torch.manual_seed(seed)
    reader = DateReader(len(letters), examples[0].shape[1], **head)
    history = training.fit(
        reader, examples, date_loss, steps=date_steps, batch_size=32, lr=rate, seed=seed,
        schedule=training.cosine(date_steps, warmup=30), device=run.device, label=f"{head}, seed {seed}",
    )  # fmt: skip
    with torch.no_grad():
        hits = (reader(source).argmax(-1) == target[:, 1:-1]).all(1)
    return reader, history.losses, 100 * hits.float().mean().item(), test, source


# %%
starts = run.seeds(2)  # two starts in a run; the ledger gets their means
readers = {
    (d, name, s): train_reader(s, rate, head_dim=d, scale=scale)
    for name, scale in arms.items()
    for d, rate in zip((narrow, wide), date_rates[name], strict=True)
    for s in starts
}
reached = {(d, name): torch.tensor([readers[d, name, s][2] for s in starts]) for d in (narrow, wide) for name in arms}
gap = {d: (reached[d, "divided by √d"] - reached[d, "raw"]).mean().item() for d in (narrow, wide)}
verdicts.append(
    claims.report(
        "attention.scale-matters",
        gap_wide=gap[wide],
        growth=gap[wide] - gap[narrow],
        scaled_wide=reached[wide, "divided by √d"].mean().item(),
    )
)

# %% tags=["hide-input"]
show.bars(
    {f"{name}, d = {d}": shares.tolist() for (d, name), shares in reached.items()},
    y_label="dates without a mistake, %",
    alt="Four bars with a dot for each start. Mean share of right dates: "
    + "; ".join(f"{name}, d = {d}: {shares.mean():.0f} %" for (d, name), shares in reached.items()),
    caption=f"Profile {run.profile}, one dot for each of two starts. Same data, steps and parameters at each width; "
    "each bar has the best learning rate for it.",
)
for (d, name), shares in reached.items():
    key = f"{'narrow' if d == narrow else 'wide'}-{'raw' if name == 'raw' else 'scaled'}"
    show.glue(f"attention-dates-{key}", ", ".join(f"{share:.0f}" for share in shares.sort().values) + " %")

# %% [markdown]
# Start by start, from the worst to the best, wide heads get {glue:text}`attention-dates-wide-scaled` of the dates right
# with the factor and {glue:text}`attention-dates-wide-raw` without it; narrow ones
# {glue:text}`attention-dates-narrow-scaled` and {glue:text}`attention-dates-narrow-raw`. How decided are the wide heads
# when training begins? The largest weight of each row tells.

# %%
peaks = {}
source = readers[wide, "raw", seed][4]
for name, scale in (("scaled", None), ("raw", 1.0)):
    torch.manual_seed(seed)
    fresh = DateReader(64, source.shape[1], head_dim=wide, scale=scale).to(run.device)
    with torch.no_grad(), record_attention() as calls:
        fresh(source)
    real = (source > data.PAD)[:, None]  # rows of padding do not count
    peaks[name] = calls[0].amax(-1)[real].mean().item()
    show.glue(f"attention-peak-{name}", f"{peaks[name]:.2f}")
show.expect(peaks["raw"] > 0.5 > peaks["scaled"], "raw heads have decided before the first step")

# %%
losses = {name: torch.tensor([readers[wide, name, s][1] for s in starts]) for name in arms}
smooth = {name: each.unfold(1, 20, 20).mean(-1) for name, each in losses.items()}  # by 20 steps
# %% tags=["hide-input"]
show.lines(
    torch.arange(20, date_steps + 1, 20),
    {name: each.mean(0) for name, each in smooth.items()},
    bands={name: (each.amin(0), each.amax(0)) for name, each in smooth.items()},
    x_label="training step",
    y_label="loss, mean of 20 steps",
    alt="Loss over training steps for the wide heads, mean of two starts, from the first twenty steps to the last: "
    + "; ".join(f"{name} {each[:, 0].mean():.2f} to {each[:, -1].mean():.2f}" for name, each in smooth.items()),
    caption=f"Heads of width {wide}, two starts. Raw heads start from a random, hard choice.",
)

# %% [markdown]
# Before the first step a row of the wide raw head gives {glue:text}`attention-peak-raw` of its weight to a single
# character on average, a row of the scaled head {glue:text}`attention-peak-scaled`. The choice was made by chance, and
# the gradient that could revise it is small. Is that enough to spoil the training?
#
# :::{when} attention.scale-matters positive
# Over the recorded seeds wide heads lose {recorded}`attention.scale-matters:gap_wide` points without the factor, and
# narrow ones lose less.
# :::
# :::{when} attention.scale-matters partly
# Over the recorded seeds wide heads lose {recorded}`attention.scale-matters:gap_wide` points without the factor; that
# narrow ones lose less does not show.
# :::
# :::{when} attention.scale-matters negative
# Over the recorded seeds it is not: with a learning rate of its own a wide head does without the factor as well
# ({recorded}`attention.scale-matters:gap_wide` points).
# :::
# :::{when} attention.scale-matters otherwise
# The recorded seeds do not settle it yet; the card says why.
# :::
#
# ### Captions, in the larger profiles
#
# Number words are regular; captions of photographs are not. Where `TFORMER_DATA` holds Multi30k {cite:p}`elliott2016`
# and the profile leaves time for it, the same comparison runs on its English and German captions, in four groups of
# source length. The judge is BLEU {cite:p}`papineni2002`: how many of a translation's runs of one to four words stand
# in the reference as well, with a penalty for being too short.


# %%
def captions(split: str) -> list[tuple[str, str]]:
    """Lower-case captions with spaces around punctuation."""
    rows = data.load("multi30k", split)
    english, german = ([re.sub(r"([^\w\s])", r" \1 ", text.lower()) for text in rows[side]] for side in ("en", "de"))
    return list(zip(english, german, strict=True))


def common_words(texts: list[str], least: int = 3) -> data.Vocabulary:
    """Words that occur at least so often; all others are unknown."""
    counts = Counter(word for text in texts for word in text.split())
    return data.Vocabulary(sorted(word for word, n in counts.items() if n >= least), "word")


def caption_bleu(name: str, steps: int) -> list[float]:
    """BLEU of a translator in four groups of test captions, the shortest first."""
    train, test = captions("train"), sorted(captions("test"), key=lambda pair: len(pair[0].split()))
    vocabs = [common_words([pair[side] for pair in train]) for side in (0, 1)]
    examples, (source, _) = (data.encode_pairs(part, *vocabs) for part in (train, test))
    sizes = {"source_vocab": len(vocabs[0]), "target_vocab": len(vocabs[1])}
    torch.manual_seed(seed)
    model = translators[name](**sizes, embed=256, hidden=256, dropout=0.3)
    training.fit(
        model, examples, next_word_loss, steps=steps, batch_size=128, lr=1e-3,
        schedule=training.cosine(steps, warmup=steps // 8), collate=data.trim, seed=seed,
        device=run.device, label=f"captions, {name}",
    )  # fmt: skip
    written = [vocabs[1].decode(ids) for ids in greedy(model, source.to(run.device), limit=60)]
    wanted = [german for _, german in test]
    groups = [slice(i, i + 250) for i in range(0, len(test), 250)]
    return [corpus_bleu(written[part], [wanted[part]], tokenize="none", force=True).score for part in groups]


# %%
if run.profile != "quick" and data.available("multi30k"):
    caption_steps = run.pick(quick=0, colab=1500, full=6000)
    groups = ["shortest", "second", "third", "longest"]
    bleu = {name: caption_bleu(name, caption_steps) for name in ("fixed vector", "additive")}
    show.table([{"model": name, **dict(zip(groups, scores, strict=True))} for name, scores in bleu.items()])
else:
    print(f"profile {run.profile}: no captions in this run")

# %% [markdown]
# ## Look inside
#
# Where do the two translators look? Each row is a German word about to be written, each column an English word that
# could be read. The slider goes through three test sentences and both kinds of attention. (With a live kernel a
# drop-down follows that draws the second sentence anew.) German says the units before the tens, so the path has to step
# back at every *und*.

# %%
source, target = test
size_of = source_lengths.tolist()
crossing = [i for i, (_, german) in enumerate(test_pairs) if "und" in german.split()]
chosen = [min(crossing, key=lambda i: abs(size_of[i] - words)) for words in (6, 10, 14)]
maps, rows, columns = {}, {}, {}
for number, i in enumerate(chosen, 1):
    for name in ("product", "additive"):
        label = f"{number}, {name}"
        rows[label] = [*test_pairs[i][1].split(), "end"]
        columns[label] = [*test_pairs[i][0].split(), "end"]
        weights = alignment(models[name], source[i : i + 1], target[i : i + 1])[0]
        maps[label] = weights[: len(rows[label]), : len(columns[label])]

# %% tags=["hide-input"]
show.explore(
    maps,
    rows,
    columns,
    slider_label="sentence",
    alt="Attention maps of three test sentences for additive and product attention: weights from German rows to "
    "English columns, mostly one bright cell in each row, along a diagonal that steps back where German puts units "
    "before tens.",
    caption="Where a translator looks: before it writes a German word (row) it weighs the English ones (columns). "
    "Nobody told it which translates which. Move the slider for other sentences and models; hover for a weight.",
)
show.attention_widget(
    {label: maps[label] for label in maps if label.startswith("2")},
    rows["2, additive"],
    columns["2, additive"],
    label="sentence",
    alt="Attention map of a test sentence.",
    caption="The same by a live kernel.",
)

# %% [markdown]
# Try sentences of your own. The network that trained above is in this page; it is small, and it makes mistakes, more of
# them the longer the number. When it writes a wrong word, look at the row: did it read in the wrong place, or read the
# right word and write another?

# %% tags=["hide-input"]
example = test_pairs[middle := chosen[1]]
written = german_words.decode(greedy(models["additive"], source[middle : middle + 1], limit=20)[0])
probe = [tuple(ids[i : i + 1].to(run.device) for ids in test) for i in range(100)]
show.live(
    models["additive"],
    name="attention-translator",
    kind="translator",
    config={"hidden": hidden["additive"]},
    page={
        "source": english_words.tokens, "target": german_words.tokens, "begin": data.BOS, "end": data.EOS, "special": 4,
        "closed": True, "example": example[0],
        "hint": "Type a number in English words. Below, each German word with the places it was read from.",
    },
    inputs=probe,
    answer=lambda model, pair: model(pair[0], pair[1][:, :-1]),
    fallback=f"<p>{example[0]}:</p><pre>{written}</pre>",
    alt="A box for an English number; below it the German words that the network writes and a map of where it looks.",
    caption="The additive translator of this chapter, to talk to.",
)  # fmt: skip

# %% [markdown]
# {cite:t}`bahdanau2015` show such maps and find that they agree with intuition. Number words let us count: for every
# German word that has a translation of one word in the source, does the largest weight lie on a word that it
# translates? (*Und* and the end have none and are left out.) Somebody who only reads along at an even pace, and looks
# at the source word at the same share of the sentence, hits some of them as well. That is the count to beat.

# %%
meaning = {german: english for english, german in simple.items()}
meaning |= {"ein": "one", "eine": "one", "millionen": "million"}


def on_word(places: list[list[int]], *, reach: int = 0) -> float:
    """Translatable target words, in %, for which the place looked at lies within reach of a word they translate."""
    hits = []
    for (english, german), looks in zip(test_pairs, places, strict=True):
        read = [*english.split(), "end"]
        for word, j in zip(german.split(), looks, strict=False):
            if word in meaning:
                hits.append(meaning[word] in read[max(0, j - reach) : j + reach + 1])
    return 100 * sum(hits) / len(hits)


def looked_at(name: str) -> list[list[int]]:
    """For each test sentence and German word, the place of its largest weight among the English words and the end."""
    weights = zip(source_lengths.tolist(), alignment(models[name], *test), strict=True)
    return [each[:, : n + 1].argmax(-1).tolist() for n, each in weights]


def evenly(english: int, german: int) -> list[int]:
    """The places at which one looks who reads along at an even pace."""
    return [int((i + 0.5) * english / german) for i in range(german)]


assert evenly(3, 6) == [0, 0, 1, 1, 2, 2]
aligned, pace = looked_at("additive"), [evenly(len(e.split()), len(g.split())) for e, g in test_pairs]
verdicts.append(claims.report("attention.alignments-agree", on_word=on_word(aligned), at_even_pace=on_word(pace)))

# %% tags=["remove-input"]
show.glue("attention-on-word", f"{on_word(aligned):.0f} %")
show.glue("attention-even-pace", f"{on_word(pace):.0f} %")
show.glue("attention-on-word-product", f"{on_word(looked_at('product')):.0f} %")
show.glue("attention-near", f"{on_word(aligned, reach=1):.0f} %")

# %% [markdown]
# In this run additive attention points at a right word in {glue:text}`attention-on-word` of the cases, products in
# {glue:text}`attention-on-word-product`, and an even pace in {glue:text}`attention-even-pace`. Where an additive map
# misses, it rarely misses by much: its largest weight lies on a right word or next to one in
# {glue:text}`attention-near`. States of the encoder know their neighbors, so a model may read there just as well, and
# nothing in the loss asks for more. How far that goes differs from seed to seed; over the recorded ones a right word is
# hit in {recorded}`attention.alignments-agree:on_word` percent. A map tells where a model reads, not all of what it
# found there; {cite:t}`jain2019` and {cite:t}`wiegreffe2019` argue about how much it explains.
#
# How does such a map come about? The same sentence, from early in training to its end:

# %%
shape = len(rows["2, additive"]), len(columns["2, additive"])
during = {str(step): maps[middle, : shape[0], : shape[1]] for step, maps in growing.items()}
sharpness = [weights.amax(-1).mean().item() for weights in during.values()]
show.expect(sharpness[0] < sharpness[-1], "the map grows sharper")

# %% tags=["hide-input"]
show.explore(
    during,
    rows["2, additive"],
    columns["2, additive"],
    slider_label="training step",
    alt=f"The additive model's map of one sentence at {len(during)} moments of its training. The largest weight of a "
    f"row grows from {sharpness[0]:.2f} to {sharpness[-1]:.2f} on average.",
    caption="A row that is a blur makes a context that is hardly more than a fixed vector. Then the cells light up.",
)

# %% [markdown]
# And several heads? The date reader takes four narrow ones instead of a wide one, and each is free to look elsewhere.

# %%
reader, _, share, dates, source = train_reader(seed, date_rates["divided by √d"][0], head_dim=8, scale=None, heads=4)
i = max(range(len(dates)), key=lambda i: len(dates[i][0]))  # the longest way to write a date
with torch.no_grad(), record_attention() as calls:
    reader(source[i : i + 1])
heads = calls[-1][0, :, :, : len(dates[i][0])].cpu()  # (H, 10, N): ten questions, N characters
apart = torch.pdist(heads.flatten(1), torch.inf)  # the largest difference, for each two heads
show.expect(apart.min().item() > 0.2, "the heads look at different places")

# %% tags=["hide-input"]
show.explore(
    {f"head {h}": weights for h, weights in enumerate(heads, 1)},
    [f"{letter} ({part})" for letter, part in zip(dates[i][1], "YYYY-MM-DD", strict=True)],
    list(dates[i][0].replace(" ", "␣")),
    slider_label="looking with",
    alt=f"Four attention maps for the date {dates[i][0]}: rows are the ten characters of the answer, columns the "
    "characters of the source. The heads' bright cells differ.",
    caption=f"Four heads, one date. Together they get {share:.0f} % of the test dates right in profile {run.profile}.",
)

# %% [markdown]
# ## What breaks
#
# Attention is easy to get wrong in ways that train. Here are six mistakes from code that people really write, next to
# the right version. Each is a function of the scores and of what may be seen.


# %%
def hidden_scores(e: Tensor, seen: Tensor) -> Tensor:
    return e.masked_fill(~seen, -torch.inf)


versions = {
    "as it should be": safe_weights,
    "softmax over the queries": lambda e, seen: hidden_scores(e, seen).softmax(-2),
    "mask after the softmax": lambda e, seen: e.softmax(-1) * seen,
    "hidden scores set to zero": lambda e, seen: e.masked_fill(~seen, 0.0).softmax(-1),
    "additive mask, wrong sign": lambda e, seen: (e + 1e9 * ~seen).softmax(-1),
    "no division by √d": lambda e, seen: safe_weights(e * 32**0.5, seen),
    "no care for empty rows": lambda e, seen: hidden_scores(e, seen).softmax(-1),
}

# %% [markdown]
# And here are six things that are true of attention. None compares with a reference; each says what attention *means*,
# so it can be written before the code. Three of them change something that must not matter, and look whether the
# output moves.


# %%
def same(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-4)


def empty_rows_are_harmless(weigh) -> bool:
    """Whether rows that see nothing get zeros, and leave the gradient finite."""
    e = torch.randn(2, 8, requires_grad=True)
    weights = weigh(e, torch.zeros(2, 8, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(weights.square().sum(), e)
    return same(weights, torch.zeros(2, 8)) and bool(gradient.isfinite().all())


def checks(weigh, q: Tensor, k: Tensor, v: Tensor) -> dict[str, bool]:
    """What holds of attention with these weights; q, k and v are (8, 32)."""

    def attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
        return weigh(q @ k.mT / q.shape[-1] ** 0.5, seen) @ v

    every, order = torch.ones(8, 8, dtype=torch.bool), torch.randperm(8)
    plain, causal = attend(q, k, v, every), every.tril()
    longer = [torch.cat([x, torch.randn(3, 32)]) for x in (k, v)]  # and three keys of padding
    later = [torch.cat([x[:-1], torch.randn(1, 32)]) for x in (q, k, v)]  # another last token
    return {
        "weights sum to one": same(attend(q, k, torch.ones(8, 1), every), torch.ones(8, 1)),
        "padding is not seen": same(attend(q, *longer, F.pad(every, (0, 3))), plain),
        "nor is the future": same(attend(q, k, v, causal)[:-1], attend(*later, causal)[:-1]),
        "memory has no order": same(attend(q, k[order], v[order], every), plain),
        "starts undecided": attend(q, k, torch.eye(8), every).amax(-1).mean().item() < 0.6,
        "empty rows are harmless": empty_rows_are_harmless(weigh),
    }


# %%
caught = {name: checks(weigh, *torch.randn(3, 8, 32)) for name, weigh in versions.items()}
right_one, *wrong = caught.values()
assert all(right_one.values()) and not any(all(row.values()) for row in wrong)
assert all(any(row[check] for row in wrong) for check in right_one)

# %% tags=["hide-input"]
show.table(
    [{"version": name, **{check: "✓" if good else "✗" for check, good in row.items()}} for name, row in caught.items()],
    caption="Every mistake is caught by some check, and no check catches them all.",
)

# %% [markdown]
# Three remarks on the table. *Mask after the softmax* gives weights of zero in the right places, and is wrong
# nevertheless: the hidden words still take part in the sum below the fraction, so the rest of the row is too small by
# what they took. *No care for empty rows* is our own first version above, which is right until the first empty row
# comes. And *no division* fails only the check that asks about a beginning; it is not wrong about anything but the
# training.
#
# ## Ours and the paper's
#
# | What differs | Ours | The papers' | What it does |
# |---|---|---|---|
# | sentences | number words, 1 to 14 | French, German; up to 50 and more | a regular language is learned in minutes |
# | measure | exact match | BLEU | harder: one wrong word is a wrong sentence |
# | cells | torch's GRU, one layer | a GRU with its reset gate elsewhere; four stacked LSTMs | not measured |
# | fixed vector | both directions, equal parameters, thrice the steps | one direction, smaller | in its favor |
# | Luong's decoder | no input feeding | input feeding | all steps train in parallel |
# | optimizer | Adam, cosine | Adadelta; SGD | not measured |
# | heads, for $\sqrt{d}$ | 128 wide in a model of 32, the best of four rates | 64 wide in 512 | not measured |
# | decoding | greedy | beam search | not measured here; the next chapter has beams |
#
# The verdicts, by the recorded runs:

# %% tags=["hide-input"]
claims.summary(verdicts)

# %% [markdown]
# Read the first row ({verdict}`attention.gain-grows-with-length`) with the curves over training in mind. What is asked
# there is whether attention is ahead with equal parameters and a third of the steps, and whether its lead grows with
# length. That no amount of training would close the gap was never the paper's claim either.
#
# ## Questions
#
# Choose before you read on: each answer says why it is right or wrong. Which one is right was computed by this run.

# %% tags=["hide-input"]
x = torch.randn(1, 6, 8)
moved = torch.randperm(6)
plain = lambda x: scaled_dot_product(x, x, x)  # noqa: E731
follows = torch.allclose(plain(x[:, moved]), plain(x)[:, moved], atol=1e-6)
show.quiz(
    "Six tokens attend to each other, without positions. You shuffle them. What happens to the six outputs?",
    [
        ("They are shuffled in the same way.", "Each output is a mean over a set, and a set has no order.", follows),
        ("They stay as they are.", "The set is the same, but the token that asks has moved.", not follows),
        ("All of them change.", "No sum depends on the order of what is added.", False),
    ],
    name="attention-shuffled",
)
scores = torch.tensor([2.0, 1.0, 0.0])
added, doubled = (scores + 5).softmax(0), (2 * scores).softmax(0)
show.quiz(
    "You add 5 to all scores of a query. What happens to its weights?",
    [
        (
            "Nothing.",
            "The factor $e^5$ stands in every numerator and in the sum.",
            torch.allclose(added, scores.softmax(0)),
        ),
        ("The largest one grows.", "That is what *multiplying* the scores does.", bool(added[0] > doubled[0])),
        ("They become more equal.", "Only the differences of scores count, and these are as before.", False),
    ],
    name="attention-added",
)

# %% tags=["hide-input"]
counts = {h: sum(p.numel() for p in tf.layers.blocks.Attention(64, h).parameters()) for h in (1, 8)}
show.quiz(
    "A layer of width 64 has one head. You give it eight heads of width 8. What happens to its number of parameters?",
    [
        (
            "It stays the same.",
            "The four matrices are as large as before; only the sums inside are cut.",
            counts[1] == counts[8],
        ),
        ("Eight times as many.", "That would be eight heads of the *full* width.", counts[8] == 8 * counts[1]),
        ("An eighth.", "Each head is an eighth as wide, and there are eight.", 8 * counts[8] == counts[1]),
    ],
    name="attention-heads",
)

# %% [markdown]
# ## Exercises
#
# ```{exercise} The weights, for a batch
# :label: attention-weights
# :minutes: 10
# Write `weights(q, k)` for queries $(B, N, D)$ and keys $(B, M, D)$: the softmax of $q k^\top / \sqrt D$ over the keys,
# $(B, N, M)$. Write the softmax yourself. Scores of 10,000 must not overflow.
# ```
#
# ```{stub} attention-weights
# def weights(q, k):
#     raise NotImplementedError
# ```
#
# ```{admonition} Hint
# :class: dropdown
# A softmax does not change when the same number is taken from all scores of a row. Which number makes every exponent at
# most 0?
# ```
#
# ```{solution-start} attention-weights
# :class: dropdown
# ```


# %%
def weights(q: Tensor, k: Tensor) -> Tensor:
    scores = q @ k.mT / q.shape[-1] ** 0.5
    powers = (scores - scores.amax(-1, keepdim=True)).exp()
    return powers / powers.sum(-1, keepdim=True)


tf.check("attention-weights", weights)

# %% [markdown]
# ```{solution-end}
# ```
#
# ```{exercise} Another question
# :label: attention-another-question
# With the six words of the hand example, take $q = (0, \ln 2)$. Compute all weights and the context with a pencil. What
# does this query ask, and why do five words now weigh the same?
# ```
#
# ```{solution-start} attention-another-question
# :class: dropdown
# ```
#
# The scores are $\ln 2$ times the second coordinate: two for *two*, zero for all others. The powers are
# $1, 4, 1, 1, 1, 1$ and sum to 9. The query asks only what German wants early, and is blind to the first coordinate,
# where the other words differ. The context is $(6, 1, 2)/9$.

# %%
weights = (keys @ torch.tensor([0.0, math.log(2)])).softmax(-1)
assert torch.allclose(9 * weights, torch.tensor([1.0, 4, 1, 1, 1, 1]))
assert torch.allclose(9 * (weights @ values), torch.tensor([6.0, 1, 2]))

# %% [markdown]
# ```{solution-end}
# ```
#
# ```{exercise} A token meets itself
# :label: attention-itself
# In self-attention without projections a token's query is its own key. For entries of mean 0 and variance 1, normally
# distributed, compute the mean and the variance of $q \cdot q$. After division by $\sqrt{d}$, what does an untrained
# head of width 64 look at?
# ```
#
# ```{solution-start} attention-itself
# :class: dropdown
# ```
#
# Each square has mean 1 and variance 2 (the fourth moment of a normal is 3), so $q \cdot q$ has mean $d$ and variance
# $2d$. Divided by $\sqrt{d}$ the mean is $\sqrt{d}$, which is 8, while other tokens score around 0 with spread 1: the
# head looks at itself. Separate $W^Q$ and $W^K$ are not a luxury.

# %%
x = torch.randn(4096, 64)
own = (x * x).sum(-1)
print(f"mean {own.mean():.1f}, variance {own.var():.0f}")
assert abs(own.mean() / 64 - 1) < 0.03 and abs(own.var() / 128 - 1) < 0.15

tokens = x[:512].view(64, 8, 64)
weights = attention_weights(tokens[:, None], tokens[:, None])
assert weights.diagonal(dim1=-2, dim2=-1).mean() > 0.9

# %% [markdown]
# ```{solution-end}
# ```
#
# ```{exercise} A window
# :label: attention-window
# {cite:t}`luong2015` also propose *local* attention, which reads only a window of the source. Write `window(n, reach)`:
# a mask (n, n) with which token $i$ sees the tokens from $i$ − reach to $i$ + reach. Check that two layers of it carry
# information exactly twice as far as one.
# ```
#
# ```{solution-start} attention-window
# :class: dropdown
# ```


# %%
def window(n: int, reach: int) -> Tensor:
    places = torch.arange(n)
    return (places[:, None] - places).abs() <= reach


def reached(layers: int, n: int = 15, reach: int = 2) -> list[int]:
    """Tokens whose input has an influence on the middle token's output."""
    x = torch.randn(1, 1, n, 4, requires_grad=True)
    y = x
    for _ in range(layers):
        y = attention(y, y, y, mask=window(n, reach))
    (gradient,) = torch.autograd.grad(y[0, 0, n // 2].sum(), x)
    return gradient[0, 0].abs().sum(-1).nonzero().flatten().tolist()


assert reached(1) == list(range(5, 10)) and reached(2) == list(range(3, 12))

# %% [markdown]
# ```{solution-end}
# ```
#
# ```{exercise} Orders that a causal mask respects
# :label: attention-orders
# Self-attention is equivariant to all 720 orders of six tokens. How many are left under a causal mask? Guess, then let
# the machine count.
# ```
#
# ```{solution-start} attention-orders
# :class: dropdown
# ```
#
# One, the order as it is. The first token sees itself only; in any other order some token sees another set of tokens
# than before. A causal mask is information about position: how much a token sees depends on where it stands.

# %%
below = torch.ones(6, 6, dtype=torch.bool).tril()
x = torch.randn(1, 6, 16)
W = {name: torch.randn(16, 16) / 4 for name in "qkvo"}
moved = multi_head(x[0][orders], W, 4, below)
kept = (moved - multi_head(x, W, 4, below)[0][orders]).abs().amax((-2, -1)) < 1e-4
assert kept.sum() == 1 and orders[kept][0].tolist() == list(range(6))

# %% [markdown]
# ```{solution-end}
# ```
#
# ```{exercise} Break it: the heads that mixed tokens
# :label: attention-break
# A colleague merges heads with `x.reshape(B, N, C)` instead of `x.transpose(1, 2).reshape(B, N, C)`. The shapes are
# right, and the model trains. Write a test of *meaning* that catches it, without using a second implementation.
# ```
#
# ```{solution-start} attention-break
# :class: dropdown
# ```
#
# Let every token see only itself, by a diagonal mask. Then attention must return each token's own value, and with
# identity matrices the whole layer must return its input. The broken merge deals one token's heads out to several.


# %%
def broken_merge(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], x.shape[2], -1)


def returns_its_input(merge) -> bool:
    x = torch.randn(2, 6, 16)
    q = k = v = split_heads(x, 4)
    return torch.allclose(merge(scaled_dot_product(q, k, v, torch.eye(6, dtype=torch.bool))), x, atol=1e-6)


assert returns_its_input(merge_heads) and not returns_its_input(broken_merge)
assert broken_merge(split_heads(torch.randn(2, 6, 16), 4)).shape == (
    2,
    6,
    16,
)  # the test that everybody writes: passes

# %% [markdown]
# ```{solution-end}
# ```
#
# ```{exercise} How wide is wide enough?
# :label: attention-capacity
# Go back to the rotated words. For widths from 32 to 256, find the longest sentence of which 95 % of the words are read
# correctly. How does it grow with the width? (A small study; keep the seeds.)
# ```
#
# ```{solution-start} attention-capacity
# :class: dropdown
# ```


# %%
def capacity(width: int) -> int:
    """The longest sentence, in steps of a tenth, that one vector holds."""
    length = 2
    while recalled(length, width, sentences=50) >= 0.95:
        length = math.ceil(1.1 * length)
    return length


found = {width: capacity(width) for width in (32, 64, 128, 256)}
print("width: words", found)
assert 2 < found[256] / found[32] < 20  # eight times as wide: about eight times as many words

# %% [markdown]
# Nearly in proportion: a vector twice as wide holds about twice as many words. A sentence twice as long needs a model
# twice as wide, whose matrices are four times as large. A memory with one vector for each word costs twice as much.
#
# ```{solution-end}
# ```
#
# ```{exercise} Turn the temperature
# :label: attention-temperature
# Take the trained product model and multiply its scores by a factor, without training it again: half, double, a hundred
# times. How much of a translation depends on the *softness* of the choice?
# ```
#
# ```{solution-start} attention-temperature
# :class: dropdown
# ```

# %%
model = models["product"]
weight = model.decoder.attention.keys.weight
original, shares = weight.detach().clone(), {}
for factor in (0.0, 0.25, 0.5, 1.0, 2.0, 100.0):
    with torch.no_grad():
        weight.copy_(factor * original)
    shares[f"× {factor:g}"] = exact(model, *test).mean().item()
with torch.no_grad():
    weight.copy_(original)
print({factor: f"{share:.0f} %" for factor, share in shares.items()})
show.expect(shares["× 0"] < 20 and shares["× 100"] > shares["× 0"], "it is the choice that counts, not its softness")

# %% [markdown]
# With factor zero every word weighs the same, and almost nothing is right. A hard choice does well: after training the
# model hardly uses its softness. It needed it to learn where to look.
#
# ```{solution-end}
# ```
#
# ## Further reading
#
# - {cite:t}`bahdanau2015`, sections 3 and 5.2: the idea in three pages, and the maps. The long sentences are in its
#   appendix.
# - {cite:t}`luong2015`, section 3: the scores, global and local windows, and input feeding, side by side.
# - {cite:t}`vaswani2017`, section 3.2: scale, heads and masks. The variance is in a footnote.
# - {cite:t}`graves2013`: a soft window that slides along a text while a network writes it by hand, a year earlier.
# - {cite:t}`britz2017`: a large study of recurrent translators, additive against multiplicative scores among others.
# - {cite:t}`jain2019` and {cite:t}`wiegreffe2019`: whether a map of weights explains what a model does.
