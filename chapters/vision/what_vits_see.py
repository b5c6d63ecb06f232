# ---
# jupyter:
#   jupytext: {text_representation: {extension: .py, format_name: percent}}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# (what-vits-see)=
# # What Vision Transformers see
#
# Two networks read the same digits equally well. Do they do it in the same way? Their weights can't be compared, for
# one has kernels and the other has queries. {cite:t}`raghu2021` compared what their layers hold to be alike.
# {cite:t}`bhojanapalli2021` left layers out and spoiled the images. This chapter builds both kinds of probe, small
# enough for a few minutes, and asks of two trained networks what the papers asked of large ones.
#
# After this chapter you can
# - compute centered kernel alignment by hand, and say what it does not see;
# - take a layer out of a trained network and read what the loss of accuracy means;
# - disturb images in a way that is fair to two models, and know why a fair comparison starts from equal accuracy.
#
# **Time**: under a minute on one CPU core; the line above says what this copy took. **Before**: the {ref}`ViT chapter
# <vit>`.

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
from itertools import pairwise

import numpy as np
import plotly.graph_objects as go
import torch
from torch import Tensor, nn

import tformerlib as tf
from tformerlib import claims, show
from tformerlib.data.images import as_floats
from tformerlib.layers.convs import basic_block
from tformerlib.models.resnet import ResNet
from tformerlib.models.vit import ViT
from tformerlib.probes import blurred, cka, cka_map, fgsm, hsic, noisy, occluded, outputs_of, shuffled, without
from tformerlib.training import compare

# %% tags=["parameters"]
profile = "quick"  # quick: one CPU core.  colab: one T4.  full: one large GPU.
seed = 0

# %%
run = tf.parameters(profile=profile, seed=seed)

# %% [markdown]
# ```{diagram} what_vits_see
# Two networks, the same examples. Each layer says which examples it holds to be alike; that can be compared.
# ```
#
# ## The question: when are two layers alike?
#
# Take a layer with two outputs and rotate them. Nothing is lost, and the next layer can undo it. A measure that calls
# the two different would answer a question nobody has. Correlating each output with its namesake does just that.

# %%
examples = torch.randn(100, 2, generator=torch.Generator().manual_seed(seed))
quarter_turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
turned = examples @ quarter_turn
by_namesake = np.mean([np.corrcoef(examples[:, i], turned[:, i])[0, 1] for i in range(2)])
print(f"correlation of each output with its namesake: {by_namesake:+.2f}")
show.expect(abs(by_namesake) < 0.3, "the rotated outputs hardly correlate with their namesakes")

# %% [markdown]
# ## By hand: four examples
#
# What survives a rotation is which examples lie close together. So let each layer fill in a table of products, an
# example in each row and each column, and compare tables. Take four examples at the corners of a square, and a second
# layer that keeps only left and right.

# %%
square = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
left_right = square[:, :1]
K, L = square @ square.T, left_right @ left_right.T
print("products in the square:\n", K.int().numpy(), "\nleft and right alone:\n", L.int().numpy())

# %% [markdown]
# Forget the diagonal, an example with itself. In the first table two of a row's three other entries are 0 and one is
# -2; in the second they are 1, -1, -1. Multiply the tables entry by entry and sum: each row gives $0 + 0 + 2$, with the
# opposite corner, so 8 in all. Every row of the first sums to -2, of the second to -1. The **Hilbert-Schmidt
# independence criterion** puts that together, without bias for any number of examples {cite:p}`raghu2021`:
#
# $$ \frac{1}{n (n - 3)} \Big( 8 + \frac{(-8)(-4)}{(n-1)(n-2)} - \frac{2}{n-2} \cdot 4 \cdot (-2)(-1) \Big)
#    = \frac14 \Big( 8 + \frac{32}{6} - 8 \Big) = \frac43 , \qquad n = 4 . $$

# %%
assert torch.isclose(hsic(K, L), torch.tensor(4 / 3))
print("square with left-right:", hsic(K, L).item(), " square with itself:", hsic(K, K).item())

