# ---
# jupyter:
#   jupytext: {text_representation: {extension: .py, format_name: percent}}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# (local-and-global)=
# # Near and far: who needs which tokens, and how finely?
#
# Windows made attention cheap by making it deaf: a token of Swin hears its window and nothing else until windows have
# shifted often enough. This chapter is about three ways around that. {cite:t}`yang2021` (Focal) let a token hear what
# is near finely and what is far coarsely, in one block. {cite:t}`yuan2021hrformer` (HRFormer) keep maps of several
# resolutions side by side and let them talk. {cite:t}`li2022efficientformer` (EfficientFormer) ask what each of these
# operations costs on a clock, and let the clock decide where to attend at all.
#
# After this chapter you can
# - list the keys of a focal query, and say what a pooled key keeps and what it loses;
# - explain how windows that never move still exchange things, and test who hears whom by gradients;
# - fold a batch norm into a convolution, time operators fairly, and read off where attention is affordable.
#
# **Time**: about a minute on one CPU core; an hour to read with the exercises. **Before**: {ref}`Swin <swin>`.

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
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tformerlib as tf
from tformerlib import claims, measures, show, training
from tformerlib.layers.blocks import MLP, Block
from tformerlib.models.efficientformer import EfficientFormer, OffsetAttention, Pool, local_block
from tformerlib.models.focal import Focal, FocalAttention, ring
from tformerlib.models.hrformer import CenteredWindows, ConvMLP, HRFormer
from tformerlib.models.swin import Swin, WindowAttention
from tformerlib.peers import prepare

# %% tags=["parameters"]
profile = "quick"  # quick: two CPU cores.  colab: one T4.  full: one large GPU.
seed = 0

# %%
run = tf.parameters(profile=profile, seed=seed)
torch.set_num_threads(1)  # processor time of one thread can be compared

# %% [markdown]
# ```{diagram} local_and_global
# Three answers to one question: which tokens does a token hear, and how finely?
# ```
#
# ## The question: who hears whom?
#
# A gradient says who hears whom: take one output token, and see which input tokens it depends on. Here is a map of
# $16 \times 16$ tokens with windows of $4 \times 4$, and the token in row $4$, column $4$.


# %%
def heard(layer: nn.Module, y: int = 4, x: int = 4, side: int = 16, dim: int = 8) -> Tensor:
    """Which tokens of a map the output at (y, x) depends on: bool (side, side)."""
    maps = torch.randn(1, side, side, dim, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer.eval()(maps)[0, y, x].sum(), maps)
    return gradient[0].abs().sum(-1) > 0


window = WindowAttention(8, 2, window=4, shift=0)
two_blocks = nn.Sequential(window, WindowAttention(8, 2, window=4, shift=2))
print("one block hears", heard(window).sum().item(), "of 256 tokens, two blocks", heard(two_blocks).sum().item())
assert heard(window).sum() == 16 and not heard(two_blocks)[:, 12:].any()

# %% [markdown]
# What stands in the last columns does not reach our token in two blocks, whatever is learned. More blocks would do
# it, but then every long connection costs depth. Can one block see everything at a price that still grows linearly?
#
# ## By hand: nine tokens in a row
#
# Tokens $0, 1, \dots, 8$ in windows of three. The middle window asks. Its **focal** keys are its own tokens $3, 4,
# 5$; a **ring** of one token at each side, $2$ and $6$; and every window **pooled** to a single key, here by a mean:
# $1, 4, 7$. Eight keys instead of nine: nothing is saved in this small row. But with a hundred windows the fine keys
# stay five, and the pooled ones are as many as one allows.
#
# Let all scores be equal and the value of a token be its number. Token $4$ receives $(3 + 4 + 5 + 2 + 6 + 1 + 4 + 7) /
# 8 = 4$. Token $0$ has no ring on its left, and if pooled keys reach one window far it receives $(0 + 1 + 2 + 3 + 1 +
# 4) / 6$.


# %%
def focal_row(values: Tensor, window: int, expand: int, reach: int) -> Tensor:
    """What each token of a row receives when all its focal keys weigh the same."""
    pooled, out = values.view(-1, window).mean(1), []
    for i in range(len(pooled)):
        start, end = i * window, (i + 1) * window
        fine = values[max(0, start - expand) : end + expand]
        coarse = pooled[max(0, i - reach) : i + reach + 1]
        out += [torch.cat([fine, coarse]).mean()] * window
    return torch.stack(out)


received = focal_row(torch.arange(9.0), window=3, expand=1, reach=1)
assert received[4] == 4 and torch.isclose(received[0], torch.tensor(11 / 6))
print([round(value, 2) for value in received.tolist()])

# %% [markdown]
# Note what the three tokens of a window share: the *set* of keys. Only scores tell them apart. That is what makes
# focal attention a matter of windows, and not of tokens: keys are gathered once for a window.
#
# ## Build it
#
# ### Focal keys on a map
#
# In two dimensions a window of $w \times w$ with a ring of $e$ has $(w + 2e)^2 - w^2$ places around it. The official
# code moves the window diagonally in four directions and keeps what it newly covers. The four overlap, so some places
# come twice, and a softmax gives such a key twice the weight.

