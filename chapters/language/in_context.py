# ---
# jupyter:
#   jupytext: {text_representation: {extension: .py, format_name: percent}}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# (in-context)=
# # In context: learning from a handful of examples
#
# Pretraining is paid for once; labels are paid for with every task. Two papers of 2020 ask how few will do.
# {cite:t}`brown2020` write some examples into the prompt of GPT-3, and train nothing at all. {cite:t}`schick2021size`
# take a masked model some hundreds of times smaller, phrase the task as a gap to fill, and train on 32 examples, with
# unlabeled text beside them. Both put a task in a form that pretraining already knows. This chapter builds both, at a
# size that fits a CPU, and measures what the examples bring to each.
#
# After this chapter you can
# - compute by hand how well any reader of a prompt can do, and see how close a model comes;
# - draw the masks of GPT-3's dense and banded layers, and say what a band can and can't see;
# - turn a task into patterns and words, and train PET and iPET on it without falling into their traps.
#
# **Time**: a little over a minute on one CPU core; the line above says what this copy took. The larger profiles are
# sized for a quarter of an hour on a T4 and an hour on a large GPU. **Before**: {ref}`gpt`, {ref}`bert`.

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
import io
import keyword
import random
import tokenize
from collections import Counter
from copy import deepcopy
from functools import partial

import plotly.graph_objects as go
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tformerlib as tf
from tformerlib import claims, data, show, training
from tformerlib.attention import record_attention
from tformerlib.decoding.sampling import generate
from tformerlib.layers.positions import sinusoids
from tformerlib.models.bert import BERT
from tformerlib.models.gpt2 import GPT2
from tformerlib.models.gpt3 import GPT3
from tformerlib.objectives.masking import mask_tokens
from tformerlib.objectives.pet import check_labels, distillation_loss, label_scores, pet_loss, verbalize
from tformerlib.peers import prepare

# %% tags=["parameters"]
profile = "quick"  # quick: one thread of a CPU.  colab: one T4.  full: one large GPU.
seed = 0

# %%
run = tf.parameters(profile=profile, seed=seed)

# %% [markdown]
# ## The question: where is a task that no weight has seen?
#
# A secret code gives each letter a digit. Whoever has read `A 3 F 1 C 3` can answer `F ?`. Tomorrow's code is another
# one. Each row below is such a prompt: some letters, drawn again and again, each with its digit in this row's code.
# Rows to train on use one to eight of the sixteen letters, rows to test on use eight.

# %%
symbols, labels = 16, 8  # ids 0 .. 15 are letters, 16 .. 23 are digits
shots = 16
NAMES = [chr(ord("A") + i) for i in range(symbols)] + [str(i) for i in range(labels)]


def prompts(rows: int, letters: tuple[int, int], seed: int) -> Tensor:
    """(rows, 2 shots + 2) ids: pairs of a letter and its digit, by a code of the row's own, on that many letters."""
    draw = torch.Generator().manual_seed(seed)
    code = torch.randint(labels, (rows, symbols), generator=draw)
    known = torch.rand(rows, symbols, generator=draw).argsort(1)  # which letters the row uses
    count = torch.randint(letters[0], letters[1] + 1, (rows, 1), generator=draw)
    x = known.gather(1, (torch.rand(rows, shots + 1, generator=draw) * count).long())
    return torch.stack([x, symbols + code.gather(1, x)], -1).flatten(1)


most = 8
stream = prompts(run.pick(quick=20_000, colab=100_000, full=400_000), (1, most), seed)
unseen = prompts(2000, (most, most), seed + 10_000)
assert not set(map(tuple, unseen.tolist())) & set(map(tuple, stream.tolist()))
for row in unseen[:2].tolist():
    print(*(NAMES[i] for i in row[:14]), "...")

# %% [markdown]
# Can weights hold this? Count, over all training rows, which digit each letter had most often, and answer with that on
# codes that were not among them.

# %%
pairs = Counter(zip(stream[:, ::2].flatten().tolist(), stream[:, 1::2].flatten().tolist(), strict=True))
favorite = torch.tensor([max(range(symbols, symbols + labels), key=lambda y, x=x: pairs[x, y]) for x in range(symbols)])
answered = favorite[unseen[:, ::2]] == unseen[:, 1::2]
counted = 100 * answered.float().mean().item()
assert abs(counted - 100 / labels) < 3  # a fresh code owes nothing to the old ones
show.glue("icl-counted", f"{counted:.0f} %")

# %% [markdown]
# It gets {glue:text}`icl-counted` right, which is a guess among eight. Nothing about a fresh code is in the training
# text. What *can* be learned is how to read one. That is **in-context learning**: the weights hold a procedure, and the
# prompt holds the task. The examples in the prompt are called **shots**; with none the task is called zero-shot.
#
# ## By hand
#
# ### How good can a reader be?
#
# The prompt shows $K$ examples, each with one of $n$ letters, all equally likely. Then comes a letter with its digit
# missing. A perfect reader knows the digit if the letter came before, and else guesses among $L$ digits. The letter is
# missing from one example with probability $1 - \frac1n$, and from all $K$ with $(1 - \frac1n)^K$. So the best accuracy
# that anybody can have is
#
# $$ \operatorname{best}(K) = 1 - \left(1 - \tfrac1n\right)^K \left(1 - \tfrac1L\right) . $$
#
# For $n = 2$ letters and $L = 2$ digits: $\frac12, \frac34, \frac78$ for no, one and two examples. The formula should
# hold for a reader of ten lines, who looks the letter up.


# %%
def best(K: int, n: int, L: int) -> float:
    """Share of right answers that a perfect reader expects."""
    return 1 - (1 - 1 / n) ** K * (1 - 1 / L)


def look_up(row: list[int]) -> int:
    """The digit that followed the last letter of the prompt when it last came, or a guess."""
    *before, letter = row
    for place in range(len(before) - 2, -1, -2):
        if before[place] == letter:
            return before[place + 1]
    return symbols


assert [best(K, 2, 2) for K in (0, 1, 2)] == [1 / 2, 3 / 4, 7 / 8]
asked_at = [0, 1, 4, 16]  # shots at which everything below is measured
ceiling = [100 * best(K, most, labels) for K in asked_at]
for K, expected in zip(asked_at, ceiling, strict=True):
    right = [look_up(row[: 2 * K + 1]) == row[2 * K + 1] for row in unseen.tolist()]
    assert abs(100 * sum(right) / len(right) - expected) < 4
    print(f"{K:2d} examples: at best {expected:.0f} %, looked up {100 * sum(right) / len(right):.0f} %")

# %% [markdown]
# ### How does a gap become a choice?
#
# Now the second paper. Its model fills gaps, so a question becomes a text with a gap: "*The plot is thin. It was
# [MASK].*" For each answer somebody chooses words that would say it: *great* and *good* for the label yes, *bad* for
# no. The text around the gap is the **pattern**, the choice of words the **verbalizer**. Let the logits at the gap be
# $z_{\text{great}} = 1$, $z_{\text{good}} = 3$, $z_{\text{bad}} = 0$, and $9$ for some other word.
#
# A label's score is the *mean* of its words' *raw logits*: $\frac{1 + 3}{2} = 2$ for yes, $0$ for no. The softmax over
# the two labels gives $\frac{e^2}{e^2 + 1}$ for yes. The other word, though the model would rather say it than any of
# the three, counts for nothing. Each word of yes gets half of the gradient. (The formula of the paper has one word for
# each label; the mean over several is what the authors' program does.)

# %%
z = torch.tensor([[1.0, 3.0, 0.0, 9.0]], requires_grad=True)  # great, good, bad, some other word
words = [[0, 1], [2]]
scores = torch.stack([z[:, tokens].mean(-1) for tokens in words], -1)
loss = F.cross_entropy(scores, torch.tensor([0]))
(gradient,) = torch.autograd.grad(loss, z)
p_yes = scores.softmax(-1)[0, 0]
assert scores.tolist() == [[2.0, 0.0]] and torch.isclose(p_yes, torch.tensor(2.0).exp() / (torch.tensor(2.0).exp() + 1))
assert torch.allclose(gradient, torch.stack([(p_yes - 1) / 2, (p_yes - 1) / 2, 1 - p_yes, 0 * p_yes])[None])
assert torch.equal(label_scores(z, words), scores)  # the library's
print(f"p(yes) = {p_yes:.3f}, gradient on the logits {[round(g, 3) for g in gradient[0].tolist()]}")

# %% [markdown]
# ## Build it: GPT-3
#
# Two ways to use a few examples are built in this chapter. In one they are read, in the other they are learned.
#
# ```{diagram} in_context
# Left, no weight changes: examples stand in the prompt. Right, an example becomes a sentence with a gap, and a gradient
# step follows.
# ```
#
# GPT-3 is GPT-2, wider and deeper, with one change: "alternating dense and locally banded sparse attention patterns in
# the layers" {cite:p}`brown2020`. A dense layer looks at everything before. A banded layer looks at the last $w$ tokens
# only, its own included. The paper says neither how wide a band is nor which layers come first. As masks they take
# three lines.