# %% [markdown]
# **Centered kernel alignment** divides it by the same of each table with itself, as a cosine does: one for layers that
# differ by a rotation and a scale, about zero for layers that have nothing to do with each other.
#
# ## Build it
#
# Products of examples, and three sums. That is all.


# %%
def alignment(x: Tensor, y: Tensor) -> float:
    """CKA of two layers, (n, ...) each, of the same examples in the same order."""

    def table(x: Tensor) -> Tensor:
        products = x.flatten(1).double() @ x.flatten(1).double().T
        return products.fill_diagonal_(0)

    def independence(k: Tensor, l: Tensor) -> Tensor:
        n = len(k)
        rows = (k.sum(1) * l.sum(1)).sum()
        return (k * l).sum() + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * rows

    k, l = table(x), table(y)
    return (independence(k, l) / (independence(k, k) * independence(l, l)).sqrt()).item()


# %%
assert abs(alignment(examples, turned) - 1) < 1e-6
assert abs(alignment(examples, 7 * examples + 3) - 1) < 1e-6
stretched = examples * torch.tensor([9.0, 1.0])
print(f"rotated: {alignment(examples, turned):.2f}, one output stretched: {alignment(examples, stretched):.2f}")

# %% [markdown]
# It sees neither rotation nor scale nor shift, and it does see a stretch, since a stretch changes who is close to whom.
# That is a choice. A linear layer could undo the stretch as well.
#
# ## The library's version
#
# `probes.cka` is the same; `cka_map` averages the three sums over minibatches before it divides. The tests hold both
# against two packages, and the estimate against its definition, a mean over all choices of four examples.

# %%
x, y = torch.randn(2, 60, 5, 7)
y = y + x @ torch.randn(7, 7)
show.parity("CKA by hand against the library", abs(alignment(x, y) - cka(x, y)), tolerance=1e-10)

# %% [markdown]
# And a layer is left out by handing on its input. In a residual network the stream goes on, only without what this
# block would have added.

# %%
toy = ViT(image=16, patch=4, dim=24, depth=3, heads=3, classes=5).eval()
nn.init.normal_(toy.head.weight)
images = torch.randn(2, 3, 16, 16)
with torch.no_grad():
    streams = outputs_of(toy, ["blocks.0", "blocks.2"], images)
    with without(toy, "blocks.1", "blocks.2"):
        left = toy(images)
    by_hand = toy.head(toy.norm(streams["blocks.0"])[:, 0])
show.parity("a ViT without its last two blocks", (left - by_hand).abs().max().item(), tolerance=1e-6)

# %% [markdown]
# ## Two networks that read digits
#
# A ViT of eight blocks and a convolutional network of six. Their learning rate and their steps were chosen in pilots so
# that both read held-out digits about equally well: a network that is better anyway also stays better when images are
# spoiled, and that would say nothing.

# %%
task = compare.league(run)
side, classes = task.side, task.classes
steps = run.pick(quick={"ViT": 700, "CNN": 300}, colab={"ViT": 3000, "CNN": 1500}, full={"ViT": 20_000, "CNN": 8000})
depth = 8


def make_vit() -> ViT:
    model = ViT(image=side, patch=4, dim=48, depth=depth, heads=4, classes=classes)
    nn.init.normal_(model.positions, std=0.5)  # so few steps could not grow them
    return model


def make_cnn() -> ResNet:
    return ResNet(depths=(2, 2, 2), dims=(16, 24, 32), stem=16, block=basic_block, small=True, classes=classes)


models, clean = {}, {}
for name, make in (("ViT", make_vit), ("CNN", make_cnn)):
    torch.manual_seed(seed)
    models[name] = make()
    budget = compare.Budget(steps[name], batch_size=32, lr=1e-3)
    compare.train(models[name], task, budget, seed=seed, device=run.device, label=name)
    models[name] = models[name].cpu().eval()
    clean[name] = compare.accuracy(models[name], *task.test)
show.glue("see-vit", f"{clean['ViT']:.1f} %")
show.glue("see-cnn", f"{clean['CNN']:.1f} %")

# %% [markdown]
# The ViT reads {glue:text}`see-vit` of the test digits, the CNN {glue:text}`see-cnn`.
#
# ## The experiment: how alike are their layers?
#
# Of the ViT we take the residual stream after every sublayer, attention or MLP; of the CNN its stem and the output of
# every block. Each heatmap compares a network with itself, the third the two with each other.