# %%
keys = ring(window=7, expand=3)
print(len(keys), "keys for", len(keys.unique(dim=0)), "places")
assert len(keys) == 132 and len(keys.unique(dim=0)) == 13**2 - 7**2

# %% [markdown]
# A slow version that shares nothing with the library's: for one window, list the keys place by place, pool the others,
# and take a softmax. Biases by position are left out.


# %%
def slowly(layer: FocalAttention, x: Tensor, row: int, column: int, region: int) -> Tensor:
    """Focal attention of one window of a map (H, W, C), that of this row and column of windows: (w * w, C)."""
    w, attn = layer.window, layer.attn
    own = [(row * w + y, column * w + c) for y in range(w) for c in range(w)]
    around = [(row * w + y, column * w + c) for y, c in ring(w, 1).tolist()]
    memory = [x[y, c] for y, c in own + [(y, c) for y, c in around if 0 <= y < len(x) and 0 <= c < len(x)]]
    for r in range(row - region // 2, row + region // 2 + 1):
        for c in range(column - region // 2, column + region // 2 + 1):
            if 0 <= r < len(x) // w and 0 <= c < len(x) // w:
                cell = x[r * w : (r + 1) * w, c * w : (c + 1) * w].flatten(0, 1)
                memory.append(layer.pool.weight[0] @ cell + layer.pool.bias)
    queries, keys = torch.stack([x[y, c] for y, c in own]), torch.stack(memory)
    return attn(queries[None], keys[None])[0]


layer = FocalAttention(8, 2, window=4, expand=1, region=3, wrap=False)
with torch.no_grad():
    for table in (layer.bias.table, layer.ring_bias, layer.pooled_bias):
        table.zero_()
x = torch.randn(16, 16, 8)
fast = layer(x[None])[0]
for row, column in ((0, 0), (1, 2), (3, 3)):
    cell = fast[4 * row : 4 * row + 4, 4 * column : 4 * column + 4].flatten(0, 1)
    show.parity(f"window ({row}, {column})", (cell - slowly(layer, x, row, column, 3)).abs().max().item(), 1e-5)

# %% [markdown]
# In the official sizes a query of the first stage has $49$ keys in its window, $132$ in the ring and up to $49$
# pooled ones, where global attention has $56^2 = 3136$.
#
# ### Maps side by side
#
# HRFormer does not widen what a token hears. Its windows never move, and there are no pooled keys. Two other things
# carry information. First, a $3 \times 3$ **depthwise convolution** between the two layers of the feed-forward
# network: it reaches one token beyond the window's border, in every block.

# %%
for depthwise in (False, True):
    block = nn.Sequential(CenteredWindows(8, 2, 4), ConvMLP(8, 16, depthwise))
    print("with" if depthwise else "without", "the convolution: hears", heard(block).sum().item(), "tokens")
    assert heard(block).sum() == (
        64 if depthwise else 16
    )  # it stands in a corner: three more windows are one step away

# %% [markdown]
# Second, the maps. A coarse map's windows cover more of the image, and after each module every map becomes the sum of
# all, brought to its size: coarser ones by repeating tokens, finer ones by strided convolutions.

# %%
model = HRFormer(dim=8, modules=(1, 1, 1), blocks=1, bottlenecks=0, stem=8, window=4).eval()
print([tuple(m.shape[1:]) for m in model.features(torch.randn(1, 3, 64, 64))])

# %% [markdown]
# The finest map is there from beginning to end. Swin ends with its coarsest.
#
# ### Pool, and attend at the end
#
# EfficientFormer's early blocks mix tokens without any weights: the mean of the $3 \times 3$ around a token, minus the
# token, which the residual connection adds again. Everything that learns there is a $1 \times 1$ convolution with a
# batch norm behind it. In training a batch norm is an operation; afterwards it is a factor and a shift for each
# channel, which the convolution in front can take over.

# %%
conv, norm = nn.Conv2d(16, 32, 1), nn.BatchNorm2d(32).eval()
nn.init.uniform_(norm.running_var, 0.5, 2.0)
nn.init.normal_(norm.running_mean)
factor = norm.weight / (norm.running_var + norm.eps).sqrt()
one = nn.Conv2d(16, 32, 1)
with torch.no_grad():
    one.weight.copy_(conv.weight * factor[:, None, None, None])
    one.bias.copy_((conv.bias - norm.running_mean) * factor + norm.bias)
x = torch.randn(2, 16, 5, 5)
show.parity("one convolution instead of convolution and norm", (one(x) - norm(conv(x))).abs().max().item(), 1e-5)

# %% [markdown]
# A layer norm cannot be folded: its mean and spread belong to the token that comes, not to the training set.
#
# ## What one block hears
#
# The same token, through one block of each kind. Move the slider; brighter means more weight when all scores are
# equal.


# %% tags=["hide-input"]
def footprint(layer: nn.Module, side: int = 16) -> Tensor:
    """How much the output at (4, 4) depends on each token, as a share, (side, side)."""
    torch.manual_seed(1)
    for p in layer.parameters():
        nn.init.normal_(p, std=0.02)
    for module in layer.modules():
        if isinstance(module, FocalAttention):
            nn.init.constant_(module.pool.weight, module.window**-2)
    total = torch.zeros(side, side)
    for _ in range(4):
        maps = torch.randn(1, side, side, 8, requires_grad=True)
        (gradient,) = torch.autograd.grad(layer.eval()(maps)[0, 4, 4].square().sum(), maps)
        total += gradient[0].square().sum(-1).sqrt()
    return total / total.sum()


class PoolMap(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Pool()(x.movedim(-1, 1)).movedim(1, -1)


# %% tags=["hide-input"]
focal_options = {"window": 4, "expand": 2, "wrap": False}
kinds = {
    "Swin: its window": WindowAttention(8, 2, window=4, shift=0),
    "Focal: window and ring": FocalAttention(8, 2, region=1, **focal_options),
    "Focal: and pooled windows": FocalAttention(8, 2, region=7, **focal_options),
    "HRFormer: window and convolution": nn.Sequential(CenteredWindows(8, 2, 4), ConvMLP(8, 16)),
    "EfficientFormer: pooling": PoolMap(),
    "EfficientFormer: attention": OffsetAttention(8, 16, heads=2, key_dim=4, value_dim=4),
}
names = [str(i) for i in range(16)]
show.explore(
    {kind: footprint(layer).sqrt() for kind, layer in kinds.items()},
    names,
    names,
    slider_label="block",
    alt="Six maps of 16 by 16 tokens: a window of 4 by 4; the window and a ring of two tokens; the same over a faint "
    "background that covers the whole map; a window that leaks into the three next to the token; 3 by 3 tokens; "
    "everything evenly.",
    caption="What one block hears at row 4, column 4 (square roots of shares, so that faint ones can be seen).",
)

# %% [markdown]
# ## The library's version
#
# The models are in `tformerlib/models/`: `focal.py`, `hrformer.py`, `efficientformer.py`. EfficientFormer has an
# independent implementation in timm. For Focal and HRFormer there is none in a package, so tests hold ours against
# numbers that the official code gave for the same wide weights: logits, and a product with each parameter's gradient.

# %%
prepare()
import timm

theirs = timm.models.efficientformer.EfficientFormer((1, 1, 1, 2), (16, 24, 32, 40), num_classes=7, num_vit=1).eval()
for key, p in theirs.named_parameters():
    nn.init.normal_(p, mean=float("norm" in key and key.endswith("weight")), std=0.2)
ours = EfficientFormer(dims=(16, 24, 32, 40), depths=(1, 1, 1, 2), classes=7).eval()
tf.load_published(ours, theirs.state_dict(), source="timm")
images = torch.randn(2, 3, 224, 224)
with torch.no_grad():
    expected = theirs(images)
    show.parity("logits against timm's", ((ours(images) - expected).abs().max() / expected.abs().max()).item(), 2e-5)

# %%
printed = {  # parameters in millions and multiply-adds in thousands of millions, as repositories and papers print them
    "focal_tiny": (28.9, 4.9), "focal_base": (89.8, 16.4), "hrformer_tiny": (8.0, 1.83),
    "hrformer_small": (13.5, 3.56), "efficientformer_l1": (12.3, 1.3), "efficientformer_l3": (31.3, 3.9),
}  # fmt: skip
rows = []
for name, (millions, giga) in printed.items():
    with torch.device("meta"):  # shapes without content
        model = tf.create_model(name)
    found = measures.parameter_count(model) / 1e6, measures.macs(model, (3, 224, 224)) / 1e9
    assert abs(found[0] / millions - 1) < 0.01 and abs(found[1] / giga - 1) < 0.08
    rows.append({"model": name, "parameters, M": found[0], "printed": millions, "multiply-adds, G": found[1],
                 "printed ": giga})  # fmt: skip

# %% tags=["hide-input"]
show.table(rows, caption="Counted from our models. HRFormer's repository counts norms and activations too; we do not.")

# %% [markdown]
# ## A toy: the far mark
#
# On a map of $8 \times 8$ tokens in windows of $2 \times 2$ stand two marks. The first, in the leftmost windows, has to
# name the color of the second, which is at least one whole window away. The answer is read *at the first mark's own
# token*, with one focal block; with one whose pooled keys are those of its own window alone; and with *two* blocks of
# Swin, the second shifted.


# %%
def marks(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images (count, 3, 8, 8), the place of the mark that is asked, and the color of the other."""
    draw = torch.Generator().manual_seed(seed)
    images, n = 1.0 + 0.1 * torch.randn(count, 3, 8, 8, generator=draw), torch.arange(count)
    row, column, other_row = (torch.randint(k, (count,), generator=draw) for k in (8, 2, 8))
    other_column = torch.randint(4, 8, (count,), generator=draw)
    color = torch.randint(2, (2, count), generator=draw)
    images[n, color[0], row, column] += 2
    images[n, 2, row, column] += 2  # it is the one that is asked
    images[n, color[1], other_row, other_column] += 2
    return images, 8 * row + column, color[1]


def at_the_mark(model: nn.Module, images: Tensor, place: Tensor) -> Tensor:
    tokens = model.norm(model.features(images)[-1]).flatten(1, 2)
    return model.head(tokens[torch.arange(len(tokens)), place])


# %%
SIZE = {"image": 8, "patch": 1, "classes": 2, "dim": 16, "heads": (2,), "window": 2, "drop_path": 0.0}


def make(kind: str) -> nn.Module:
    torch.manual_seed(seed)
    if kind == "swin":
        model = Swin(depths=(2,), **SIZE)
    else:
        model = Focal(depths=(1,), expand=1, regions=(7 if kind == "focal" else 1,), wrap=False, **SIZE)
    for module in model.modules():  # the usual small weights need long to get going in a block alone
        if isinstance(module, nn.Linear) and module.out_features > 1:
            nn.init.xavier_uniform_(module.weight)
    return model


def named(kind: str) -> float:
    """Percent of new images whose far color is named."""
    model = make(kind)
    training.fit(
        model, marks(4000, 2 * seed), lambda m, b: F.cross_entropy(at_the_mark(m, *b[:2]), b[2]), steps=STEPS_MARKS,
        batch_size=32, lr=RATE_MARKS[kind], schedule=training.cosine(STEPS_MARKS, 15), seed=seed, device="cpu",
        label=kind,
    )  # fmt: skip
    images, place, color = marks(1000, 2 * seed + 1)
    with torch.no_grad():
        return 100 * (at_the_mark(model, images, place).argmax(-1) == color).float().mean().item()


# %%
STEPS_MARKS, RATE_MARKS = 300, {"focal": 2e-2, "ring": 2e-2, "swin": 2e-2}
focal, ring_only, swin = (named(kind) for kind in ("focal", "ring", "swin"))
verdicts = [claims.report("focal.far-in-one-block", focal=focal, ring_only=ring_only, swin=swin)]

# %% tags=["hide-input"]
show.glue("local-focal", f"{focal:.0f} %")
show.glue("local-ring-only", f"{ring_only:.0f} %")
show.glue("local-swin", f"{swin:.0f} %")

# %% [markdown]
# In this run {glue:text}`local-focal` with pooled keys, {glue:text}`local-ring-only` with the ring alone and
# {glue:text}`local-swin` with two blocks of Swin, where guessing gets half. The last two cannot do better: their output
# does not depend on the far mark at all, which a gradient shows without any training. So this says that the connection
# is there and can be learned from a mean of four tokens. What it is worth on photographs is not tested here.
#
# :::{when} focal.far-in-one-block positive
# Over the recorded seeds the focal block names {recorded}`focal.far-in-one-block:focal` percent.
# :::
# :::{when} focal.far-in-one-block otherwise
# The recorded seeds say: {verdict}`focal.far-in-one-block`; the card says why.
# :::

# %%
far = torch.zeros(3, 8, 8, dtype=torch.bool)
for i, kind in enumerate(("focal", "ring", "swin")):
    images = marks(1, 0)[0].requires_grad_()
    (gradient,) = torch.autograd.grad(at_the_mark(make(kind).eval(), images, torch.tensor([0])).sum(), images)
    far[i] = gradient[0].abs().sum(0) > 0
assert far[0, :, 4:].all() and not far[1:, :, 4:].any()

# %% [markdown]
# ## Where is the corner?
#
# HRFormer is made for tasks whose answer is a *place*. Draw two lines that meet at an angle, one more that meets
# nothing, and noise; ask for the pixel where the two meet. A model gives a score for each of $24 \times 24$ pixels.


# %%
def line(a: Tensor, b: Tensor, side: int = 24) -> Tensor:
    """Segments from a to b (count, 2) as images (count, side, side)."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    pixel, along = torch.stack([y, x], -1).float(), (b - a)[:, None, None]
    offset = pixel - a[:, None, None]
    share = ((offset * along).sum(-1) / along.square().sum(-1)).clamp(0, 1)
    return (1.5 - (offset - share[..., None] * along).norm(dim=-1) / 0.8).clamp(0, 1)


def corners(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images (count, 1, 24, 24) and the pixel of the corner, counted in reading order."""
    draw = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=draw)

    def toward(angle: Tensor) -> Tensor:
        return torch.stack([angle.sin(), angle.cos()], -1)

    tip, turn = (4 + 15 * uniform(count, 2)).round(), 2 * torch.pi * uniform(count)
    angle = (0.25 + 0.5 * uniform(count)) * torch.pi * (2.0 * (uniform(count) < 0.5) - 1)
    image = line(tip, tip + (6 + 4 * uniform(count))[:, None] * toward(turn))
    image = image.maximum(line(tip, tip + (6 + 4 * uniform(count))[:, None] * toward(turn + angle)))
    middle, half = 24 * uniform(count, 2), 8 * toward(2 * torch.pi * uniform(count))
    image = image.maximum(line(middle - half, middle + half)) + 0.15 * torch.randn(count, 24, 24, generator=draw)
    return image[:, None], (24 * tip[:, 0] + tip[:, 1]).long()


# %% [markdown]
# Three arms: a small HRFormer with maps of $12 \times 12$ and $6 \times 6$ tokens, read at its finest; the same without
# the depthwise convolutions; and a Swin of two stages with no fewer parameters, read at its last map, as a pyramid
# ends. A linear layer spreads each token's scores over the pixels that the token stands for.


# %%
class Finder(nn.Module):
    """A trunk, and scores (B, pixels) from one of its maps."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        common = {"channels": 1, "classes": 1, "window": 3}
        if kind == "swin":
            self.trunk = Swin(image=24, patch=2, dim=12, depths=(2, 2), heads=(2, 4), drop_path=0.0, **common)
        else:
            size = {"dim": 8, "heads": 2, "modules": (2,), "blocks": 1, "bottlenecks": 0, "stem": 8, "strides": (1, 2)}
            self.trunk = HRFormer(depthwise=kind == "hrformer", **size, **common)
        self.which, width, step = (-1, 24, 4) if kind == "swin" else (0, 8, 2)
        self.scores = nn.Sequential(nn.Conv2d(width, step * step, 1), nn.PixelShuffle(step))

    def forward(self, images: Tensor) -> Tensor:
        return self.scores(self.trunk.features(images)[self.which].movedim(-1, 1)).flatten(1)


def found(kind: str) -> float:
    """Percent of new corners that are found within one pixel, up, down or aslant."""
    torch.manual_seed(seed)
    model = Finder(kind)
    training.fit(
        model, corners(6000, 2 * seed), lambda m, b: F.cross_entropy(m(b[0]), b[1]), steps=STEPS_CORNERS,
        batch_size=32, lr=RATE_CORNERS[kind], schedule=training.cosine(STEPS_CORNERS, 20), seed=seed, device="cpu",
        label=kind,
    )  # fmt: skip
    images, pixel = corners(1000, 2 * seed + 1)
    with torch.no_grad():
        guess = model(images).argmax(-1)
    off = torch.stack([guess // 24 - pixel // 24, guess % 24 - pixel % 24]).abs().amax(0)
    return 100 * (off <= 1).float().mean().item()


# %%
STEPS_CORNERS, RATE_CORNERS = 200, {"hrformer": 3e-2, "without": 3e-2, "swin": 3e-2}
hits = {kind: found(kind) for kind in RATE_CORNERS}
gain, lead = hits["hrformer"] - hits["without"], hits["hrformer"] - hits["swin"]
verdicts.append(claims.report("hrformer.convolution-crosses", gain=gain, with_it=hits["hrformer"]))
verdicts.append(claims.report("hrformer.fine-map", lead=lead, swin=hits["swin"]))

# %% tags=["hide-input"]
show.bars(
    {"HRFormer": hits["hrformer"], "without the convolution": hits["without"], "Swin, last map": hits["swin"]},
    y_label="corners found within a pixel, %",
    alt="Three bars: corners found by HRFormer, by HRFormer without its depthwise convolutions, and by Swin.",
    caption="This run. The records judge over seeds.",
)

# %% [markdown]
# The convolution: {verdict}`hrformer.convolution-crosses`, by {recorded}`hrformer.convolution-crosses:gain` points.
# The fine map: {verdict}`hrformer.fine-map`, by {recorded}`hrformer.fine-map:lead` points over Swin. Both races stop
# after 200 steps, long before anybody's best: a part of a lead is that convolutions learn faster. And this Swin is read
# where its map is coarsest; a detector would read all its maps.
#
# ## What does it cost?
#
# Multiply-adds are an estimate of time, and a poor one: rolling, gathering and norms multiply little and take long.
# EfficientFormer's authors measured on a phone. We measure on one thread of a CPU: each kind of block, in each stage
# of L1, one image at a time.


# %%
@torch.no_grad()
def milliseconds(layer: nn.Module, x: Tensor, runs: int = 15) -> float:
    """Processor time of a forward pass, the best of several; the first, which warms up, does not count."""
    layer.eval()
    layer(x)
    taken = []
    for _ in range(runs):
        start = time.process_time()
        layer(x)
        taken.append(time.process_time() - start)
    return 1e3 * min(taken)


STAGES = list(zip((48, 96, 224, 448), (56, 28, 14, 7), (3, 2, 6, 4), strict=True))  # channels, side, blocks of L1
pooling, attending = [], []
for dim, side, _ in STAGES:
    x = torch.randn(1, side, side, dim)
    pooling.append(milliseconds(local_block(dim, layer_scale=1e-5), x))
    block = Block(dim, OffsetAttention(dim, side), MLP(dim, 4 * dim), layer_scale=1e-5)
    attending.append(milliseconds(block, x, runs=1 if side == 56 else 15))
early, late = attending[0] / pooling[0], attending[-1] / pooling[-1]
verdicts.append(claims.report("efficientformer.attend-late", early=early, late=late))

# %% tags=["hide-input"]
show.table(
    [
        {"map": f"{side} × {side}, {dim} channels", "pooling, ms": p, "attention, ms": a, "ratio": a / p}
        for (dim, side, _), p, a in zip(STAGES, pooling, attending, strict=True)
    ],
    caption="Milliseconds of one block on this machine, in this run.",
)
show.glue("local-early", f"{early:.0f}")
show.glue("local-late", f"{late:.1f}")

# %% [markdown]
# A block that attends costs {glue:text}`local-early` times one that pools on the finest map, and
# {glue:text}`local-late` times on the coarsest ({verdict}`efficientformer.attend-late`). Nothing about attention is
# slow as such: on $49$ tokens it is a few small products. With such a table, and without training anything, one can
# predict what a network costs whose *last* $k$ blocks attend: add up. The paper searches over a trained larger network,
# weighing each block's worth against its entry in such a table; we look at the price alone.

# %%
kinds = [(p, a) for (p, a), (_, _, blocks) in zip(zip(pooling, attending, strict=True), STAGES, strict=True)
         for _ in range(blocks)]  # fmt: skip
ks = list(range(len(kinds) + 1))
blocks_ms = [sum(p for p, _ in kinds[: len(kinds) - k]) + sum(a for _, a in kinds[len(kinds) - k :]) for k in ks]
image = torch.randn(1, 3, 224, 224)
whole = {k: milliseconds(EfficientFormer(global_blocks=k), image, runs=4) for k in (0, 1, 4, 10)}
print({k: f"{ms:.0f} ms, its blocks {blocks_ms[k]:.0f}" for k, ms in whole.items()})

# %% tags=["hide-input"]
show.lines(
    {"blocks, added up": ks, "whole network, measured": list(whole)},
    {"blocks, added up": blocks_ms, "whole network, measured": list(whole.values())},
    x_label="last blocks that attend, of 15",
    y_label="milliseconds for one image",
    log_y=True,
    alt="Milliseconds over the number of blocks that attend. The curve is flat up to four, rises slowly to ten, and "
    "then steeply where the finest maps attend. Measured networks lie above the sum of their blocks.",
    caption="The paper's L1 has one block that attends. The stem and what joins patches are not in the sum.",
)

# %% [markdown]
# And the norms? The feed-forward networks of the four stages, with layer norms before linear layers, with batch norms
# behind convolutions, and with these folded:


# %%
def folded(layers: nn.Sequential) -> nn.Sequential:
    """The same with each batch norm inside the convolution in front of it."""
    conv, norm, act, second, last = layers
    return nn.Sequential(nn.utils.fuse_conv_bn_eval(conv, norm), act, nn.utils.fuse_conv_bn_eval(second, last))


taken = {"layer norms": 0.0, "batch norms": 0.0, "folded": 0.0}
for dim, side, _ in STAGES:
    x = torch.randn(1, dim, side, side).contiguous(memory_format=torch.channels_last)
    wide = nn.Conv2d(dim, 4 * dim, 1), nn.BatchNorm2d(4 * dim), nn.GELU()
    convs = nn.Sequential(*wide, nn.Conv2d(4 * dim, dim, 1), nn.BatchNorm2d(dim)).eval()
    assert torch.allclose(folded(convs)(x), convs(x), atol=1e-4)
    first = nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU()
    linear = nn.Sequential(*first, nn.LayerNorm(4 * dim), nn.Linear(4 * dim, dim))
    tokens = x.movedim(1, -1)
    for kind, layer, input in (
        ("layer norms", linear, tokens),
        ("batch norms", convs, x),
        ("folded", folded(convs), x),
    ):
        taken[kind] += milliseconds(layer, input, runs=25)
ratios = {kind: ms / taken["layer norms"] for kind, ms in taken.items()}
verdicts.append(claims.report("efficientformer.norms-fold", folded=ratios["folded"], unfolded=ratios["batch norms"]))
print({kind: f"{ms:.1f} ms" for kind, ms in taken.items()})

# %% [markdown]
# In this run convolutions with folded norms take {glue:text}`local-folded` of the time of linear layers with layer
# norms, and with norms as they are {glue:text}`local-unfolded`. The paper's observation is about a phone and its
# compiler; on our CPU the records say: {verdict}`efficientformer.norms-fold`. (Its sentence we know from others'
# quotations alone, so no verdict here can be positive.)

# %% tags=["hide-input"]
show.glue("local-folded", f"{100 * ratios['folded']:.0f} %")
show.glue("local-unfolded", f"{100 * ratios['batch norms']:.0f} %")

# %% [markdown]
# ## What breaks
#
# **The ring goes around the border.** The official code makes rings by rolling the map, and does not mask what comes
# around: a token in the first column hears the last one. Published weights were trained so, and ours must do the same
# to be equal. A gradient finds it; a test of shapes or of one window in the middle does not.

# %%
around, flat = (FocalAttention(8, 2, window=4, expand=2, region=1, wrap=wrap) for wrap in (True, False))
print("token (0, 0) hears column 15:", [bool(heard(layer, 0, 0)[:, 15].any()) for layer in (around, flat)])
assert heard(around, 0, 0)[:, 15].any() and not heard(flat, 0, 0)[:, 15].any()
assert torch.equal(heard(around, 9, 9), heard(flat, 9, 9))  # in the middle there is nothing to see

# %% [markdown]
# **Pooling counts its padding.** With zeros beyond the border counted in, the mean at a border is too small, so that
# pooling minus the token is not zero for a constant image. The check is that image.

# %%
constant = torch.ones(1, 1, 6, 6)
counted = nn.AvgPool2d(3, 1, 1)(constant) - constant
assert not Pool()(constant).any() and counted.abs().max() > 0.5
print("left of a constant at the corner:", round(counted[0, 0, 0, 0].item(), 2))

# %% [markdown]
# **Folding while training.** A batch norm in training uses the statistics of its batch. Who folds a model that is still
# in training mode, or goes on training after it, gets another network. torch refuses the first; check the second by
# comparing outputs before and after, on images that are not all alike.

# %%
conv, norm = nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8)
x = 3 + 2 * torch.randn(16, 4, 5, 5)
before = norm(conv(x))  # in training mode: its batch's own mean
one = nn.utils.fuse_conv_bn_eval(conv.eval(), norm.eval())
assert (one(x) - before).abs().max() > 0.5 and (one(x) - norm(conv(x))).abs().max() < 1e-4

# %% [markdown]
# ## Ours and the papers'
#
# | What differs | Ours | The papers' | What it does |
# |---|---|---|---|
# | Focal's masks | minus infinity | minus 100 is added | equal unless scores differ by more than about 80 |
# | Focal's pooling starts | as a mean | as small random numbers, though written as a mean | another start |
# | Focal's maps | windows must divide them | padded, and padding attended to | equal for published sizes |
# | HRFormer's queries, keys, values | one matrix | three | equal; loading joins them |
# | EfficientFormer's search | the price alone | price against worth in a trained network | other networks |
# | time | one thread of a CPU | an iPhone 12 with CoreML | other numbers, and maybe another order |
# | tasks | marks and corners | ImageNet, COCO, ADE20K | says nothing about their scores |
#
# Focal's own repository prints its price: $319$ images a second where Swin-T has $760$, at nearly equal multiply-adds.
# Its authors later wrote a faster version, and then another model (FocalNet), without attention.

# %% tags=["hide-input"]
claims.summary(verdicts)

# %% [markdown]
# ## Questions

# %%
per_query = 7**2 + len(ring(7, 3)) + 7**2
show.quiz(
    "How many keys has a query in the first stage of Focal-T (window 7, ring of 3, pooled region 7), at most?",
    [
        ("181", "That leaves out the pooled windows.", per_query == 181),
        ("218", "That counts 120 places in the ring; the code has 132 keys for them.", per_query == 218),
        ("230", "49 in the window, 132 in the ring, 49 pooled; of 3136 tokens.", per_query == 230),
        ("3136", "That is global attention.", per_query == 3136),
    ],
    name="local-keys",
)  # fmt: skip

# %%
deep = nn.Sequential(*[CenteredWindows(8, 2, 4) for _ in range(6)])
reach = int(heard(deep).sum())
show.quiz(
    "HRFormer's windows never move. Without its convolutions and on one map alone, how many of 256 tokens does a token "
    "hear after six blocks, with windows of $4 \\times 4$?",
    [
        ("16", "Its own window, however deep: blocks of the same windows add nothing.", reach == 16),
        ("96", "Six blocks have the same windows; nothing new comes in.", reach == 96),
        ("256", "Nothing ever crosses a border.", reach == 256),
    ],
    name="local-still",
)  # fmt: skip


# %%
def products(side: int) -> int:
    """Multiply-adds of tokens with tokens in a block that attends."""
    linear = side**2 * (48 * 8 * (32 + 32 + 128) + 8 * 128 * 48)
    return measures.macs(OffsetAttention(48, side), (side, side, 48)) - linear


growth = products(28) / products(14)
show.quiz(
    "The side of the image doubles. By what do the products of tokens with tokens grow in a block that attends?",
    [
        ("by 2", "There are four times as many tokens.", growth == 2),
        ("by 4", "That is what pooling and convolutions grow by.", growth == 4),
        ("by 16", "Four times as many queries, each with four times as many keys.", growth == 16),
    ],
    name="local-growth",
)  # fmt: skip

# %%
leaves = Pool()(torch.full((1, 1, 4, 4), 7.0)).abs().max().item()
show.quiz(
    "What does EfficientFormer's pooling make of an image of one color?",
    [
        ("the same image", "The token is taken off the mean.", leaves == 7),
        ("zero everywhere", "Mean minus token; padding does not count, so borders are no exception.", leaves == 0),
        ("zero, but not at the border", "It would if padding counted.", 0 < leaves < 7),
    ],
    name="local-constant",
)  # fmt: skip

# %% [markdown]
# ## Exercises
#
# ```{exercise} The ring, each place once
# :label: local-ring
# Write `places(window, expand)`: the set of places $(y, x)$ around a window, counted from its upper left token, each
# once. The window itself is not among them.
# ```
#
# ```{stub} local-ring
# def places(window, expand):
#     raise NotImplementedError
# ```
#
# ```{admonition} Hint
# :class: dropdown
# All places of the larger square, minus those of the window.
# ```
#
# ```{solution-start} local-ring
# :class: dropdown
# ```


# %%
def places(window: int, expand: int) -> set[tuple[int, int]]:
    def square(start: int, end: int) -> set[tuple[int, int]]:
        return {(y, x) for y in range(start, end) for x in range(start, end)}

    return square(-expand, window + expand) - square(0, window)


tf.check("local-ring", places)
assert places(7, 3) == {(y, x) for y, x in ring(7, 3).tolist()}

# %% [markdown]
# ```{solution-end}
# ```
#
# ```{exercise} Pool without a library
# :label: local-pool
# Write `pool(x)` for a map $(H, W)$: the mean of the $3 \times 3$ around each place, counting only what is on the map,
# minus the place itself.
# ```
#
# ```{stub} local-pool
# def pool(x):
#     raise NotImplementedError
# ```
#
# ```{admonition} Hint
# :class: dropdown
# Pad a map of ones the same way: it counts.
# ```
#
# ```{solution-start} local-pool
# :class: dropdown
# ```


# %%
def pool(x: Tensor) -> Tensor:
    def total(values: Tensor) -> Tensor:
        height, width = values.shape
        padded = F.pad(values, (1, 1, 1, 1))
        return sum(padded[i : i + height, j : j + width] for i in range(3) for j in range(3))

    return total(x) / total(torch.ones_like(x)) - x


tf.check("local-pool", pool)

# %% [markdown]
# ```{solution-end}
# ```
#
# ```{exercise} Fold a norm
# :label: local-fold
# Write `fold(conv, norm)`: a new convolution that gives what the batch norm (in eval mode) gives behind the old one.
# The old convolution may have no bias, and any stride.
# ```
#
# ```{stub} local-fold
# def fold(conv, norm):
#     raise NotImplementedError
# ```
#
# ```{admonition} Hint
# :class: dropdown
# The factor of an output channel multiplies everything that makes this channel. The norm has an epsilon of its own.
# ```
#
# ```{solution-start} local-fold
# :class: dropdown
# ```


# %%
def fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    size = conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding
    one, factor = nn.Conv2d(*size), norm.weight / (norm.running_var + norm.eps).sqrt()
    bias = conv.bias if conv.bias is not None else torch.zeros_like(factor)
    with torch.no_grad():
        one.weight.copy_(conv.weight * factor[:, None, None, None])
        one.bias.copy_((bias - norm.running_mean) * factor + norm.bias)
    return one


tf.check("local-fold", fold)

# %% [markdown]
# ```{solution-end}
# ```
#
# ```{exercise} How far in how many blocks?
# :label: local-far
# One map, windows of $4 \times 4$ that stand still, with the depthwise convolution. How many columns to the right does
# the *first* token of a row hear after one, two and three blocks? Guess, then measure with `heard`.
# ```
#
# ```{solution-start} local-far
# :class: dropdown
# ```
#
# The convolution stands *behind* the attention of its block. So in one block the first token hears, through its right
# neighbor, no new window: column $3$. From the border on, each block adds a window.

# %%
blocks = [nn.Sequential(CenteredWindows(8, 2, 4), ConvMLP(8, 16)) for _ in range(3)]
columns = [int(heard(nn.Sequential(*blocks[:n]), 0, 0).any(0).nonzero().max()) for n in (1, 2, 3)]
print(columns)
assert columns == [3, 7, 11]

# %% [markdown]
# ```{solution-end}
# ```
#
# ```{exercise} A budget
# :label: local-budget
# You may spend one and a half times the milliseconds of the network that never attends. How many of its last blocks may
# attend? Does the answer change if you may choose *any* blocks, and count how many attend?
# ```
#
# ```{solution-start} local-budget
# :class: dropdown
# ```
#
# Take blocks by what attending adds, the cheapest first. As coarse maps are cheapest, that is the same as from the end.

# %%
budget = 1.5 * blocks_ms[0]
last = max(k for k in ks if blocks_ms[k] <= budget)
extra = torch.tensor([a - p for p, a in kinds]).sort().values.cumsum(0)
any_blocks = int((blocks_ms[0] + extra <= budget).sum())
print(last, "of the last,", any_blocks, "of any")
assert any_blocks >= last

# %% [markdown]
# ```{solution-end}
# ```
#
# ```{exercise} Break it: pooled keys of the wrong windows
# :label: local-break
# Someone gathers the pooled keys with rows and columns of windows exchanged. On square maps all shapes are right, and
# the model trains. Write a test that catches it without a second implementation.
# ```
#
# ```{solution-start} local-break
# :class: dropdown
# ```
#
# Ask who hears whom on a map that is not symmetric about its diagonal: with a region of three windows, a token in the
# upper right hears the upper right. With rows and columns exchanged it hears the lower left.

# %%
layer = FocalAttention(8, 2, window=4, expand=1, region=3, wrap=False)
right = heard(layer, 0, 15)
honest = layer.keys


def exchanged(h: int, w: int) -> tuple[Tensor, Tensor, Tensor]:
    fine, coarse, seen = honest(h, w)
    return fine, coarse % 4 * 4 + coarse // 4, seen


layer.keys = exchanged
wrong = heard(layer, 0, 15)
assert right[0, 8] and not right[15, 0] and wrong[15, 0]

# %% [markdown]
# ```{solution-end}
# ```
#
# ## Further reading
#
# - {cite:t}`yang2021`, section 3.2: levels, windows and regions; the figure of the focal keys is worth the visit.
# - {cite:t}`yuan2021hrformer`: the block, and the exchange that it takes from high-resolution convolutional networks.
# - {cite:t}`li2022efficientformer`, section 3: four observations, each with a measured chart.