# %%
def band(length: int, window: int | None) -> Tensor:
    """(N, N), True where the row may look at the column."""
    back = torch.arange(length)[:, None] - torch.arange(length)
    return (back >= 0) & (back < (window or length))


def reach(*layers: Tensor) -> Tensor:
    """Which tokens can have any effect on which, through layers with these masks: a path of one step per layer."""
    paths = torch.eye(len(layers[0]))
    for mask in layers:
        paths = mask.float() @ paths
    return (paths > 0).float()


dense, narrow = band(12, None), band(12, 3)
assert narrow.sum() == 3 * 12 - 3 and dense.sum() == 12 * 13 / 2
assert torch.equal(reach(narrow, narrow), band(12, 5).float())  # w - 1 further back with each band
assert torch.equal(reach(dense, narrow), dense.float())  # one dense layer, and all is within reach

# %% tags=["hide-input"]
pictures = {
    "a dense layer": dense,
    "a band of 3": narrow,
    "reach of two bands": reach(narrow, narrow),
    "reach of a band and a dense layer": reach(narrow, dense),
}
show.explore(
    {name: mask.float() for name, mask in pictures.items()},
    [f"token {i}" for i in range(12)],
    [str(i) for i in range(12)],
    slider_label="mask",
    alt="Four masks over twelve tokens: a full lower triangle for a dense layer, a strip three wide along the diagonal "
    "for a band, a strip five wide for what two bands reach, and the full triangle for a band with a dense layer.",
    caption="Rows look at the columns that are lit. A band is cheap and short-sighted; a dense layer makes up for it.",
)

# %% [markdown]
# A band saves work: with $N$ tokens a dense layer scores $N(N+1)/2$ pairs, a band less than $wN$. For $N = 2048$,
# GPT-3's context, and a band of $256$, say, that is two million pairs against half a million. The saving is one of time
# only where the program skips what the mask hides; a mask over all pairs computes them first.
#
# ## The library's version
#
# `GPT3` is `GPT2` with `windows=(None, w)`, repeated over the layers. We hold it against GPT-2 of Hugging Face
# transformers with the same wide random weights: as it is, for dense layers, and with our masks put into every second
# layer. A band that were one token off would fail by far.

# %%
prepare()
from transformers import GPT2Config, GPT2LMHeadModel  # slow to import

size = {"vocab": 30, "dim": 16, "depth": 4, "heads": 2, "context": 12}
theirs = GPT2LMHeadModel(
    GPT2Config(vocab_size=30, n_embd=16, n_layer=4, n_head=2, n_positions=12, bos_token_id=None, eos_token_id=None,
               attn_implementation="eager")
).eval()  # fmt: skip
for name, p in theirs.named_parameters():
    nn.init.normal_(p, mean=float(p.ndim == 1 and name.endswith("weight")), std=0.3)  # far from where training starts


def look_through(mask: Tensor, block: nn.Module, inputs: tuple, options: dict) -> tuple[tuple, dict]:
    """Gives their block our mask: 0 where it may look, a very large negative number elsewhere."""
    hidden = torch.zeros(1, 1, 12, 12).masked_fill(~mask, torch.finfo(torch.float32).min)
    inputs = tuple(hidden if isinstance(x, Tensor) and x.ndim == 4 else x for x in inputs)
    return inputs, {key: hidden if key == "attention_mask" else x for key, x in options.items()}


ids = torch.randint(30, (2, 12))
for window in (None, 3):
    ours = tf.load_published(GPT3(**size, window=window), theirs.state_dict()).eval()
    handles = [
        block.register_forward_pre_hook(partial(look_through, band(12, window if i % 2 else None)), with_kwargs=True)
        for i, block in enumerate(theirs.transformer.h)
    ]
    with torch.no_grad():
        error = (ours(ids) - theirs(ids).logits).abs().max().item()
        off_by_one = tf.load_published(GPT3(**size, window=(window or 12) - 1), theirs.state_dict()).eval()
        assert (off_by_one(ids) - theirs(ids).logits).abs().max() > 1e-3
    for handle in handles:
        handle.remove()
    show.parity(f"GPT3(window={window}) against GPT2LMHeadModel with our masks", error, tolerance=2e-5)

# %% [markdown]
# All eight sizes are registered. Their parameters, beside the paper's table:

# %%
printed = {
    "gpt3_small": "125 M", "gpt3_medium": "350 M", "gpt3_large": "760 M", "gpt3_xl": "1.3 B", "gpt3_2_7b": "2.7 B",
    "gpt3_6_7b": "6.7 B", "gpt3_13b": "13.0 B", "gpt3_175b": "175.0 B",
}  # fmt: skip
rows = []
for name, paper in printed.items():
    with torch.device("meta"):  # shapes without memory
        model = tf.create_model(name)
    C, depth, count = model.tokens.embedding_dim, len(model.blocks), sum(p.numel() for p in model.parameters())
    rows.append({"model": name, "layers": depth, "width": C, "paper": paper, "ours": count,
                 "bytes in half precision": f"{2 * count / 1e9:.1f} GB"})  # fmt: skip
show.table(rows, caption="Two rows of the paper's table do not multiply: the docstrings in `models/gpt3.py` say which.")

# %% [markdown]
# What does it do with a prompt that it can't read? It says so: too long for its context, empty, or with an id that the
# vocabulary does not have.

# %%
for bad in ([[1] * 11], [[]], [[30]]):
    try:
        generate(ours, bad, tokens=4)
        raise AssertionError("not refused")
    except ValueError as error:
        print("refused:", error)

# %% [markdown]
# ## The first experiment: examples in the prompt, at three sizes
#
# {cite:t}`brown2020` show that the accuracy gained by more examples is larger for larger models. Ours are three widths
# with two layers each, trained on the same rows in the same order, with a loss on the digits alone. What they are
# tested on are codes that were not in the training set.
#
# Which layer gets the band? In {ref}`gpt` you saw an **induction head** {cite:p}`olsson2022`, which takes two layers: a
# head of the earlier one writes into each token what stood before it, and a head of the later one searches for that. In
# `A 3 F 1 A ?` the first writes "after A" into the `3`; the second, at the last `A`, looks for "after A" and finds the
# digit. The first needs to see one token back, the second everything. So the band goes into the first layer here. The
# library's `GPT3` begins with the dense layer, as GPT-Neo does; we will try that order, too.

# %%
widths, rates = run.pick(
    quick=((8, 16, 32), (1e-2, 8e-3, 5e-3)),
    colab=((16, 32, 64), (8e-3, 5e-3, 3e-3)),
    full=((16, 64, 128), (8e-3, 3e-3, 1e-3)),
)
steps, batch_size = run.pick(quick=(400, 32), colab=(600, 64), full=(1000, 128))


def small_start(model: nn.Module, dim: int, tokens: float = 1.0) -> nn.Module:
    """The published spread of the weights suits a width of 768; narrow models begin with larger ones, in proportion."""
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 2:
                p.mul_((768 / dim) ** 0.5)
        model.tokens.weight.mul_(tokens)
    return model


# %%
def digit_loss(model: nn.Module, rows: Tensor) -> Tensor:
    """Mean of -ln p of each digit, given everything before it."""
    return F.cross_entropy(model(rows[:, :-1])[:, ::2].flatten(0, 1), rows[:, 1::2].flatten())


@torch.no_grad()
def right_after(model: nn.Module, rows: Tensor) -> Tensor:
    """(shots + 1,) percent of right digits after 0, 1, 2, ... examples."""
    guesses = [model(part[:, :-1].to(run.device))[:, ::2, symbols:].argmax(-1).cpu() for part in rows.split(500)]
    return 100 * (torch.cat(guesses) + symbols == rows[:, 1::2]).float().mean(0)