# %%
layers = {
    "ViT": [f"blocks.{i}.{part}" for i in range(depth) for part in ("mixer", "mlp")],
    "CNN": ["stem", *(f"stages.{stage}.{block}" for stage in range(3) for block in range(2))],
}
batches = as_floats(task.test[0][:700]).split(100)
maps = {
    "ViT with itself": cka_map(batches, models["ViT"], layers["ViT"]),
    "CNN with itself": cka_map(batches, models["CNN"], layers["CNN"]),
    "ViT with CNN": cka_map(batches, models["ViT"], layers["ViT"], models["CNN"], layers["CNN"]),
}

# %% tags=["hide-input"]
short = {
    "ViT": [f"{i + 1} {part}" for i in range(depth) for part in ("attention", "MLP")],
    "CNN": ["stem", *(f"{stage + 1}.{block + 1}" for stage in range(3) for block in range(2))],
}
show.explore(
    maps,
    {"ViT with itself": short["ViT"], "CNN with itself": short["CNN"], "ViT with CNN": short["ViT"]},
    {"ViT with itself": short["ViT"], "CNN with itself": short["CNN"], "ViT with CNN": short["CNN"]},
    slider_label="compare",
    alt="Heatmaps of centered kernel alignment between the layers of a ViT, of a convolutional network, and of both; "
    "the diagonals are one, and values fall toward the corners.",
    caption="Choose two layers: row and column. Yellow is alike. Where do values fall in steps, and where smoothly?",
)

# %% [markdown]
# Two numbers sum up each of the first two maps: the mean outside of the diagonal, and the mean between the first and
# the last quarter of the layers.


# %%
def outside(alike: Tensor) -> float:
    """Mean similarity of two different layers."""
    n = len(alike)
    return ((alike.sum() - alike.diagonal().sum()) / (n * (n - 1))).item()


def ends(alike: Tensor) -> float:
    """Mean similarity of the first quarter of the layers and the last."""
    quarter = len(alike) // 4
    return alike[:quarter, -quarter:].mean().item()


vit_map, cnn_map = maps["ViT with itself"], maps["CNN with itself"]
reached = {"vit_accuracy": clean["ViT"], "cnn_accuracy": clean["CNN"]}
verdicts = [
    claims.report("cka.uniform", vit_mean=outside(vit_map), cnn_mean=outside(cnn_map), **reached),
    claims.report("cka.first-last", vit_ends=ends(vit_map), cnn_ends=ends(cnn_map), **reached),
]

# %% [markdown]
# {cite:t}`raghu2021` found ViT's layers much more alike than a ResNet's. Over the recorded seeds our ViT's have a mean
# of {recorded}`cka.uniform:vit_mean` and our CNN's of {recorded}`cka.uniform:cnn_mean`:
# {verdict}`cka.uniform`. Between the ends it is {recorded}`cka.first-last:vit_ends` and
# {recorded}`cka.first-last:cnn_ends`: {verdict}`cka.first-last`.
#
# Before you read much into either, consider what a residual stream is. Every layer adds a little to what is there, so
# neighbors are alike by construction, in both networks. Pilots showed more: counted with what is *inside* the branches,
# before it is added, the ViT's layers were less alike than the CNN's, and a ViT trained at a higher rate, worse at
# reading digits, had the more uniform map. The paper's networks are a hundred times as large and were trained on three
# hundred million images.
#
# ## What goes without a block?
#
# Now leave out one block at a time and count again. Nothing is trained anew.

# %%
cost = []
for i in range(depth):
    with without(models["ViT"], f"blocks.{i}"):
        cost.append(clean["ViT"] - compare.accuracy(models["ViT"], *task.test))
late = [f"blocks.{i}" for i in range(depth // 2, depth)]
with without(models["ViT"], *late):
    late_cost = clean["ViT"] - compare.accuracy(models["ViT"], *task.test)
after = [2 * i + 1 for i in range(depth // 2, depth)]  # where a block has added its MLP
late_similarity = float(np.mean([vit_map[a, b] for a, b in pairwise(after)]))

# %% tags=["hide-input"]
show.bars(
    {f"block {i + 1}": value for i, value in enumerate(cost)} | {"the last four": late_cost},
    y_label="accuracy lost, points",
    alt="Accuracy that the ViT loses without each of its blocks, and without the last four at once: "
    + ", ".join(f"{value:.0f}" for value in [*cost, late_cost]),
    caption=f"Which blocks can go? Profile {run.profile}, seed {seed}. Look at the first two and at the last bar.",
)

# %%
verdicts += [
    claims.report(
        "vit-robustness.any-block-goes",
        harmless=sum(value <= 5 for value in cost),
        dearest=max(cost),
        vit_accuracy=clean["ViT"],
    ),
    claims.report(
        "vit-robustness.correlated-but-needed",
        late_similarity=late_similarity,
        late_cost=late_cost,
        vit_accuracy=clean["ViT"],
    ),
]

# %% [markdown]
# {cite:t}`bhojanapalli2021` say that almost any single layer may go. Of our eight blocks,
# {recorded}`vit-robustness.any-block-goes:harmless` cost five points or less, and the dearest costs
# {recorded}`vit-robustness.any-block-goes:dearest`: {verdict}`vit-robustness.any-block-goes`. They also say that later
# layers are much alike and needed all the same. Neighbors among the last four have a similarity of
# {recorded}`vit-robustness.correlated-but-needed:late_similarity`, and without all four the accuracy falls by
# {recorded}`vit-robustness.correlated-but-needed:late_cost` points: {verdict}`vit-robustness.correlated-but-needed`.
#
# So a high similarity does not mean that nothing happens. Centered kernel alignment weighs directions by their size,
# and what decides a class may be a small one.
#
# ## Spoil the images
#
# Four disturbances: noise, a blur, a gray square at a random place, and a small step in every pixel along the sign of
# the loss's gradient, the **fast gradient sign method**. All act on pixels from 0 to 1, before any normalization: an
# attack of a twentieth then means the same for both networks.

# %%
pixels, labels = task.test[0].float() / 255, task.test[1]


def percent(model: nn.Module, spoiled: Tensor) -> float:
    """Accuracy on images in 0 .. 1."""
    with torch.no_grad():
        right = [(model(2 * part - 1).argmax(-1)) for part in spoiled.split(200)]
    return 100 * (torch.cat(right) == labels).float().mean().item()


spoiling = {
    "noise": lambda model, x: noisy(x, 0.2),
    "blur": lambda model, x: blurred(x, 1.0),
    "covered": lambda model, x: occluded(x, 5),
    "attacked": lambda model, x: fgsm(lambda z: model(2 * z - 1), x, labels, 0.05),
    "patches shuffled": lambda model, x: shuffled(x, 8),
}
kept = {
    name: {how: 100 * percent(model, spoil(model, pixels)) / clean[name] for how, spoil in spoiling.items()}
    for name, model in models.items()
}

# %% tags=["hide-input"]
show.table(
    [{"images": how} | {f"{name} keeps, %": kept[name][how] for name in models} for how in spoiling],
    caption=f"Accuracy on spoiled digits as a share of that on clean ones, profile {run.profile}, seed {seed}.",
)

# %% tags=["hide-input"]
levels = {
    "noise": [noisy(pixels[:5], s) for s in (0.0, 0.1, 0.2, 0.3)],
    "blur": [pixels[:5], *(blurred(pixels[:5], s) for s in (0.5, 1.0, 1.5))],
    "covered": [pixels[:5], *(occluded(pixels[:5], s) for s in (3, 5, 7))],
}


def sheet(rows: list[Tensor]) -> go.Figure:
    """Five digits in a row, a strength in each row."""
    whole = torch.cat([torch.cat(list(row), 2) for row in rows], 1).repeat_interleave(6, 1).repeat_interleave(6, 2)
    source = show.picture((255 * whole).round().byte())
    axes = {"xaxis": {"visible": False}, "yaxis": {"visible": False}, "height": 380}
    return go.Figure(go.Image(source=source, hoverinfo="skip"), axes)


show.slider(
    {how: sheet(rows) for how, rows in levels.items()},
    slider_label="spoiled by",
    alt="Five digits, clean in the first row and more and more spoiled below, by noise, blur or a gray square.",
    caption="From clean to strong. The table above uses the third row.",
)

# %%
spoiled = ["noise", "blur", "covered", "attacked"]
verdicts.append(
    claims.report(
        "vit-robustness.as-robust",
        vit_kept=float(np.mean([kept["ViT"][how] for how in spoiled])),
        cnn_kept=float(np.mean([kept["CNN"][how] for how in spoiled])),
        **reached,
    )
)

# %% [markdown]
# The paper's sentence is about networks that saw enough images before. Ours saw a thousand. Over the recorded seeds the
# ViT keeps {recorded}`vit-robustness.as-robust:vit_kept` percent of its accuracy and the CNN
# {recorded}`vit-robustness.as-robust:cnn_kept`: {verdict}`vit-robustness.as-robust`.
#
# The last row of the table is no disturbance that one should resist. A digit whose quarters were exchanged is no digit
# any more; who still reads one goes by pieces.
#
# ## Look inside: how far does it look?
#
# {cite:t}`raghu2021` also measured how far attention reaches: for each head, the distance in pixels between a patch and
# what it looks at, weighted by how much it looks.

# %%
from tformerlib.attention import record_attention

with torch.no_grad(), record_attention() as calls:
    models["ViT"](as_floats(task.test[0][:200]))
grid = side // 4
place = torch.stack(torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij"), -1).view(-1, 2) * 4.0
between = torch.cdist(place, place)
reach = []
for weights in calls:
    patches = weights[:, :, 1:, 1:]  # without the class token
    shares = patches / patches.sum(-1, keepdim=True)
    reach.append((shares * between).sum(-1).mean((0, 2)))
evenly = between.mean().item()

# %% tags=["hide-input"]
show.heatmap(
    torch.stack(reach),
    [f"block {i + 1}" for i in range(depth)],
    [f"head {h + 1}" for h in range(4)],
    alt="Mean distance in pixels at which each head of each block looks, from "
    f"{min(r.min().item() for r in reach):.1f} to {max(r.max().item() for r in reach):.1f}.",
    caption=f"Mean attention distance in pixels. Looking evenly at all patches gives {evenly:.1f}.",
)

# %% [markdown]
# ## What breaks
#
# **Too few examples, and the usual estimate.** Centered kernel alignment is often computed with tables whose rows and
# columns were centered, diagonal included. That estimate is biased: with more features than examples, two layers that
# have nothing to do with each other come out alike. Here are layers of pure noise.


# %%
def usual(x: Tensor, y: Tensor) -> float:
    """The biased estimate: tables centered, diagonals left in."""
    center = torch.eye(len(x)) - 1 / len(x)
    k, l = (center @ (z.flatten(1) @ z.flatten(1).T) @ center for z in (x, y))
    return ((k * l).sum() / (k.norm() * l.norm())).item()


noise = [torch.randn(2, 20, width, generator=torch.Generator().manual_seed(seed)) for width in (5, 50, 500)]
biased, unbiased = [usual(*pair) for pair in noise], [cka(*pair) for pair in noise]
show.table(
    [
        {"features": w, "usual estimate": b, "unbiased": u}
        for w, b, u in zip((5, 50, 500), biased, unbiased, strict=True)
    ],
    caption="Two layers of noise, 20 examples: the right answer is 0.",
)
assert biased[-1] > 0.9 and abs(unbiased[-1]) < 0.2

# %% [markdown]
# The check is that table: a measure of likeness is tried on noise before it is tried on networks.
#
# **Averages in the wrong order.** With minibatches one may average the three sums and divide once, or divide in every
# batch and average ratios. The second is not the first.

# %%
first, last = layers["ViT"][0], layers["ViT"][-1]
pairs = [outputs_of(models["ViT"], [first, last], part) for part in torch.cat(batches).split(10)]
ratios = float(np.mean([cka(*each.values()) for each in pairs]))
right = cka_map(torch.cat(batches).split(10), models["ViT"], [first], None, [last])[0, 0].item()
print(f"batches of 10: {ratios:.3f} by ratios, {right:.3f} by sums, {vit_map[0, -1]:.3f} by sums in batches of 100")

# %% [markdown]
# **An attack after normalization.** A step of a twentieth in a network's own units, where pixels run from -1 to 1, is
# half as large as one in pixels. The check: attacked images, taken back to pixels, differ from the clean ones by the
# budget.

# %%
attacked = fgsm(lambda z: models["ViT"](2 * z - 1), pixels[:50], labels[:50], 0.05)
budgets = {"pixels": (attacked - pixels[:50]).abs().max().item(), "normalized": 0.05 / 2}
assert abs(budgets["pixels"] - 0.05) < 1e-6 and budgets["normalized"] < budgets["pixels"]
print(budgets)

# %% [markdown]
# ## Ours and the papers'
#
# | What differs | Ours | The papers' | What it does |
# |---|---|---|---|
# | images | a thousand handwritten digits | ImageNet, JFT-300M | the claim about robustness is conditional on data |
# | networks | 230,000 and 65,000 parameters | up to 632 million | a short stream may stay more alike, or less |
# | layers compared | the stream after each sublayer | inside of branches too | with those ours are less alike |
# | perturbations | four | ImageNet-C, -R, -A, several attacks | a mean over four hides how they differ |
#
# Easy: both probes need forward passes only. Hard: to say what a similarity of 0.8 *means*. A number without its
# values for noise, for a rotation, and for another network of the same kind means little.
#
# ## Questions
#
# Choose before you read on: each answer says why it is right or wrong. Which one is right was computed by this run.

# %% tags=["hide-input"]
a = torch.randn(50, 4, 6)
mixed = a[:, torch.randperm(4)]
show.quiz(
    "You permute the tokens of a layer, the same way for every image. What does CKA over all tokens say?",
    [
        ("1: the same", "Products of examples sum over tokens, in any order.", abs(cka(a, mixed) - 1) < 1e-9),
        ("About 0", "It would be so if the *examples* were permuted.", abs(cka(a, mixed)) < 0.5),
        ("It depends on the permutation", "A sum has no order.", False),
    ],
    name="see-tokens",
)
show.quiz(
    "A block is left out of a residual network. What does the next block read?",
    [
        (
            "What the left-out block read.",
            "The stream goes on without this block's share.",
            bool((left - by_hand).abs().max() < 1e-6),
        ),
        ("Zeros.", "That would be the branch alone, without the skip.", False),
        ("Noise.", "Nothing random is put in.", False),
    ],
    name="see-left-out",
)

# %% tags=["hide-input"]
show.quiz(
    "Two layers of noise, 20 examples, 500 features. What does the usual, biased estimate say?",
    [
        ("Nearly 0", "The unbiased one does.", biased[-1] < 0.3),
        (f"{biased[-1]:.2f}", "With more features than examples every table is nearly its diagonal.", biased[-1] > 0.8),
        ("About a half", "It moves toward 1 as features are added.", 0.3 < biased[-1] < 0.8),
    ],
    name="see-bias",
)
show.quiz(
    "Neighboring late blocks have a similarity near 1. What follows?",
    [
        ("They can all go.", f"Here that costs {late_cost:.0f} points.", late_cost < 0.5),
        ("Not that they can go.", "Small directions may decide; the measure weighs by size.", late_cost >= 0.5),
        ("They have equal weights.", "It compares outputs.", False),
    ],
    name="see-similar",
)

# %% [markdown]
# ## Exercises
#
# ```{exercise} The table, for any layer
# :label: see-gram
# :minutes: 10
# Write `table(x)` for a layer's output $(n, \dots)$ with any number of further axes: the products of all pairs of
# examples, $n \times n$, with zeros on the diagonal. The layer itself must stay as it is.
# ```
#
# ```{stub} see-gram
# def table(x):
#     raise NotImplementedError
# ```
#
# ```{admonition} Hint
# :class: dropdown
# `flatten(1)` makes one vector of each example. Which operation on the diagonal would write into what you were given?
# ```
#
# ```{solution-start} see-gram
# :class: dropdown
# ```


# %%
def table(x: Tensor) -> Tensor:
    flat = x.flatten(1)
    return (flat @ flat.T).fill_diagonal_(0)


tf.check("see-gram", table)

# %% [markdown]
# ```{solution-end}
# ```
#
# ```{exercise} How far a head looks
# :label: see-distance
# :minutes: 15
# Write `distance(weights, places)` for attention weights $(H, N, N)$ and places of the tokens in pixels, $(N, 2)$: for
# each head the mean over queries of the weighted distance to the keys, $(H)$.
# ```
#
# ```{stub} see-distance
# def distance(weights, places):
#     raise NotImplementedError
# ```
#
# ```{admonition} Hint
# :class: dropdown
# `torch.cdist` gives all distances at once. The weights of a query sum to one over the keys.
# ```
#
# ```{solution-start} see-distance
# :class: dropdown
# ```


# %%
def distance(weights: Tensor, places: Tensor) -> Tensor:
    return (weights * torch.cdist(places, places)).sum(-1).mean(-1)


tf.check("see-distance", distance)

# %% [markdown]
# ```{solution-end}
# ```
#
# ```{exercise} Break it: the occluder that leaks
# :label: see-break
# A colleague's `occluded` writes the gray square into the images it was given, and returns them. Accuracy on "covered"
# digits is right. Which number of the experiment goes wrong, and which test finds it?
# ```
#
# ```{solution-start} see-break
# :class: dropdown
# ```
#
# Everything that is computed afterwards, from the clean images: they are covered now. The test asks that the input is
# unchanged.


# %%
def leaking(images: Tensor) -> Tensor:
    images[:, :, 4:9, 4:9] = 0.5
    return images


def leaves_its_input(cover) -> bool:
    before = torch.rand(3, 1, 12, 12)
    given = before.clone()
    cover(given)
    return torch.equal(given, before)


assert leaves_its_input(lambda x: occluded(x, 5)) and not leaves_its_input(leaking)

# %% [markdown]
# ```{solution-end}
# ```
#
# ```{exercise} A square with itself
# :label: see-square
# By pencil: the criterion of the square of this chapter with itself. Then the alignment with left and right.
# ```
#
# ```{solution-start} see-square
# :class: dropdown
# ```
#
# Outside of the diagonal each row has 0, 0, -2: the entries' squares sum to 16. Rows sum to -2, so $K$ sums to -8, and
# the terms are $16 + 64 / 6 - 16 = 32 / 3$; a quarter of it is $8/3$. Left and right with itself: squares 12, rows -1,
# so $12 + 16/6 - 4 = 32/3$ and again $8/3$. The alignment is $\frac{4/3}{8/3} = \frac12$.

# %%
assert abs(cka(square, left_right) - 0.5) < 1e-9

# %% [markdown]
# ```{solution-end}
# ```
#
# ```{exercise} Two at once
# :label: see-two
# Leave out every pair of blocks. Do the losses of two blocks add up? Draw the difference as a map.
# ```
#
# ```{solution-start} see-two
# :class: dropdown
# ```


# %%
few = task.test[0][:200], task.test[1][:200]
whole = compare.accuracy(models["ViT"], *few)
both = torch.zeros(depth, depth)
for i in range(depth):
    for j in range(i, depth):
        with without(models["ViT"], *{f"blocks.{i}", f"blocks.{j}"}):
            both[i, j] = both[j, i] = whole - compare.accuracy(models["ViT"], *few)
single = both.diagonal()
show.heatmap(
    both - single[:, None] - single,
    [f"block {i + 1}" for i in range(depth)],
    [f"block {i + 1}" for i in range(depth)],
    alt="How much more two blocks cost together than one by one, in points of accuracy.",
    caption="Above zero: the two stand in for each other. Below: the second had nothing left to spoil.",
)

# %% [markdown]
# ```{solution-end}
# ```
#
# ## Further reading
#
# - {cite:t}`raghu2021`: what else differs, from local heads to the use of the class token.
# - {cite:t}`bhojanapalli2021`: many more perturbations, and how size and data change the answer.
# - {cite:t}`dosovitskiy2021`, appendix: attention distance, the measure that the section above borrows.
#
# The claims of this chapter:

# %%
claims.summary(verdicts)