def reader(
    dim: int, lr: float, windows: tuple[int | None, ...], rows: Tensor = stream, steps: int = steps
) -> tuple[GPT2, Tensor]:
    """A trained model of two layers, and its accuracy on unseen codes after each number of examples."""
    torch.manual_seed(seed)
    model = GPT2(vocab=symbols + labels, dim=dim, depth=2, heads=1, context=2 * shots + 2, dropout=0.0, windows=windows)
    training.fit(
        small_start(model, dim, tokens=3.0), rows, digit_loss, steps=steps, batch_size=batch_size, lr=lr, seed=seed,
        schedule=training.cosine(steps, steps // 20), device=run.device, label=f"width {dim}, windows {windows}",
        checkpoint=run.checkpoint(f"width {dim}, windows {windows}"),
    )  # fmt: skip
    return model, right_after(model, unseen)


# %%
readers = {dim: reader(dim, lr, (4, None)) for dim, lr in zip(widths, rates, strict=True)}
curves = {f"width {dim}": right for dim, (_, right) in readers.items()}
gains = [(right[16] - right[0]).item() for _, right in readers.values()]


def rank_correlation(x: list[float], y: list[float]) -> float:
    """Spearman's: the correlation of the ranks."""
    ranks = [torch.tensor(values).argsort().argsort().float() for values in (x, y)]
    return torch.corrcoef(torch.stack(ranks))[0, 1].item()


order = rank_correlation(list(map(float, widths)), gains)
assert rank_correlation([1, 2, 3], [5, 7, 20]) == 1 and rank_correlation([1, 2, 3], [9, 5, 1]) == -1

# %% tags=["hide-input"]
show.glue("icl-gain-small", f"{gains[0]:.0f}")
show.glue("icl-gain-large", f"{gains[-1]:.0f}")
show.glue("icl-ceiling", f"{ceiling[-1]:.0f} %")
show.glue("icl-large", f"{curves[f'width {widths[-1]}'][16]:.0f} %")
show.lines(
    list(range(shots + 1)),
    {"at best": [100 * best(K, most, labels) for K in range(shots + 1)], **curves},
    x_label="examples in the prompt",
    y_label="right on unseen codes, percent",
    alt="Percent of right digits over the number of examples, from none to sixteen: the best possible as an upper "
    "curve, and one curve for each of three widths.",
    caption=f"Codes that were not in the training set, profile {run.profile}. No weight changes along a curve.",
)
show.table(
    [
        {"model": name, **{f"{K} examples": right[K].item() for K in asked_at}, "gain": (right[16] - right[0]).item()}
        for name, right in curves.items()
    ]
    + [
        {
            "model": "at best",
            **{f"{K} examples": c for K, c in zip(asked_at, ceiling, strict=True)},
            "gain": ceiling[-1] - ceiling[0],
        }
    ],
    caption="Percent of right digits. The gain is what sixteen examples bring: the last number minus the first.",
)

# %%
verdicts = [claims.report("gpt-3.few-shot-gain-grows", order=order, few_shot_gain=gains[-1])]

# %% [markdown]
# Sixteen examples are worth {glue:text}`icl-gain-small` points to the smallest model and {glue:text}`icl-gain-large`
# to the largest, which ends at {glue:text}`icl-large` right; the best possible is {glue:text}`icl-ceiling`. A model
# that only notices *which digits* the prompt has, and guesses among those, gains some points as well, without reading
# the code. An exercise computes how many.
#
# Three things keep this from being GPT-3. Ours are trained on nothing but such prompts, while GPT-3 is trained on text
# in which something like prompts turns up by itself. They have the same depth and differ in width, each with a learning
# rate of its own, and a size that fails here might succeed with more steps. And three points always make some order: of
# the six that there are, one is the claimed one, so luck alone finds it once in six.
#
# ### Does the band help?
#
# The same width and the same steps, with the windows of the two layers put differently.

# %%
arrangements = {"band, dense": (4, None), "dense, dense": (None,), "dense, band": (None, 4)}
by_order = {"band, dense": readers[widths[-1]][1]}
for name in ("dense, dense", "dense, band"):
    by_order[name] = reader(widths[-1], rates[-1], arrangements[name])[1]
show.expect(by_order["band, dense"][16] > by_order["dense, dense"][16], "the band in the first layer helps")
show.lines(
    list(range(shots + 1)),
    by_order,
    x_label="examples in the prompt",
    y_label="right on unseen codes, percent",
    alt="Percent of right digits over the number of examples for three arrangements of a band and a dense layer.",
    caption=f"First layer, second layer: width {widths[-1]}, {steps} steps each, profile {run.profile}.",
)

# %% [markdown]
# A dense layer can do all that a band can, so two dense layers *could* read the code as well. But they have to find
# out that the token just before is worth a look, out of all that came before; a band of four leaves little else to look
# at. In our pilots two dense layers stayed far below the best possible for twelve hundred steps. With the band in
# the *last* layer the search itself is cut off. Why, if one dense layer puts everything within reach, as we saw? Reach
# is not enough: the search has to come *after* the copy, and here the only layer that can see far comes before it.
# Neither is a statement about GPT-3, which has at least six layers of each kind.
#
# ## The second experiment: what does the band cost?
#
# Copying wants a band in the right place. Does ordinary text mind one? Now we train on Python source, with more layers,
# and with the bands of `GPT3` in every second of them. Dense or banded, the model has the same parameters and steps,
# and the same tokens in the same order.

# %%
context, window = run.pick(quick=(64, 16), colab=(256, 64), full=(512, 128))
shape, lr = run.pick(
    quick=({"dim": 48, "depth": 4, "heads": 2}, 6e-3),
    colab=({"dim": 192, "depth": 4, "heads": 4}, 2e-3),
    full=({"dim": 384, "depth": 6, "heads": 6}, 1e-3),
)
text_steps, text_batch = run.pick(quick=(250, 8), colab=(1200, 32), full=(2500, 32))
seen_files, held_files = data.split_packages(data.standard_library())
texts = [file.text for file in seen_files[:: run.pick(quick=10, colab=1, full=1)]]
byte_tokens = data.byte_bpe(texts, vocab := run.pick(quick=512, colab=4096, full=8192))
source = data.token_stream(texts, byte_tokens)
held = data.windows(data.token_stream([file.text for file in held_files[::4]], byte_tokens), context + 1)
held = held[:: max(1, len(held) // 300)]


def text_loss(model: nn.Module, rows: Tensor) -> Tensor:
    """Mean of -ln p of each next token."""
    return F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())


def read_text(window: int | None) -> float:
    """Loss on held-out packages after training, in nats a token."""
    torch.manual_seed(seed)
    model = small_start(GPT3(vocab=vocab, context=context, window=window, **shape), shape["dim"])
    training.fit(
        model, data.windows(source, context + 1, stride=1), text_loss, steps=text_steps, batch_size=text_batch, lr=lr,
        schedule=training.cosine(text_steps, text_steps // 10), betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1,
        seed=seed, device=run.device, label=f"window {window}", checkpoint=run.checkpoint(f"window {window}"),
    )  # fmt: skip
    with torch.no_grad():
        return sum(text_loss(model, part.to(run.device)).item() * len(part) for part in held.split(50)) / len(held)


# %%
text_losses = {"dense": read_text(None), f"bands of {window}": read_text(window)}
extra = 100 * (text_losses[f"bands of {window}"] / text_losses["dense"] - 1)
pairs_scored = [int(band(context, w).sum()) for w in (None, window)]
show.glue("icl-extra", f"{extra:+.1f} %")
show.glue("icl-pairs", f"{pairs_scored[1] / pairs_scored[0]:.0%}")
show.table(
    [
        {"layers": name, "held-out loss": loss, "pairs scored in layers 2 and 4": count}
        for (name, loss), count in zip(text_losses.items(), pairs_scored, strict=True)
    ],
    caption=f"Nats a token on held-out packages, {context} tokens of context, profile {run.profile}.",
)
verdicts.append(claims.report("gpt-3.bands-cost-little", extra=extra))

# %% [markdown]
# The banded layers score {glue:text}`icl-pairs` of the pairs of a dense one, and the loss changes by
# {glue:text}`icl-extra`. On text most of what helps to predict a token should be near, and what is far comes through
# the dense layers. With each seed that we tried in profile `quick` the banded model was even a little *better*. Don't
# read much into it: the difference is far below what the claim allows, the context is short, and a band may only be
# learned sooner. Two short trainings can say "about the same" and not more. The paper does not show a comparison, so
# this is a check of a choice, not of a result.
#
# ## Look inside: the example that answers
#
# Back to the codes. The largest reader sees more and more of one prompt, and is asked for the digit of the same letter
# each time. Drag the slider. On the left is where the second layer's head looks from the letter that asks; on the right
# are the probabilities of the digits.

# %%
asking, _ = readers[widths[-1]]
asking = asking.cpu().eval()
scores_of = [(row[:-2] == row[-2]).nonzero().flatten() for row in unseen[:300]]
chosen = next(i for i, places in enumerate(scores_of) if len(places) >= 2 and 6 <= places[0] <= 14)  # comes twice, late
*given, letter, answer = unseen[chosen].tolist()
first = given.index(letter) // 2 + 1  # so many examples until the letter was seen
looks, beliefs = [], []
for K in range(shots + 1):
    ids = torch.tensor([[*given[: 2 * K], letter]])
    with torch.no_grad(), record_attention() as weights:
        beliefs.append(asking(ids)[0, -1, symbols:].softmax(-1))
    looks.append(weights[1][0, 0, -1])
assert all(abs(look.sum() - 1) < 1e-5 and len(look) == 2 * K + 1 for K, look in enumerate(looks))

# %% tags=["hide-input"]
figures = {}
places = list(range(2 * shots + 1))
for K, (look, belief) in enumerate(zip(looks, beliefs, strict=True)):
    weight = [*look[:-1].tolist(), *[0.0] * (2 * (shots - K)), look[-1].item()]
    figures[f"{K} examples"] = go.Figure(
        [
            go.Bar(x=places, y=[round(v, 3) for v in weight], name="attention"),
            go.Bar(x=[str(i) for i in range(labels)], y=[round(v, 3) for v in belief.tolist()], xaxis="x2",
                   name="probability"),
        ],
        {"xaxis": {"domain": [0, 0.7], "tickvals": [*(2 * i + 0.5 for i in range(shots)), 2 * shots], "tickangle": -90,
                   "tickfont": {"size": 9}, "title": {"text": "the prompt"},
                   "ticktext": [*(NAMES[x] + NAMES[y] for x, y in zip(given[::2], given[1::2], strict=True)),
                                f"{NAMES[letter]}?"]},
         "xaxis2": {"domain": [0.78, 1], "type": "category", "title": {"text": "digit"}},
         "yaxis": {"range": [0, 1]}, "height": 360, "showlegend": False},
    )  # fmt: skip
show.slider(
    figures,
    slider_label="the prompt has",
    alt=f"Attention of the second layer's head over a prompt that grows from no example to sixteen, and the "
    f"probabilities of eight digits. The letter {NAMES[letter]} is asked for; it first stands in example {first}, "
    f"with the digit {NAMES[answer]}.",
    caption=f"Asked for {NAMES[letter]}, whose digit is {NAMES[answer]}. Its first example is number {first}. Above "
    "each example stand two bars: one for the letter, one for the digit.",
)
show.expect(beliefs[-1].argmax() + symbols == answer, "the whole prompt leads to the right digit")

# %% [markdown]
# What should you see? While the letter has not come, attention has no good place to be, and a careful model guesses,
# among the digits of the prompt if it has learned to count them. When it comes, a head that reads jumps to the *digit*
# beside it. On the digit, not on the letter: if the first layer does its part, it has written the letter
# into the digit.
#
# How does that look over many prompts? For each layer's head, the mean weight on the token just before, seen from the
# digits, and on digits whose letter is the one that asks.

# %%
with torch.no_grad(), record_attention() as weights:
    asking(unseen[:500, :-1])
letters_at = torch.arange(0, 2 * shots + 1, 2)
same = unseen[:500, letters_at][:, :, None] == unseen[:500, :-1][:, None]  # (B, asks, places): the same letter there
earlier = torch.arange(2 * shots + 1) < letters_at[:, None]
beside = F.pad((same & earlier)[..., :-1], (1, 0))  # one to the right of it: its digit
known = beside.any(-1)
rows = []
for layer, each in enumerate(weights, 1):
    back = each[:, 0].diagonal(-1, 1, 2)[:, ::2].mean().item()  # from every digit to the letter before it
    found = (each[:, 0][:, letters_at] * beside).sum(-1)[known].mean().item()
    rows.append({"layer": layer, "from a digit to the letter before it": back, "from a letter to its digits": found})
show.table(rows, caption="Mean attention weights over 500 unseen prompts, where the letter has come before.")

# %% [markdown]
# A copying pair of heads should show in two cells of this table: the first layer's from a digit to its letter, and the
# second layer's from a letter to its digits. With each seed that we ran in profile `quick` these two were by far the
# largest. Attention weights show where a head looks and not what it does with that; to be sure, one would switch
# it off.
#
# ## Build it: PET
#
# Now the other way to use a few examples: train on them, but ask in a form that pretraining knows.
#
# ### The task
#
# A snippet of code has lost one token. Of what *kind* was it: prose (inside a comment or a string), a keyword, a name,
# or a sign, such as a bracket or a comma? Python's own tokenizer has the answers. Snippets come from packages that
# pretraining does not see, half of the packages for labels and half for the test. Four kinds, equally often.

# %%
KINDS = ["prose", "keyword", "name", "sign"]
PAD, UNK, CLS, SEP, MASK = range(5)
half = run.pick(quick=14, colab=30, full=62)  # tokens on each side of the gap
length = 2 * half + 3
body_files = seen_files[:: run.pick(quick=5, colab=1, full=1)]
tokenizer = data.word_piece([file.text for file in body_files], run.pick(quick=600, colab=4000, full=8000))


def kinds_of(text: str) -> bytearray:
    """For each character 1 + the number of its kind; 0 for white space and numbers."""
    starts, kinds = [0], bytearray(len(text))
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    strings = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        kind = 1 if token.type in strings else 4 if token.type == tokenize.OP else 0
        if token.type == tokenize.NAME:
            kind = 2 if keyword.iskeyword(token.string) else 3
        (first, column), (last, end) = token.start, token.end
        a, b = starts[first - 1] + column, starts[last - 1] + end
        if kind:
            kinds[a:b] = bytes([kind]) * (b - a)
    return kinds


assert list(kinds_of("if x: # y")) == [2, 2, 0, 3, 4, 0, 1, 1, 1]


# %%
def snippets(files: list[data.Source], count: int, seed: int) -> tuple[Tensor, Tensor]:
    """(count, 2 half) ids of what stands around a gap, and (count,) kinds of what stood in it."""
    draw = random.Random(seed)
    files = draw.sample(files, min(len(files), run.pick(quick=30, colab=200, full=200)))
    encoded = [(tokenizer.encode(file.text), kinds_of(file.text)) for file in files]
    encoded = [(e.ids, e.tokens, e.offsets, kinds) for e, kinds in encoded if len(e.ids) > 2 * half + 1]
    lengths, wanted, rows = [len(ids) for ids, *_ in encoded], [count // len(KINDS)] * len(KINDS), []
    while sum(wanted):
        ids, tokens, offsets, kinds = draw.choices(encoded, lengths)[0]
        start = draw.randrange(len(ids) - 2 * half)
        gap = start + half
        found = set(kinds[slice(*offsets[gap])])
        if len(found) != 1 or found == {0} or tokens[gap].startswith("##"):  # the rest of a word tells its kind
            continue
        kind = found.pop() - 1
        if wanted[kind]:
            wanted[kind] -= 1
            rows.append((ids[start:gap] + ids[gap + 1 : gap + half + 1], kind))
    draw.shuffle(rows)
    return torch.tensor([ids for ids, _ in rows]), torch.tensor([kind for _, kind in rows])


packages = sorted({file.package for file in held_files})
sides = [[file for file in held_files if packages.index(file.package) % 2 == side] for side in (0, 1)]
splits, few = run.pick(quick=3, colab=5, full=5), 32
pool = snippets(sides[0], splits * few + run.pick(quick=1200, colab=4000, full=8000), seed)
exam = snippets(sides[1], run.pick(quick=800, colab=2000, full=2000), seed + 10_000)
for ids, kind in zip(exam[0][:4].tolist(), exam[1][:4].tolist(), strict=True):
    print(f"{KINDS[kind]:8}", tokenizer.decode(ids[half - 7 : half]), "«?»", tokenizer.decode(ids[half : half + 7]))

# %% [markdown]
# ### Patterns and words
#
# Three patterns show the same snippet differently: all of it, what stands before the gap, what stands after it. Each
# trains a model of its own, and the three will teach a fourth. The words were chosen by us, by common sense and before
# any training: five for each kind.

# %%
WORDS = [
    ["the", "a", "of", "to", "is"],
    ["if", "return", "for", "not", "in"],
    ["self", "name", "len", "os", "value"],
    ["(", ".", "=", ",", ":"],
]
verbalizer = verbalize(WORDS, tokenizer)


def patterns(ids: Tensor) -> dict[str, Tensor]:
    """Snippets (P, 2 half) in three forms (P, length), each with one [MASK]."""
    first, gap, last = (torch.full((len(ids), 1), token) for token in (CLS, MASK, SEP))
    before, after = ids[:, :half], ids[:, half:]
    forms = {"all": [first, before, gap, after, last], "before": [first, before, gap, last],
             "after": [first, gap, after, last]}  # fmt: skip
    return {name: F.pad(form := torch.cat(parts, 1), (0, length - form.shape[1])) for name, parts in forms.items()}


def gap_logits(model: nn.Module, rows: Tensor) -> Tensor:
    """(B, V) logits at the gap of each row."""
    places = (rows == MASK).flatten().nonzero()[:, 0]
    return model(rows, None, places)[0]


for name, form in patterns(exam[0][:1]).items():
    print(f"{name:7}", tokenizer.decode(form[0].tolist(), skip_special_tokens=False).replace("[PAD]", "").strip()[:110])

# %% [markdown]
# A gap holds one token. What if somebody wants to say a label with a word of several, or forgets a label altogether?
# ({cite:t}`schick2021size` put several gaps for such words. Our version refuses them.)

# %%
for bad in ([["the"], ["unquestionably"]], [["the"], ["漢"]], [["the"], []], [["the"], ["the"]]):
    try:
        label_scores(torch.zeros(1, tokenizer.get_vocab_size()), verbalize(bad, tokenizer))
        raise AssertionError("not refused")
    except ValueError as error:
        print("refused:", error)
try:
    check_labels(torch.tensor([0, 0, 2, 3]), len(KINDS), every=True)
    raise AssertionError("not refused")
except ValueError as error:
    print("refused:", error)

# %% [markdown]
# ### The masked model
#
# A BERT of two layers, trained to fill gaps in the other packages, as in {ref}`bert`. It has never been told what a
# kind is.

# %%
size = run.pick(
    quick={"dim": 48, "depth": 2, "heads": 4, "hidden": 192},
    colab={"dim": 256, "depth": 4, "heads": 4, "hidden": 1024},
    full={"dim": 512, "depth": 8, "heads": 8, "hidden": 2048},
)
filling = run.pick(
    quick={"steps": 400, "batch_size": 48, "lr": 3e-3},
    colab={"steps": 4000, "batch_size": 128, "lr": 5e-4},
    full={"steps": 30_000, "batch_size": 256, "lr": 2e-4},
)


def filled(model: nn.Module, ids: Tensor) -> Tensor:
    """Loss of masked language modeling."""
    masked = mask_tokens(ids, vocab=model.vocab, mask=MASK, special=range(5))
    return F.cross_entropy(model(masked.ids, None, masked.places)[0], masked.targets)


def masked_model(rows: Tensor, vocab: int, steps: int | None = None) -> BERT:
    """A BERT that has learned to fill gaps in these rows (P, N); narrow, so it begins with larger weights and waves."""
    torch.manual_seed(seed)
    model = BERT(vocab=vocab, context=rows.shape[1], dropout=run.pick(quick=0.0, colab=0.1, full=0.1), **size)
    for p in model.parameters():
        if p.ndim > 1:
            nn.init.trunc_normal_(p, std=0.02 * (768 / model.dim) ** 0.5)
    with torch.no_grad():
        model.embed.positions.weight.copy_(0.2 * sinusoids(*model.embed.positions.weight.shape))
    settings = filling | ({"steps": steps} if steps else {})
    training.fit(
        model, rows, filled, **settings, schedule=training.cosine(settings["steps"], settings["steps"] // 10),
        weight_decay=0.01, seed=seed, device=run.device, label="fill gaps", checkpoint=run.checkpoint("fill gaps"),
    )  # fmt: skip
    return model


# %%
source = data.token_stream([file.text for file in body_files], tokenizer, "[SEP]")
rows = data.windows(source, length - 2, stride=(length - 2) // 3)
rows = F.pad(F.pad(rows, (1, 0), value=CLS), (0, 1), value=SEP)
body = masked_model(rows, tokenizer.get_vocab_size())
with torch.no_grad():
    gap_loss = filled(body, rows[:: max(1, len(rows) // 1000)].to(run.device)).item()
frequency = torch.bincount(source[source >= 5]) / (source >= 5).sum()
known_by_count = torch.special.entr(frequency).sum().item()
show.glue("pet-gap-loss", f"{gap_loss:.2f}")
show.glue("pet-by-count", f"{known_by_count:.2f}")

# %% [markdown]
# How much does it know? Its loss on gaps, in the text that it was trained on, is {glue:text}`pet-gap-loss` nats. A
# model that knows how frequent each token is, and looks at nothing, would have {glue:text}`pet-by-count`. What lies
# between the two is what this masked model has learned from context (and from the few chosen tokens that the masking of
# BERT leaves in view), and what a question can draw out of it. If they are close, as they are for a long while in the
# beginning of a training, expect little of what follows.

# %%


@torch.no_grad()
def answers(model: nn.Module, rows: Tensor, words: list[list[int]] = verbalizer) -> Tensor:
    """(P, labels) scores of a model that fills gaps."""
    return torch.cat([label_scores(gap_logits(model, part.to(run.device)), words).cpu() for part in rows.split(500)])


def percent(scores: Tensor, labels: Tensor) -> float:
    return 100 * (scores.argmax(-1) == labels).float().mean().item()


exam_rows = patterns(exam[0])
zero_shot = {name: percent(answers(body, rows), exam[1]) for name, rows in exam_rows.items()}
show.glue("pet-zero-shot", f"{zero_shot['all']:.0f} %")
show.bars(
    zero_shot,
    y_label="right without any label, percent",
    alt="Accuracy without any labeled example for three patterns: the whole snippet, before the gap, after the gap.",
    caption="No training on the task at all; guessing among four kinds gets 25.",
)

# %% [markdown]
# Before any label, with all of the snippet, {glue:text}`pet-zero-shot` are right. What lies above a guess is what the
# form of the question brings with it.
#
# ### Which words say it?
#
# A word is a good choice for a label if its logit is high at gaps of that kind and low at the others. For each pattern:
# the mean logit of each word by kind of gap, less the word's mean over all gaps. The words of a kind stand together, so
# a good verbalizer makes a staircase of red blocks.

# %%
everything = [word for group in WORDS for word in group]
told = {}
for name, rows in exam_rows.items():
    with torch.no_grad():
        logits = torch.cat([gap_logits(body, part.to(run.device)).cpu() for part in rows.split(500)])
    logits = logits[:, [i for group in verbalizer for i in group]]
    by_kind = torch.stack([logits[exam[1] == kind].mean(0) for kind in range(len(KINDS))], 1)  # (words, kinds)
    told[name] = by_kind - logits.mean(0)[:, None]
    assert told[name].mean(1).abs().max() < 1e-4  # the kinds are equally frequent, so each word's row sums to zero

# %% tags=["hide-input"]
show.explore(
    told,
    everything,
    KINDS,
    slider_label="pattern",
    alt="For each of three patterns, a table of twenty words by four kinds of gaps: how far a word's logit lies above "
    "or below its mean.",
    caption="Logits above (red) and below (blue) the word's mean. A word that is pale in all columns says nothing.",
)
best_words = {kind: everything[int(told["all"][:, i].argmax())] for i, kind in enumerate(KINDS)}
print("says its kind best, with the whole snippet:", best_words)

# %% [markdown]
# Does the staircase come out? With each seed that we ran in profile `quick`, one word was the best for more than one
# kind. So common sense about words is not what a small masked model goes by. We keep the words all the same: to choose
# them again by the exam would be to train on it.
#
# ### Training on 32 labels
#
# {cite:t}`schick2021exploiting` train in three steps.
#
# 1. For each pattern, the masked model is trained on the labeled examples, by the cross-entropy over the *labels'
#    scores*, with weight `1 - 1e-4`. The loss of filling gaps in unlabeled text is kept beside it, with weight `1e-4`:
#    it is by far the larger of the two, and meant as a reminder only.
# 2. All of them together label the unlabeled examples: their scores are averaged.
# 3. A plain classifier, with a new head on the same masked model, learns those soft labels, at temperature 2. This is
#    what is kept: one model, without patterns.
#
# A **temperature** divides all scores before the softmax, the teachers' and the student's. At temperature 2 the scores
# $(4, 0)$ become $(2, 0)$, and the shares $0.98$ and $0.02$ become $0.88$ and $0.12$: what the teachers think of the
# other labels is easier to see. But gradients shrink, by a half as the scores are divided, and by about another half
# as the shares of teachers and student come closer. So the loss is multiplied by $2^2$, the square of the temperature.
#
# The library's losses, against the formulas:

# %%
scores, targets = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
reminder = torch.tensor(5.0)
by_hand = -(1 - 1e-4) * scores.log_softmax(-1)[range(6), targets].mean() + 1e-4 * reminder
show.parity("loss of PET", (pet_loss(scores, targets, reminder) - by_hand).abs().item(), tolerance=1e-6)
teachers = torch.randn(6, 4)
p, q = (teachers / 2).softmax(-1), (scores / 2).softmax(-1)
by_hand = 2**2 * (p * (p / q).log()).sum(-1).mean()
show.parity("loss of the last step", (distillation_loss(scores, teachers) - by_hand).abs().item(), tolerance=1e-6)

# %%
tuning = run.pick(
    quick={"steps": 30, "final": 80, "lr": 1e-3, "head_lr": 1e-3},
    colab={"steps": 100, "final": 500, "lr": 1e-4, "head_lr": 1e-4},
    full={"steps": 250, "final": 2000, "lr": 3e-5, "head_lr": 3e-5},
)


class Classifier(nn.Module):
    """The usual way: a new layer on the first token's vector. Rows (B, N) to scores (B, labels)."""

    def __init__(self, body: BERT, kinds: int) -> None:
        super().__init__()
        self.body, self.score = deepcopy(body), nn.Linear(body.dim, kinds)
        nn.init.normal_(self.score.weight, std=0.02)
        nn.init.zeros_(self.score.bias)

    def forward(self, rows: Tensor) -> Tensor:
        return self.score(self.body.pool(self.body.encode(rows)))


def tune(model: nn.Module, examples: tuple[Tensor, Tensor], loss, steps: int, lr: float) -> nn.Module:
    """The same short training for all of them."""
    training.fit(
        model, examples, loss, steps=steps, batch_size=16, lr=lr, schedule=training.cosine(steps, steps // 10),
        weight_decay=0.01, seed=seed, device=run.device, progress=False,
    )  # fmt: skip
    return model


def classifier(body: BERT, rows: Tensor, targets: Tensor, kinds: int, steps: int) -> nn.Module:
    """A plain classifier, from labels (P,), or from soft scores (P, labels) of others."""
    torch.manual_seed(seed + 1)
    soft = targets.ndim == 2
    loss = distillation_loss if soft else F.cross_entropy
    return tune(Classifier(body, kinds), (rows, targets), lambda m, b: loss(m(b[0]), b[1]), steps, tuning["head_lr"])


# %% [markdown]
# **iPET** goes on from step 1 in generations {cite:p}`schick2021exploiting`. Each new model starts from the masked
# model again and gets a larger training set: the labels, and examples that *other* models of the last generation
# labeled, a quarter of those models (at least one). The set grows fivefold each time, to half of the unlabeled examples
# at most, and keeps the shares of the labels; examples on which the labelers are sure come in more often.


# %%
def grow(scores: Tensor, count: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """(chosen,) examples and their labels: of each label `count / labels`, or as many as there are, the sure first."""
    p, guesses = scores.softmax(-1).max(-1)
    chosen = []
    for label in range(scores.shape[1]):
        weights = p * (guesses == label)
        many = min(count // scores.shape[1], int((weights > 0).sum()))
        if many:
            chosen.append(torch.multinomial(weights, many, generator=draw))
    chosen = torch.cat(chosen)
    return chosen, guesses[chosen]


rows, labels_given = grow(torch.eye(4).repeat(5, 1) * 3, 8, torch.Generator().manual_seed(seed))
assert torch.bincount(labels_given).tolist() == [2, 2, 2, 2] and len(set(rows.tolist())) == 8


def gap_model(body: BERT, rows: Tensor, targets: Tensor, words: list[list[int]], steps: int, text: Tensor) -> nn.Module:
    """Step 1 for one pattern; `text` is what the reminder is read from, in the larger profiles."""

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        scores, remind = label_scores(gap_logits(model, batch[0]), words), None
        if run.profile != "quick":
            remind = filled(model, text[torch.randint(len(text), (16,))].to(batch[0].device))
        return pet_loss(scores, batch[1], remind)

    check_labels(targets, len(words), every=True)
    return tune(deepcopy(body), (rows, targets), loss, steps, tuning["lr"])


# %%
Forms = dict[str, Tensor]  # pattern to rows


def few_shot(body: BERT, words: list, labeled: tuple[Forms, Tensor], unlabeled: Forms, test: tuple[Forms, Tensor]):
    """Percent right after the same few labels: a plain head, PET, iPET, and on the way the models of step 1."""
    (forms, targets), (test_forms, truth), kinds = labeled, test, len(words)
    main, steps, draw = next(iter(forms)), tuning["steps"], torch.Generator().manual_seed(seed)
    make = partial(gap_model, body, words=words, text=unlabeled[main])

    def after(soft: Tensor) -> float:
        """Step 3, and the test."""
        student = classifier(body, unlabeled[main], soft, kinds, tuning["final"])
        return percent(plain(student, test_forms[main]), truth)

    models = {name: make(rows, targets, steps=steps) for name, rows in forms.items()}
    said = {name: answers(model, unlabeled[name], words) for name, model in models.items()}
    head = classifier(body, forms[main], targets, kinds, steps)
    right = {"head": percent(plain(head, test_forms[main]), truth)}
    right |= {f"pattern {n}": percent(answers(m, test_forms[n], words), truth) for n, m in models.items()}
    right["PET"] = after(sum(said.values()) / len(said))
    count = len(targets)
    for generation in (1, 2):
        count, new = min(5 * count, len(unlabeled[main]) // 2), {}
        for name, rows in forms.items():
            others = [other for other in said if other != name]
            share = max(1, round(0.25 * len(others)))
            labelers = [others[i] for i in torch.randperm(len(others), generator=draw)[:share]]
            chosen, guessed = grow(sum(said[other] for other in labelers) / share, count, draw)
            more = torch.cat([rows, unlabeled[name][chosen]]), torch.cat([targets, guessed])
            new[name] = make(*more, steps=steps * (1 + generation) // 2)
        said = {name: answers(model, unlabeled[name], words) for name, model in new.items()}
    right["iPET"] = after(sum(said.values()) / len(said))
    return right


@torch.no_grad()
def plain(model: nn.Module, rows: Tensor) -> Tensor:
    """(P, labels) scores of a classifier."""
    return torch.cat([model(part.to(run.device)).cpu() for part in rows.split(500)])


# %% [markdown]
# ## The third experiment: a head, PET and iPET
#
# The same masked model, the same 32 labels, as many steps for the head as for each of PET's models. Each split draws
# other labels. The test is the same for all. The budgets are *not* the same: PET trains three models and then a
# classifier on unlabeled text, which the head never sees, and iPET trains more. That is the method, and its price.

# %%
unlabeled = patterns(pool[0][splits * few :])
results = []
for split in range(splits):
    mine = slice(split * few, (split + 1) * few)
    labeled = patterns(pool[0][mine]), pool[1][mine]
    results.append(few_shot(body, verbalizer, labeled, unlabeled, (exam_rows, exam[1])))
column = {name: [row[name] for row in results] for name in results[0]}
pet_gains = [a - b for a, b in zip(column["PET"], column["head"], strict=True)]
ipet_gains = [a - b for a, b in zip(column["iPET"], column["PET"], strict=True)]

# %% tags=["hide-input"]
show.bars(
    {"without labels, all": zero_shot["all"], **column},
    y_label="right on the exam, percent",
    alt="Accuracy without labels, of a plain head, of the models of the three patterns, of PET and of iPET, with a dot "
    "for each split.",
    caption=f"{few} labels, {splits} splits (dots), {len(exam[1])} snippets, profile {run.profile}.",
)

# %%
verdicts += [
    claims.report(
        "pet.beats-a-head",
        pet_gain=sum(pet_gains) / splits,
        pet_wins=sum(gain > 0 for gain in pet_gains) / splits,
    ),
    claims.report(
        "pet.ipet-helps",
        ipet_gain=sum(ipet_gains) / splits,
        ipet_wins=sum(gain >= 0 for gain in ipet_gains) / splits,
    ),
]

# %% [markdown]
# Two comparisons are in that figure. The head begins with a layer that knows nothing and has 32 labels to learn what
# the four classes are; PET begins where the model without labels stands. That part of a gain would be bought by the
# form of the question. Another part would be bought by unlabeled text: the classifier at the end, which has no pattern
# at all, can be better than its teachers, because it has seen what they say about many more snippets.
#
# How large is the gain? Small. With every seed that we tried in profile `quick` PET was ahead of the head in the mean
# over the splits, by less than the claim asks, and it was not ahead on every split. iPET was ahead of PET with some
# seeds and behind it with another: we saw no gain from generations. That fits what they are made of. A generation
# passes on what its teachers know, and their errors, too; where teachers are often wrong, five times as many labels are
# not five times as much knowledge. We did not test that explanation.
#
# A word of caution. Our task is close to what the masked model was trained for, closer than opinions about films are.
# It is the case in which PET should shine, *if* the masked model knows its text. The paper's had read a large corpus;
# compare the two losses above for what ours knows. Where it knows hardly more than frequencies, PET has little to draw
# out, and a head that starts from nothing is not far behind. A verbalizer is knowledge, too: somebody has to write it
# down, and a poor one may cost. The exercises measure how much.
#
# ### On sentences
#
# The larger profiles try opinions (SST-2) and kinds of questions (TREC), where the sets are at hand. The masked model
# then learns from the sentences themselves, without labels, and from captions of photographs. They count for no claim:
# a model that has read some ten thousand sentences knows little of what the paper's had read.

# %%
ENGLISH = {  # patterns, and words for each label in the order of its number
    "sst2": (
        ["it was [MASK] .", "a [MASK] film", "all in all [MASK] ."],
        [["bad", "worse", "boring"], ["good", "best", "funny"]],
    ),
    "trec": (
        ["[MASK] :", "a question about [MASK]", "the answer is a [MASK] ."],
        [
            ["meaning", "origin"],
            ["animal", "film"],
            ["abbreviation", "letters"],
            ["person", "man"],
            ["city", "country"],
            ["number", "year"],
        ],
    ),
}


def sentence_forms(sentences: list[str], templates: list[str], pieces, room: int) -> Forms:
    """Each template stands before the sentence, whose end is cut where there is no room."""
    forms = {}
    for template in templates:
        front = [i for part in template.split() for i in ([MASK] if part == "[MASK]" else pieces.encode(part).ids)]
        rows = [[CLS, *front, *e.ids[: room - len(front) - 2], SEP] for e in pieces.encode_batch(sentences)]
        forms[template] = data.pad(rows, length=room)
    return forms


# %%
def on_sentences(name: str, room: int = 40, steps: int | None = None, splits: int = splits) -> list[dict[str, float]]:
    """The third experiment with a set of sentences."""
    templates, words = ENGLISH[name]
    train, test = data.load(name, "train"), data.load(name, "test")
    corpus = [*train["sentence"], *(data.load("multi30k", "train")["en"] if data.available("multi30k") else [])]
    pieces = data.word_piece([*corpus, *(" ".join(group) for group in words for _ in range(500))], 4000, lowercase=True)
    reading = data.pad([[CLS, *e.ids[: room - 2], SEP] for e in pieces.encode_batch(corpus)], length=room)
    model = masked_model(reading, pieces.get_vocab_size(), steps)
    ids, made = verbalize(words, pieces), partial(sentence_forms, templates=templates, pieces=pieces, room=room)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed)).tolist()
    truth, kinds = torch.tensor(train["label"]), len(words)
    exam = made(list(test["sentence"])), torch.tensor(test["label"])
    rest = made([train["sentence"][i] for i in order[-2000:]])
    found = []
    for split in range(splits):
        mine = [
            [i for i in order[:-2000] if truth[i] == k][split * (few // kinds) :][: few // kinds] for k in range(kinds)
        ]
        chosen = [i for group in mine for i in group]
        found.append(few_shot(model, ids, (made([train["sentence"][i] for i in chosen]), truth[chosen]), rest, exam))
    return found


# %%
for name in [s for s in ENGLISH if run.profile != "quick" and data.available(s)]:
    found = on_sentences(name)
    show.table([{"split": i, **{k: row[k] for k in ("head", "PET", "iPET")}} for i, row in enumerate(found, 1)],
               caption=f"{name}: percent of the test sentences, {few} labels, profile {run.profile}.")  # fmt: skip

# %% [markdown]
# ## What breaks
#
# The scores of PET are one line, and there are at least five ways to write it. All of these run, train, and give
# numbers between 0 and 1 after a softmax. To see what they do, take labels with different numbers of words, as
# verbalizers often have.

# %%
uneven = [verbalizer[0][:1], verbalizer[1][:5], verbalizer[2][:2], verbalizer[3][:5]]


def scored(reduce) -> tuple[Tensor, Tensor]:
    """(P, labels) scores on the exam by another rule, and what it gives for logits that all words share."""
    logits = torch.cat([gap_logits(body, part.to(run.device)).cpu() for part in exam_rows["all"].split(500)])
    return reduce(logits), reduce(torch.zeros(1, logits.shape[1]))


def by(what, words: list[list[int]] = uneven):
    return lambda logits: torch.stack([what(logits, tokens) for tokens in words], -1)


rules = {
    "mean of raw logits (PET)": by(lambda z, t: z[:, t].mean(-1)),
    "sum of raw logits": by(lambda z, t: z[:, t].sum(-1)),
    "mean of log-probabilities": by(lambda z, t: z.log_softmax(-1)[:, t].mean(-1)),
    "mean of probabilities": by(lambda z, t: z.softmax(-1)[:, t].mean(-1)),
    "log of summed probabilities": by(lambda z, t: z.log_softmax(-1)[:, t].logsumexp(-1)),
    "first word only": by(lambda z, t: z[:, t[0]]),
}
rows, reference = [], None
for name, rule in rules.items():
    with torch.no_grad():
        scores, blank = scored(rule)
    p = scores.softmax(-1)
    reference = p if reference is None else reference
    rows.append({"rule": name, "right, %": percent(scores, exam[1]), "loss": F.cross_entropy(scores, exam[1]).item(),
                 "differs from PET by": (p - reference).abs().max().item(),
                 "fair without an opinion": "yes" if blank.std() < 1e-6 else "no"})  # fmt: skip
assert rows[0]["differs from PET by"] == 0 and rows[2]["differs from PET by"] < 1e-4  # the same after a softmax
assert all(rows[i]["differs from PET by"] > 1e-3 for i in (1, 3, 4, 5))
assert rows[3]["loss"] > -torch.tensor(torch.e / (torch.e + 3)).log()  # the floor of probabilities
show.table(rows, caption="No label was used. Probabilities after a softmax over the labels, on the exam.")

# %% [markdown]
# Four lessons. Log-probabilities instead of raw logits change *nothing*: they shift all words of a gap alike, and the
# softmax over labels does not see a shift. Probabilities change a lot: each is at most 1, so after a softmax over four
# labels none can have more than $e / (e + 3) \approx 0.48$, and the loss has a floor of $-\ln 0.48 \approx 0.74$ that
# no training gets below. A sum makes labels with many words louder, in both directions. It passes the
# last column, which asks for equal scores when all logits are zero; if all were *one*, it would fail. And the logarithm
# of a summed probability prefers labels with many words even when the model has no opinion: it fails the last column.
#
# The prompt has its own classic: a test that is not one. Train the reader on *one* code, and test it on the same.

# %%
fixed = stream.clone()
code = torch.randint(labels, (symbols,), generator=torch.Generator().manual_seed(seed))
fixed[:, 1::2] = symbols + code[fixed[:, ::2]]
memorizer, on_others = reader(widths[-1], rates[-1], (4, None), rows=fixed, steps=steps // 4)
same_code = unseen.clone()
same_code[:, 1::2] = symbols + code[same_code[:, ::2]]
on_its_own = right_after(memorizer, same_code)
assert not set(map(tuple, same_code.tolist())) & set(map(tuple, fixed.tolist()))  # the rows are new, the code is not
show.glue("icl-memorizer-own", f"{on_its_own[0]:.0f} %")
show.glue("icl-memorizer-others", f"{on_others[16]:.0f} %")
show.lines(
    list(range(shots + 1)),
    {"its own code, new prompts": on_its_own, "other codes": on_others},
    x_label="examples in the prompt",
    y_label="right, percent",
    alt="Percent of right digits over the number of examples, for a model trained on a single code: on new prompts of "
    "that code, and on prompts of other codes.",
    caption="Trained on one code. The upper curve is what a careless test would report.",
)

# %% [markdown]
# On new prompts of its own code it has {glue:text}`icl-memorizer-own` right *without an example*: the code is in the
# weights. On other codes, sixteen examples lead to {glue:text}`icl-memorizer-others`. A few-shot result means something
# only when the task is not in the training text, and for a model that has read the web this is hard to know;
# {cite:t}`brown2020` spend a section on it, and found a bug in their own filter too late to train again.
#
# ## Ours and the papers'
#
# | What differs | Ours, in profile quick | The papers' | What it does |
# |---|---|---|---|
# | where prompts come from | trained on prompts alone | GPT-3 meets them in text | it must be taught here |
# | sizes | 8 to 32 wide, two layers | 768 to 12,288 wide, 12 to 96 layers | see the verdict |
# | order of layers | band first in the first experiment | not stated | copying is found sooner |
# | width of a band | 4, and a quarter of the context | not stated | not measured beyond the two |
# | masked model | two layers, trained briefly on code | ALBERT-xxlarge, a large corpus | knows far less of the world |
# | PET's task | kinds of tokens | SuperGLUE, reviews, news | closer to pretraining |
# | the reminder, weight `1e-4` | left out in quick | in | costs as much as the rest; not measured |
# | patterns and seeds | three patterns, one model each | often more patterns, three models each | a smaller ensemble |
# | iPET's generations | two | three | not measured |
# | ensemble | plain mean | also weighted by accuracy before training | not measured |
#
# What we did not try: GPT-3's few-shot results on real tasks, which need a model that has read the web, and its
# comparison with PET on the same 32 examples. The verdicts, by the recorded runs:

# %% tags=["hide-input"]
claims.summary(verdicts)

# %% [markdown]
# A note on honesty. The form of the prompts, the widths, the rates and the numbers of steps were chosen in pilots with
# seed 0, the thresholds before the first whole run. What did not work in the pilots: with two dense layers, and rows
# that all use all letters, nothing was learned but to count digits. Our first task for PET, to tell code from prose,
# was learned by a plain head as well as by PET: one of two splits went to the one, one to the other. No setting that
# we tried took the masked model far beyond frequencies in ten seconds: not shorter rows, nor larger steps, nor queries
# and keys that begin equal. And the sentences, tried on a CPU with a masked model as small as that of quick, two
# splits each, stayed near a guess, or below, for opinions and for questions: the head, PET and iPET alike, but for one
# run of iPET on questions.
#
# ## Questions
#
# Choose before you read on: each answer says why it is right or wrong. Which one is right was computed by this run.

# %% tags=["hide-input"]
reader = tf.create_model("gpt2", vocab=20, dim=16, depth=2, heads=2, context=32, dropout=0.0)
before = [p.clone() for p in reader.parameters()]
reader(torch.randint(20, (1, 30)))
unchanged = all(torch.equal(a, b) for a, b in zip(before, reader.parameters(), strict=True))
show.quiz(
    "GPT-3 reads ten examples in its prompt and then answers better. Which of its parameters have changed?",
    [
        ("None.", "What it has learned from the prompt is in the keys and values that it computed.", unchanged),
        ("Those of the last layer.", "That would be fine-tuning.", not unchanged),
        ("All, a little.", "There is no gradient step here.", False),
    ],
    name="in-context-parameters",
)
banded = tf.create_model("gpt2", vocab=20, dim=16, depth=3, heads=2, context=32, windows=(4,), dropout=0.0)
seen = banded.tokens(torch.randint(20, (1, 24))).detach().requires_grad_()
hook = banded.tokens.register_forward_hook(lambda *_: seen)
banded(torch.zeros(1, 24, dtype=torch.long))[0, -1].sum().backward()
hook.remove()
reached = int((seen.grad[0].abs().sum(1) > 0).sum())
show.quiz(
    "Three layers whose tokens see four places each, themselves included. How far does the last token look?",
    [
        ("4 places", "That is one layer.", reached == 4),
        (f"{3 * 3 + 1} places", "Each layer adds three to what the layers below have gathered.", reached == 10),
        ("12 places", "The places overlap: each layer's window begins with a token counted already.", reached == 12),
    ],
    name="in-context-band",
)  # fmt: skip

# %% tags=["hide-input"]
logits = torch.tensor([2.0, 1.0, 6.0])  # yes, no, banana
pet = logits[:2].softmax(0)
show.quiz(
    "PET reads *yes* or *no* in a gap. The likeliest word there is *banana*. What does PET answer?",
    [
        ("*yes*", "Only the words of the verbalizer are compared.", bool(pet.argmax() == 0)),
        ("*banana*", "It has no label.", bool(logits.argmax() != 2)),
        ("It refuses.", "A share of *yes* among yes and no always exists.", False),
    ],
    name="in-context-verbalizer",
)
patterns, models_each = 3, 3
show.quiz(
    "PET trains three models for each of three patterns. How many label the texts for the last classifier?",
    [
        ("9", "All of them label the texts; their mean is what the classifier learns.", patterns * models_each == 9),
        ("3", "One a pattern would depend on its seed.", patterns * models_each == 3),
        ("1", "Only the classifier at the end is one.", patterns * models_each == 1),
    ],
    name="in-context-ensemble",
)

# %% [markdown]
# ## Exercises
#
# ```{exercise} How many examples?
# :label: icl-enough
# With a pencil: for $n = 8$ letters and $L = 8$ digits, how many examples does a perfect reader need to have nine in
# ten right? What if every example shows a *new* letter?
# ```
#
# ```{solution-start} icl-enough
# :class: dropdown
# ```
#
# $(7/8)^K \cdot 7/8 \le 1/10$ gives $K + 1 \ge \ln 10 / \ln(8/7) = 17.2$, so $K = 17$. With new letters only, $K$
# examples show $K$ of eight: $K/8 + (1 - K/8)/8 \ge 0.9$ gives $K = 8$ (with seven, $0.89$).

# %%
assert best(16, 8, 8) < 0.9 <= best(17, 8, 8)
without_repeats = [K / 8 + (1 - K / 8) / 8 for K in range(9)]
assert without_repeats[7] < 0.9 <= without_repeats[8]

# %% [markdown]
# ```{solution-end}
# ```
#
# ```{exercise} The cheap part
# :label: icl-cheap
# Not all that the curves of the first experiment show need be reading. Compute what a model gets that guesses among the
# digits in the prompt, in proportion to how often they came, without looking at the letters.
# ```
#
# ```{solution-start} icl-cheap
# :class: dropdown
# ```
#
# Its chance is the mean share of the right digit among the digits so far.

# %%
cheap = [100 / labels]
for K in range(1, shots + 1):
    shown = unseen[:, 1 : 2 * K : 2]
    cheap.append(100 * (shown == unseen[:, 2 * K + 1, None]).float().mean().item())
assert cheap[1] > cheap[0] and cheap[16] < ceiling[-1]
print({K: f"{cheap[K]:.0f} %" for K in asked_at})

# %% [markdown]
# So a model that ends near those numbers may have learned no more than to count. In profile `quick` the smallest reader
# ends there with each seed that we ran.
# ```{solution-end}
# ```
#
# ```{exercise} How far do bands reach?
# :label: icl-reach
# A model has four banded layers of width $w$ and no dense one. How far back can a token have an effect? Check it with
# the masks. How many dense layers must be added until all is within reach?
# ```
#
# ```{solution-start} icl-reach
# :class: dropdown
# ```
#
# Each band adds $w - 1$ places: $4(w - 1)$ back. One dense layer, anywhere, is enough.

# %%
narrow, whole = band(30, 4), band(30, None)
assert torch.equal(reach(*[narrow] * 4), band(30, 4 * 3 + 1).float())
assert all(torch.equal(reach(*layers), whole.float()) for layers in ([whole, narrow], [narrow, narrow, whole, narrow]))

# %% [markdown]
# ```{solution-end}
# ```
#
# ```{exercise} Poor words
# :label: icl-poor-words
# Give each kind the words of the next one, and measure without labels. Then take one word for each kind, the first.
# How much does the choice of words matter, compared with what 32 labels bring?
# ```
#
# ```{solution-start} icl-poor-words
# :class: dropdown
# ```
#
# The wrong words are *knowledge against the task*. As far as ours say their kinds, these should do worse than a guess,
# and training would have to undo them first.

# %%
choices = {
    "ours": verbalizer,
    "one word each": [group[:1] for group in verbalizer],
    "of the next kind": verbalizer[1:] + verbalizer[:1],
}
by_words = {name: percent(answers(body, exam_rows["all"], words), exam[1]) for name, words in choices.items()}
assert torch.equal(
    answers(body, exam_rows["all"][:50], choices["of the next kind"]),
    answers(body, exam_rows["all"][:50]).roll(-1, 1),
)
print({name: f"{right:.0f} %" for name, right in by_words.items()}, f"with 32 labels, PET: {column['PET']}")

# %% [markdown]
# With each seed that we ran in profile `quick`, the wrong words ended at a guess and not below it, and one word each
# did *better* than five. So five words of common sense can be worse than one, and the choice made a good part of the
# difference that 32 labels make. Words also differ in how likely they are anywhere, which a raw logit does not take
# out.
# ```{solution-end}
# ```
#
# ```{exercise} Softer teachers
# :label: icl-softer
# The last step divides scores by 2. Show with a pencil that it does not change the order of the labels. What
# does it change? Take scores $(4, 2, 0)$ and compare the shares of the second label at temperatures 1 and 2.
# ```
#
# ```{solution-start} icl-softer
# :class: dropdown
# ```
#
# Dividing by a positive number keeps the order. The second label's share rises, and with it what the student is told
# about which wrong answers are nearly right.

# %%
hard, soft = (torch.tensor([4.0, 2.0, 0.0]).div(t).softmax(0) for t in (1, 2))
assert hard.argsort().equal(soft.argsort()) and soft[1] > 2 * hard[1]
print([round(v, 3) for v in hard.tolist()], [round(v, 3) for v in soft.tolist()])

# %% [markdown]
# ```{solution-end}
# ```
#
# ```{exercise} Break it: the wrong softmax
# :label: icl-break
# A colleague trains PET with the usual loss of masked models: cross-entropy over the whole vocabulary, with the label's
# first word as the target. It trains. Which logits does PET's loss leave alone that this one does not? Write the
# shortest test for it.
# ```
#
# ```{solution-start} icl-break
# :class: dropdown
# ```
#
# PET's loss has a gradient on the verbalizer's words only. The colleague's pushes down every other token at the gap,
# many of which are right: at a gap for a name, `path` is punished because `self` was chosen to say *name*. Each
# token is pushed down in proportion to its probability, so most of all those that the model finds likely there.


# %%
def touched(loss) -> set[int]:
    z = torch.randn(3, 9, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(z), z)
    return set((gradient.abs().sum(0) > 0).nonzero().flatten().tolist())


words, targets = [[1, 2], [5]], torch.tensor([0, 1, 1])
assert touched(lambda z: pet_loss(label_scores(z, words), targets)) == {1, 2, 5}
assert touched(lambda z: F.cross_entropy(z, torch.tensor([1, 5, 5]))) == set(range(9))

# %% [markdown]
# ```{solution-end}
# ```
#
# ## Further reading
#
# - {cite:t}`brown2020`, sections 1, 2 and 4: what few-shot means, the models, and the trouble with test sets that are
#   on the web.
# - {cite:t}`schick2021exploiting`, section 3, for PET and iPET, and {cite:t}`schick2021size` for the comparison.
# - {cite:t}`olsson2022` on the heads that copy, and how they appear.
# - {cite:t}`chan2022` on properties of the training text from which in-context learning emerges: our rows with few
#   letters are their bursts.
# - {cite:t}`min2022` ask what examples in a prompt are good for, and find that wrong labels often do little harm.
