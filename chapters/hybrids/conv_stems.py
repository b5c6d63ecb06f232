# ---
# jupyter:
#   jupytext: {text_representation: {extension: .py, format_name: percent}}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# (conv-stems)=
# # Convolutional stems: let somebody else read the pixels
#
# ViT reads an image through one layer: a convolution whose kernel is as wide as its stride. Three papers of 2021 put
# small convolutions there again. {cite:t}`xiao2021` replace that one layer and nothing else. {cite:t}`hassani2021`
# (CCT) do it to learn from small sets, and drop the class token. {cite:t}`yuan2021ceit` (CeiT) also put convolutions
# inside the blocks. They are three of many ways to put convolution back.
#
# After this chapter you can
# - say what a patch embedding does not see, and compute which pixels a stem of small convolutions sees;
# - write a convolutional stem, sequence pooling and a feed-forward network with neighbors, and hold each against the
#   library and the library against other people's code;
# - measure what a stem does for the choice of optimizer and learning rate, and what it does for small sets.
#
# **Time**: about a minute on one CPU core; the line above says what this copy took. The profile `colab` makes every
# experiment with 5000 photographs of CIFAR-10, in some seven minutes of one core; `full` trains larger models on all
# 50,000, on a large GPU. **Before**: {ref}`ViT <vit>`.

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
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

import skimage.data
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tformerlib as tf
from tformerlib import claims, measures, show
from tformerlib.data.images import as_floats, digits
from tformerlib.layers.blocks import MLP, Attention
from tformerlib.layers.positions import sinusoids
from tformerlib.models import cct, ceit, vit_lite
from tformerlib.models.cct import CCT
from tformerlib.models.ceit import CeiT, LeFF
from tformerlib.models.early_convs import ConvStem, EarlyConvViT
from tformerlib.models.vit_lite import CVT, SeqPool, ViTLite
from tformerlib.peers import prepare
from tformerlib.training import compare

# %% tags=["parameters"]
profile = "quick"  # quick: two CPU cores.  colab: one T4.  full: one large GPU.
seed = 0

# %%
run = tf.parameters(profile=profile, seed=seed)

# %% [markdown]
# ## The question: what does a patch not see?
#
# ViT-B cuts an image into squares of $16 \times 16$ and multiplies each by one matrix. Seen as a convolution, that is a
# kernel of $16 \times 16$ with a stride of $16$; a ResNet starts with $7 \times 7$ and a stride of 2. Two things are
# missing. Patches do not overlap, so an edge between two of them is in no single token. And the map is *linear*: before
# the first block, pixels are only weighted and added up.
#
# Move an image by a few pixels, and ask how much its tokens change. Where the shift is a whole patch, they are the old
# tokens, one place further. In between, every pixel meets another weight. We compare with two convolutions of
# $3 \times 3$ and stride 2, each followed by a ReLU: also one token for $4 \times 4$ pixels. Both are random.

# %%
torch.manual_seed(seed)
patches = nn.Conv2d(3, 32, 4, stride=4)
convs = nn.Sequential(
    nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()
)
photograph = torch.from_numpy(skimage.data.chelsea()[:288, 60:348].copy()).permute(2, 0, 1)[None]
photograph = F.interpolate(photograph.float(), size=(96, 96), mode="area") / 127.5 - 1


def change(embed: nn.Module, pixels: int) -> float:
    """Relative change of the tokens when the image moves right, against the old tokens moved by whole places."""
    old, new = embed(photograph), embed(photograph.roll(pixels, -1))
    old = old.roll(round(pixels / 4), -1)
    inner = (slice(None), slice(None), slice(4, -4), slice(4, -4))  # away from the border
    return ((new[inner] - old[inner]).norm() / (old[inner] - old[inner].mean((2, 3), keepdim=True)).norm()).item()


shifts = list(range(9))
moved = {name: [change(f, s) for s in shifts] for name, f in (("patches", patches), ("two convolutions", convs))}
assert all(values[s] < 1e-5 for values in moved.values() for s in (0, 4, 8))  # whole places: nothing is lost
assert all(min(values[1:4]) > 0.01 for values in moved.values())  # in between: both lose something

# %% tags=["hide-input"]
show.lines(
    shifts,
    moved,
    x_label="pixels by which the photograph moves",
    y_label="change of the tokens, relative",
    alt="Two curves over the shift in pixels from 0 to 8. Both are zero at 0, 4 and 8 pixels and rise in between; at "
    f"two pixels patches change by {moved['patches'][2]:.2f}, convolutions by {moved['two convolutions'][2]:.2f}.",
    caption="Tokens of a photograph that moves, relative to how much they differ from each other. Random weights.",
)
show.glue("stems-patch-change", f"{moved['patches'][2]:.2f}")
show.glue("stems-conv-change", f"{moved['two convolutions'][2]:.2f}")

# %% [markdown]
# At two pixels, half a patch, the tokens of patches change by {glue:text}`stems-patch-change` of their spread and those
# of the convolutions by {glue:text}`stems-conv-change`. Neither stem ignores a small shift; that is not what a stem is
# for. What training has to learn is different in each. A stroke that stands elsewhere inside a patch meets other
# weights of a patch embedding. A small convolution slides, and uses one kernel at all places its stride visits.
#
# ## By hand
#
# ### How far a stem sees
#
# The **receptive field** of a token is the square of pixels it depends on. One convolution of $3 \times 3$ sees $3$
# pixels. A second one sees three of these, and with a stride of 2 in the first they stand two pixels apart:
# $3 + 2 \cdot 2 = 7$. A third adds $2 \cdot 4$, a fourth $2 \cdot 8$. So the four convolutions of ViT$_C$-1GF see
#
# $$ 3, \quad 7, \quad 15, \quad 31 $$
#
# pixels, and at the end tokens stand $16$ pixels apart. Neighbors share $15$ of $31$ columns, almost half. A gradient
# can check it.


# %%
def seen(embed: Callable[[Tensor], Tensor], image: Tensor, row: int, column: int) -> Tensor:
    """How much each pixel (H, W) of an image counts for the token at a place of the map: size of the gradient."""
    image = image.clone().requires_grad_()
    token = embed(image)[0, :, row, column]
    gradients = [torch.autograd.grad(t, image, retain_graph=True)[0] for t in token[:8]]
    return torch.stack(gradients).square().sum((0, 1, 2)).sqrt()


fields = []
for layers in (1, 2, 3, 4):
    stem = nn.Sequential(*list(ConvStem((32,) * 4, (2,) * 4, 16))[:layers]).eval()  # wide: no place where all are zero
    side = 64 // 2**layers
    pixels = seen(stem, torch.randn(2, 3, 64, 64), side // 2, side // 2) > 0
    fields.append(pixels.any(0).sum().item())
print("pixels along a side:", fields)
assert fields == [3, 7, 15, 31]

# %% [markdown]
# ### Sequence pooling
#
# CCT has no class token. It takes a mean of all tokens, but a weighted one, and the weights come from the tokens: one
# learned vector $u$ gives each of them a score, and a softmax makes shares of the scores,
#
# $$ \alpha_j = \frac{e^{u \cdot x_j}}{\sum_i e^{u \cdot x_i}}, \qquad h = \sum_j \alpha_j x_j . $$
#
# That is attention with one query that all images share, where the tokens themselves are keys and values. (A bias in
# the score would be added to all of them, and cancel.) Take three tokens $(0, 3)$, $(\ln 3, 7)$, $(0, 1)$ and $u = (1,
# 0)$. The scores are $0$, $\ln 3$, $0$; the exponentials $1, 3, 1$; the shares $0.2, 0.6, 0.2$. The second number of
# the answer is $0.2 \cdot 3 + 0.6 \cdot 7 + 0.2 \cdot 1 = 5$.

# %%
tokens = torch.tensor([[0.0, 3.0], [torch.log(torch.tensor(3.0)), 7.0], [0.0, 1.0]])
share = (tokens @ torch.tensor([1.0, 0.0])).softmax(0)
assert torch.allclose(share, torch.tensor([0.2, 0.6, 0.2]))
assert torch.allclose((share @ tokens)[1], torch.tensor(5.0))

# %% [markdown]
# ### A feed-forward network with neighbors
#
# The MLP of a block looks at each token alone. CeiT's looks around: expand, lay the tokens out on their grid, mix each
# channel with its eight neighbors by a kernel of its own (a *depthwise* convolution), go back. Take nine tokens of one
# channel that are all $0$ but for a $9$ in the middle, and a kernel that averages. After it every token has heard of
# the one in the middle, and has a $1$. The class token has no place on the grid. It is put aside and comes back as it
# was.

# %%
middle = torch.zeros(1, 1, 3, 3)
middle[..., 1, 1] = 9.0
assert torch.equal(F.conv2d(middle, torch.full((1, 1, 3, 3), 1 / 9), padding=1), torch.ones(1, 1, 3, 3))

# %% [markdown]
# ## Build it
#
# Two ways from 224 pixels to $14 \times 14$ tokens:
#
# ```{diagram} stems
# Left, patches that do not overlap. Right, small convolutions one after another, paid for with one block less.
# ```
#
# ### The stem
#
# Convolutions of $3 \times 3$ that double the channels and halve the sides, BatchNorm and ReLU after each, and one of
# $1 \times 1$ to the width of the model. For images of ordinary size that is less work than it looks: the first layers
# have few channels. {cite:t}`xiao2021` pay for it with one block of the encoder.


# %%
def conv_stem(channels: tuple[int, ...], dim: int) -> nn.Sequential:
    """Images (B, 3, H, W) to maps (B, dim, H / 2^n, W / 2^n), for n convolutions."""
    layers: list[nn.Module] = []
    for before, after in zip((3, *channels), channels, strict=False):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(channels[-1], dim, 1))


stem, library = conv_stem((24, 48, 96, 192), 192), tf.create_model("vit_c_1gf", depth=1)
theirs = [*library.stem.state_dict().values(), *library.patches.state_dict().values()]
stem.load_state_dict(dict(zip(stem.state_dict(), theirs, strict=True)))
images = torch.randn(2, 3, 224, 224)
with torch.no_grad():
    error = (stem.eval()(images).movedim(1, -1) - library.eval().patches(library.stem(images))).abs().max().item()
show.parity("ten lines against the library's stem", error, tolerance=1e-5)

# %% [markdown]
# ### Tokens from a convolution and a pooling, and no class token
#
# CCT's tokenizer has one or two convolutions, each followed by ReLU and max-pooling. There is no BatchNorm. The rest is
# an encoder with one oddity that we come back to: a LayerNorm after attention whose output *replaces* the residual
# stream. And positions are optional.


# %%
class OddBlock(nn.Module):
    """x + attention, then a norm of the sum, then x + MLP."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.before, self.attend = nn.LayerNorm(dim), Attention(dim, heads, qkv_bias=False)
        self.after, self.mlp = nn.LayerNorm(dim), MLP(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = self.after(x + self.attend(self.before(x)))
        return x + self.mlp(x)


class SmallCCT(nn.Module):
    """CCT without options, for images of 16 x 16: a convolution with pooling, blocks, pooling of the sequence."""

    def __init__(self, dim: int, depth: int, heads: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, dim, 3, padding=1, bias=False)
        self.positions = nn.Parameter(0.2 * torch.randn(64, dim))
        self.blocks = nn.Sequential(*[OddBlock(dim, heads, 2 * dim) for _ in range(depth)])
        self.norm, self.score, self.head = nn.LayerNorm(dim), nn.Linear(dim, 1), nn.Linear(dim, classes)

    def forward(self, image: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv(image)), 3, 2, 1).flatten(2).mT
        x = self.norm(self.blocks(x + self.positions))
        share = self.score(x).softmax(1)
        return self.head((share * x).sum(1))


# %%
ours = SmallCCT(dim=32, depth=2, heads=4, classes=10)
library = CCT(image=16, dim=32, depth=2, heads=4, classes=10).eval()
names = (("conv.", "tokens.0."), (".before.", ".mixer.norm."), (".attend.", ".mixer.fn."), (".after.", ".norm."))
state = {}
for key, x in ours.state_dict().items():
    key = key.replace("score.", "pool.score.")
    for mine, other in names:
        key = key.replace(mine, other)
    state[key] = x
library.load_state_dict(state)
images = torch.randn(3, 3, 16, 16)
show.parity("CCT by hand against the library", (ours(images) - library(images)).abs().max().item(), tolerance=1e-5)

# %% [markdown]
# ### The feed-forward network of CeiT, and a class token that asks its past
#
# LeFF, the *locally enhanced feed-forward network*, is what we did by hand. To expand and to go back are convolutions
# of $1 \times 1$. BatchNorm and GELU follow the first two convolutions, BatchNorm alone the third. CeiT has one thing
# more. The state of the class token is kept after every block, and at the end the last of them attends to all
# (**layer-wise class attention**).


# %%
def leff(x: Tensor, layer: LeFF, rows: int) -> Tensor:
    """(B, 1 + N, C) with the library's weights, written out: the class token aside, the others on their grid."""
    label, patches = x[:, :1], x[:, 1:]
    grid = patches.mT.reshape(len(x), -1, rows, patches.shape[1] // rows)
    (widen, norm1, _), (look, norm2, _), (narrow, norm3) = layer.expand, layer.local, layer.project
    grid = F.gelu(norm1(F.conv2d(grid, widen.weight, widen.bias)))
    grid = F.gelu(norm2(F.conv2d(grid, look.weight, look.bias, padding=1, groups=grid.shape[1])))
    grid = norm3(F.conv2d(grid, narrow.weight, narrow.bias))
    return torch.cat([label, grid.flatten(2).mT], 1)


layer, x = LeFF(32, 64, (4, 4)), torch.randn(3, 17, 32)
layer(x)  # moves the running means
layer.eval()
show.parity("LeFF by hand against the library", (leff(x, layer, 4) - layer(x)).abs().max().item(), tolerance=1e-5)

# %% [markdown]
# ## The library's version
#
# `models/early_convs.py` is ViT with or without a stem, `models/vit_lite.py` and `models/cct.py` are the three steps of
# CCT's paper, and `models/ceit.py` is CeiT. Here is a ViT$_C$ of torchvision, at a size that nobody published, with
# random weights far from their beginning:

# %%
prepare()
from torchvision.models.vision_transformer import ConvStemConfig, VisionTransformer

torch.manual_seed(seed)
configs = [ConvStemConfig(dim, 3, 2) for dim in (16, 32, 48)]
theirs = VisionTransformer(64, 8, 3, 4, 48, 96, num_classes=10, conv_stem_configs=configs).eval()
with torch.no_grad():
    for p in theirs.parameters():
        p.add_(0.1 * torch.randn_like(p))
library = EarlyConvViT(
    image=64, patch=8, convs=(16, 32, 48), strides=(2, 2, 2), dim=48, depth=3, heads=4, mlp=2.0, classes=10
).eval()
tf.load_published(library, theirs.state_dict(), source="torchvision")
images = torch.randn(2, 3, 64, 64)
show.parity("ViT_C against torchvision", (library(images) - theirs(images)).abs().max().item(), tolerance=2e-5)

# %% [markdown]
# CCT has a second implementation in the package `vit-pytorch`, and the tests compare with it. CVT, ViT-Lite and CeiT
# have none that we could install. There the official code was run beside ours with weights made from their names by a
# formula; its logits and gradients are recorded, and the tests rebuild the weights and compare.
#
# The sizes beside what the authors print. A question mark says that we did not look the number up in the paper.

# %%
printed = {  # million parameters, thousand million multiply-adds, side of the image
    "vit_p_4gf": ("18.5 ?", "3.9 ?", 224), "vit_c_4gf": ("17.8 ?", "4.0 ?", 224),
    "vit_p_18gf": ("86.6 ?", "17.5 ?", 224), "vit_c_18gf": ("81.6 ?", "17.7 ?", 224),
    "vit_lite_7_4_32": ("3.72 ?", "0.26 ?", 32), "cvt_7_4_32": ("3.72 ?", "0.25 ?", 32),
    "cct_2_3x2_32": ("0.28", "0.04 ?", 32), "cct_7_3x1_32": ("3.76 ?", "1.19 ?", 32),
    "cct_14_7x2_224": ("22.36", "5.11", 224), "cct_14_7x2_384": ("22.51", "15.02", 384),
    "ceit_tiny": ("6.4", "1.2 ?", 224), "ceit_small": ("24.2", "4.5 ?", 224),
}  # fmt: skip
rows = []
for name, (millions, giga, side) in printed.items():
    with torch.device("meta"):  # shapes without content
        model = tf.create_model(name)
    found = measures.parameter_count(model) / 1e6, measures.macs(model, (3, side, side)) / 1e9
    row = {"model": name, "parameters, M": f"{found[0]:.2f}", "printed": millions}
    rows.append(row | {"multiply-adds, G": f"{found[1]:.2f}", "printed ": giga})

# %% tags=["hide-input"]
show.table(rows, caption="Counted from our models. Numbers without a question mark are from the authors' repositories.")

# %% [markdown]
# Parameters agree to the last digit printed, and so do multiply-adds of the first four, and of small images to the
# rounding. CCT-14 and CeiT have more here than printed, because we count the two products of attention, queries with
# keys and weights with values, as everywhere in this book, and their authors' counter does not. That is what is missing
# for CCT-14, and most of what is missing for CeiT.
#
# ## Where does locality enter?
#
# Three models, and each puts it somewhere else. The table says where; the figure below it shows what that means for one
# token of a map of $8 \times 8$, before any attention.

# %% tags=["hide-input"]
show.table(
    [
        {"place": "stem", "ViT": "patches", "ViT_C": "3 × 3 convolutions, BatchNorm, ReLU",
         "CCT": "convolution, ReLU, max-pooling", "CeiT": "7 × 7 convolution, BatchNorm, max-pooling, then patches"},
        {"place": "inside blocks", "ViT": "-", "ViT_C": "-", "CCT": "-", "CeiT": "a depthwise convolution in each MLP"},
        {"place": "positions", "ViT": "learned", "ViT_C": "learned", "CCT": "optional", "CeiT": "learned"},
        {"place": "what answers", "ViT": "class token", "ViT_C": "class token", "CCT": "weighted mean of tokens",
         "CeiT": "class tokens of all layers"},
        {"place": "paid with", "ViT": "-", "ViT_C": "one block", "CCT": "little", "CeiT": "more multiply-adds"},
    ],
    caption="What each model changes in ViT.",
)  # fmt: skip

# %%
torch.manual_seed(seed)
image = torch.randn(2, 3, 32, 32)
stems: dict[str, Callable[[Tensor], Tensor]] = {
    "ViT: a patch": nn.Conv2d(3, 32, 4, stride=4),
    "ViT_C: two convolutions": nn.Sequential(*conv_stem((16, 32), 32)).eval(),
    "CCT: two convolutions, two poolings": nn.Sequential(*cct.ConvTokens(32, 3, 1, 2)),
}
into, neighbors = ceit.ImageToTokens(32, 4).eval(), LeFF(32, 64, (8, 8)).eval()


def after_leff(x: Tensor) -> Tensor:
    """Tokens of CeiT behind a class token, through one feed-forward network, as a map (B, C, 8, 8)."""
    tokens = F.pad(into(x).flatten(1, 2), (0, 0, 1, 0))
    return neighbors(tokens)[:, 1:].mT.unflatten(2, (8, 8))


stems["CeiT: convolution, pooling, patch"] = lambda x: into(x).movedim(-1, 1)
stems["CeiT: after the first feed-forward network"] = after_leff
fields = {name: seen(stem, image, 3, 3) for name, stem in stems.items()}
counts = [int((f > 0).sum()) for f in fields.values()]
assert counts[:2] == [16, 49]  # 4 x 4 and 7 x 7 pixels

# %% tags=["hide-input"]
ticks = [str(i) for i in range(32)]
show.explore(
    {name: field / field.max() for name, field in fields.items()},
    ticks,
    ticks,
    slider_label="token",
    alt="Five maps of 32 by 32 pixels with the pixels that one token depends on: "
    + ", ".join(f"{count} for {name}" for name, count in zip(fields, counts, strict=True))
    + ". Squares for patches and convolutions; with max-pooling there are gaps.",
    caption="Pixels that count for the token in row 3, column 3 of a map of 8 × 8, before any attention; random "
    "weights. Move the slider. Max-pooling leaves gaps: it passes on one pixel of nine.",
)

# %% [markdown]
# ## Three experiments on small images
#
# The images are handwritten digits again, a thousand to learn from. For the first experiment they fill their image, so
# that every model can learn nearly all of them. For the others they stand a few pixels up or down, left or right of the
# middle, so that a stroke may lie anywhere in a patch. Sizes, rates and steps come from pilot runs, chosen so that
# `quick` takes a minute. The larger profiles use CIFAR-10 for everything, `colab` 5000 images of it.


# %%
def moved_digits(split: str) -> tuple[Tensor, Tensor]:
    return digits(split, canvas=16, size=13, noise=0.1, seed=seed)


common = compare.league(run, run.pick(quick=None, colab=5000, full=None))
task = common
if run.profile == "quick":
    task = compare.Task("moved digits", moved_digits("train"), moved_digits("test"), 10)
basic = {"image": task.side, "patch": 4, "classes": task.classes}


def fair(models: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """The models, if their parameters differ by at most a tenth."""
    counts = {name: measures.parameter_count(model) for name, model in models.items()}
    assert max(counts.values()) <= 1.1 * min(counts.values()), counts
    return models


# %% [markdown]
# ### Does a stem forgive the optimizer?
#
# SGD moves all weights by one rate times their (averaged) gradient. AdamW divides each weight's step by the recent size
# of its own gradient, so it copes better where gradients differ much in size. {cite:t}`xiao2021` train both kinds of
# ViT with both. They report that with patches SGD falls behind and few rates do well, and that with convolutions
# neither is so. Our grid has three rates for each optimizer, a factor of about four apart. A run that diverges counts
# as guessing. A first version of this experiment used digits that are moved about. There no run was done learning when
# it ended, patches were bad everywhere and so had little to lose, and on two seeds of three convolutions lost more than
# patches. What that measured was speed.


# %%
def stem_vit(convs: bool) -> EarlyConvViT:
    """The same width; the stem is paid for with one block."""
    size = run.pick(quick={"dim": 32, "depth": 3, "heads": 4, "mlp": 2.0},
                    colab={"dim": 64, "depth": 3, "heads": 4, "mlp": 2.0},
                    full={"dim": 384, "depth": 6, "heads": 6})  # fmt: skip
    if convs:
        size |= {"depth": size["depth"] - 1, "strides": (2, 2)}
        size["convs"] = run.pick(quick=(16, 48), colab=(40, 80), full=(192, 384))
    model = EarlyConvViT(image=common.side, patch=4, classes=common.classes, **size)
    nn.init.normal_(model.positions, std=0.5)  # in so few steps a small table has no time to grow
    return model


rates = {"AdamW": run.pick(quick=(1e-3, 4e-3, 1.6e-2), colab=(5e-4, 2e-3, 8e-3), full=(2.5e-4, 1e-3, 4e-3)),
         "SGD": (0.03, 0.1, 0.4)}  # fmt: skip
options = {"AdamW": {}, "SGD": {"optimizer": partial(torch.optim.SGD, momentum=0.9, nesterov=True)}}
decay = {"AdamW": 0.05, "SGD": 1e-4}
both = fair({"patches": stem_vit(False), "convolutions": stem_vit(True)})
tested = run.pick(quick=None, colab=2500, full=None)  # of so many test images, all where there is no number
probe = compare.Task(common.name, common.train, (common.test[0][:tested], common.test[1][:tested]), common.classes)


# %%
def grid_run(kind: str, optimizer: str, lr: float) -> float:
    """Test accuracy in percent of one cell of the grid."""
    torch.manual_seed(seed)
    model = stem_vit(kind == "convolutions")
    steps, batch = run.pick(quick=(200, 32), colab=(300, 32), full=(4000, 256))
    budget = compare.Budget(steps, batch, lr, weight_decay=decay[optimizer])
    try:
        name = f"{kind}, {optimizer} {lr:g}"
        history = compare.train(model, probe, budget, seed=seed, device=run.device, label=name, **options[optimizer])
    except FloatingPointError:
        return 100 / task.classes
    kept[kind, optimizer, lr] = model
    return history.metrics[-1]["accuracy"]


kept: dict[tuple[str, str, float], nn.Module] = {}
kinds = ("patches", "convolutions")
grid = {k: {o: [grid_run(k, o, lr) for lr in rates[o]] for o in rates} for k in kinds}

# %%
every = {kind: torch.tensor([*grid[kind]["AdamW"], *grid[kind]["SGD"]]) for kind in kinds}
lost = {kind: (a.max() - a.mean()).item() for kind, a in every.items()}
behind = {kind: max(grid[kind]["AdamW"]) - max(grid[kind]["SGD"]) for kind in kinds}
verdicts = [
    claims.report(
        "early-convs.stability",
        lost_patches=lost["patches"],
        lost_convs=lost["convolutions"],
        gain=(every["convolutions"].max() - every["patches"].max()).item(),
    ),
    claims.report("early-convs.sgd", behind_patches=behind["patches"], behind_convs=behind["convolutions"]),
]

# %% tags=["hide-input"]
names = [f"{o} {lr:g}" for o in rates for lr in rates[o]]
show.heatmap(
    torch.stack([every["patches"], every["convolutions"]]).T,
    names,
    ["patches", "convolutions"],
    alt="Test accuracy for three learning rates of AdamW and three of SGD. "
    + "; ".join(f"{k}: {', '.join(f'{a:.0f}' for a in every[k].tolist())}" for k in kinds) + ".",
    caption=f"Test accuracy in percent; profile {run.profile}, seed {seed}. Look for columns of one color.",
)  # fmt: skip
for kind in kinds:
    show.glue(f"stems-lost-{kind}", f"{lost[kind]:.1f}")
    show.glue(f"stems-best-{kind}", f"{every[kind].max():.1f} %")
    show.glue(f"stems-behind-{kind}", f"{behind[kind]:+.1f}")

# %% [markdown]
# The best cell of patches has {glue:text}`stems-best-patches`, that of convolutions
# {glue:text}`stems-best-convolutions`. Drawing a cell at random instead costs {glue:text}`stems-lost-patches` points on
# average with patches and {glue:text}`stems-lost-convolutions` with convolutions. At its best rate AdamW is ahead of
# SGD by {glue:text}`stems-behind-patches` and {glue:text}`stems-behind-convolutions` points (a minus says that SGD is
# ahead).
#
# Two things are mixed even here. A low rate costs everybody something, as training ends before it is done; that is
# speed again, and not stability. And a model that is bad everywhere would have little to lose. So read both numbers,
# the best cell and the loss. Short training, clipped gradients and small patches may each blur what the paper sees, and
# we have not taken them apart; it trains for far longer {cite:p}`xiao2021`.
#
# ### Three steps to CCT
#
# The second paper goes from ViT to CCT in steps, so we can ask what each is worth {cite:p}`hassani2021`: ViT-Lite;
# the class token replaced by sequence pooling (CVT); patches replaced by convolutions (CCT); and CCT without positions.
# All have the same number of parameters within a tenth, the same steps and the same images. For that, CCT pays in
# `quick` and `colab` with a narrower MLP, in `quick` with a block too. There its step is the stem and what pays for it.
# So a fifth model takes them apart: it is CCT with patches, that is, a CVT with CCT's blocks. What lies between it and
# CCT is the stem and nothing else. It has fewer parameters, those that the stem has more than patches.


# %%
none = {"drop_path": 0.0, "attention_dropout": 0.0}
thin = run.pick(quick={"dim": 32, "depth": 3, "heads": 4, "mlp": 3.0},
                colab={"dim": 64, "depth": 3, "heads": 4, "mlp": 3.0},
                full={"dim": 256, "depth": 6, "heads": 4, "mlp": 2.0})  # fmt: skip
paid = thin | run.pick(quick={"depth": 2, "mlp": 1.0}, colab={"mlp": 2.0}, full={})  # for the stem
control = "CCT, patches"


def ladder() -> dict[str, nn.Module]:
    """The four steps with equal parameters, and the control, which has fewer."""
    makers: dict[str, Callable[[], nn.Module]] = {
        "ViT-Lite": lambda: ViTLite(**basic, **thin, **none),
        "CVT": lambda: CVT(**basic, **thin, **none),
        control: lambda: CVT(**basic, **paid, **none),
        "CCT": lambda: CCT(**basic, **paid, **none),
        "CCT, no positions": lambda: CCT(**basic, **paid, **none, positions=None),
    }
    if paid == thin:  # then the control is CVT
        del makers[control]
    models: dict[str, nn.Module] = {}
    for name, make in makers.items():
        torch.manual_seed(seed)
        models[name] = make()
    fair({name: model for name, model in models.items() if name != control})
    return models


# %%
trained = ladder()
steps, batch = run.pick(quick=(250, 32), colab=(400, 32), full=(10_000, 256))
budget = compare.Budget(steps, batch, lr=run.pick(quick=4e-3, colab=2e-3, full=1e-3))
accuracy = {
    name: compare.train(model, task, budget, seed=seed, device=run.device, label=name).metrics[-1]["accuracy"]
    for name, model in trained.items()
}
accuracy.setdefault(control, accuracy["CVT"])
verdicts += [
    claims.report("cct.small-data", gain=accuracy["CCT"] - accuracy["ViT-Lite"]),
    claims.report("cct.stem", gain=accuracy["CCT"] - accuracy[control]),
    claims.report("cct.sequence-pooling", gain=accuracy["CVT"] - accuracy["ViT-Lite"]),
    claims.report("cct.no-positions", cost=accuracy["CCT"] - accuracy["CCT, no positions"]),
]

# %% tags=["hide-input"]
show.bars(
    accuracy,
    y_label="test accuracy, %",
    alt="Five bars: " + ", ".join(f"{name} {value:.0f} percent" for name, value in accuracy.items()) + ".",
    caption=f"What each step brings; profile {run.profile}, seed {seed}.",
)
keys = {"lite": "ViT-Lite", "cvt": "CVT", "control": control, "cct": "CCT", "bare": "CCT, no positions"}
for key, name in keys.items():
    show.glue(f"stems-{key}", f"{accuracy[name]:.1f} %")

# %% [markdown]
# ViT-Lite is right for {glue:text}`stems-lite`, CVT for {glue:text}`stems-cvt`, CCT for {glue:text}`stems-cct`, and CCT
# without positions for {glue:text}`stems-bare`. CCT with patches has {glue:text}`stems-control`. The cards judge the
# steps over several seeds, and their intervals say how far one run can be trusted. That positions can be left out has a
# likely reason: tokens of overlapping convolutions know their neighbors, and zeros around the image tell a convolution
# where the border is.
#
# ### How many steps does CeiT save?
#
# {cite:t}`yuan2021ceit` report that CeiT needs a third of the iterations of DeiT, which is ViT without a stem. We train
# both on the same images within the same budget, test 24 times on the way, and ask when the test accuracy first reaches
# a mark of $80$ percent ($35$ in `colab`). A model that never arrives counts with all its steps. Where only the ViT
# does not arrive, the ratio is at least what we say.


# %%
def pair() -> dict[str, nn.Module]:
    """CeiT and a ViT of its size; both tables of positions start large."""
    vit = run.pick(quick={"dim": 40, "depth": 3, "heads": 4}, colab={"dim": 48, "depth": 5, "heads": 4},
                   full={"dim": 256, "depth": 5, "heads": 4})  # fmt: skip
    own = run.pick(quick={"dim": 32, "depth": 2, "heads": 4}, colab={"dim": 48, "depth": 3, "heads": 4},
                   full={"dim": 256, "depth": 4, "heads": 4})  # fmt: skip
    models: dict[str, nn.Module] = {}
    for name, make in (("ViT", partial(EarlyConvViT, **vit)), ("CeiT", partial(CeiT, **own))):
        torch.manual_seed(seed)
        models[name] = make(**basic, mlp=2.0)
        nn.init.normal_(models[name].positions, std=0.5)
    return fair(models)


some = compare.Task(task.name, task.train, (task.test[0][:400], task.test[1][:400]), task.classes)
mark = run.pick(quick=80.0, colab=35.0, full=80.0)
steps, batch = run.pick(quick=(480, 32), colab=(600, 32), full=(10_000, 256))
budget = compare.Budget(steps, batch, lr=run.pick(quick=4e-3, colab=2e-3, full=1e-3))
raced, curves = pair(), {}
for name, model in raced.items():
    history = compare.train(model, some, budget, seed=seed, device=run.device, label=name, evaluate_every=steps // 24)
    curves[name] = {m["step"]: m["accuracy"] for m in history.metrics}
arrival = {name: next((s for s, a in curve.items() if a >= mark), steps) for name, curve in curves.items()}
verdicts.append(
    claims.report(
        "ceit.faster",
        ratio=arrival["ViT"] / arrival["CeiT"],
        ahead=curves["CeiT"][steps] - curves["ViT"][steps],
    )
)

# %% tags=["hide-input"]
show.lines(
    list(curves["ViT"]),
    {name: list(curve.values()) for name, curve in curves.items()},
    x_label="steps",
    y_label="test accuracy, %",
    alt="Test accuracy over steps. CeiT ends at "
    f"{curves['CeiT'][steps]:.0f} percent, ViT at {curves['ViT'][steps]:.0f}.",
    caption=f"Equal parameters within a tenth, equal images and steps; profile {run.profile}, seed {seed}.",
)
for name in raced:
    show.glue(f"stems-arrival-{name}", f"{arrival[name]}{'' if max(curves[name].values()) >= mark else ' (never)'}")
    show.glue(f"stems-end-{name}", f"{curves[name][steps]:.1f} %")

# %% [markdown]
# Steps to the mark: CeiT {glue:text}`stems-arrival-CeiT`, ViT {glue:text}`stems-arrival-ViT`. At the end CeiT has
# {glue:text}`stems-end-CeiT`, ViT {glue:text}`stems-end-ViT`. A step of CeiT takes longer than one of ViT, which a
# count of steps does not show.
#
# The profile `colab` makes all three experiments with 5000 photographs. Its models are twice as wide, its runs are
# about as long. Over the recorded seeds the stem's best cell is {recorded}`early-convs.stability:gain` points above
# that of patches ({verdict}`early-convs.stability`); SGD: {verdict}`early-convs.sgd`. CCT's stem alone is worth
# {recorded}`cct.stem:gain` points ({verdict}`cct.stem`), pooling {recorded}`cct.sequence-pooling:gain`
# ({verdict}`cct.sequence-pooling`), and CeiT: {verdict}`ceit.faster`.
#
# ### What everything costs
#
# For the figure that compares all backbones of the book, three models learn its common task, digits that fill their
# image. In the larger profiles that is the task of the experiments, and their models are taken.

# %%
entries: dict[str, nn.Module] = {"CCT": trained["CCT"], "CeiT": raced["CeiT"]}
if task is not common:
    torch.manual_seed(seed)
    whole = {"image": common.side, "patch": 4, "classes": common.classes}
    entries["CCT"] = CCT(**whole, **none, dim=32, depth=2, heads=4, mlp=1.0)
    entries["CeiT"] = CeiT(**whole, dim=32, depth=2, heads=4, mlp=2.0)
    for name, model in entries.items():
        compare.train(model, common, compare.Budget(200, 32, lr=4e-3), seed=seed, device=run.device, label=name)
entries["ViT_C"] = kept["convolutions", "AdamW", rates["AdamW"][1]]  # from the grid
results = [compare.weigh(name, m, common, profile=run.profile, seed=seed) for name, m in entries.items()]
compare.keep(results, chapter="conv_stems")

# %% tags=["hide-input"]
known = [row for row in compare.recorded(common.name) if row["profile"] == run.profile]
rows = [*known, *({"chapter": "conv_stems", **asdict(result)} for result in results)]
show.pareto(
    rows,
    alt="Test accuracy of every recorded model over its cost, with a dotted line through those that no other beats; a "
    "slider chooses parameters, multiply-adds or throughput.",
    caption=f"Task {common.name}. Chapters differ in steps; throughput is this machine's.",
)

# %% [markdown]
# ## Look inside
#
# ### Where CCT looks
#
# Sequence pooling says for each image which tokens the answer is made of. The weights need no tricks to read: they are
# shares of one mean. But a token has heard of the others through attention: a share of the mean is not a share of the
# pixels. Here they are for test images, from the CCT trained above.

# %%
pooled = trained["CCT"].cpu().eval()
examples = as_floats(task.test[0][:6])
with torch.no_grad():
    shares = pooled.pool.weights(pooled.encode(examples)).unflatten(1, pooled.grid)
assert torch.allclose(shares.sum((1, 2)), torch.ones(6), atol=1e-4)
largest = shares.flatten(1).max(1).values.mean().item()
show.glue("stems-largest", f"{100 * largest:.0f} %")
show.glue("stems-even", f"{100 / shares[0].numel():.1f} %")

# %% tags=["hide-input"]
gray = (examples.mean(1) + 1) / 2
zoomed = F.interpolate(shares[:, None], size=gray.shape[-2:], mode="nearest")[:, 0]
maps = {}
for i in range(4):
    label = task.test[1][i].item()
    maps[f"image {i + 1} (class {label})"] = gray[i]
    maps[f"image {i + 1}, weights"] = zoomed[i] / shares.max()
ticks = [str(i) for i in range(gray.shape[-1])]
show.explore(
    maps,
    ticks,
    ticks,
    slider_label="showing",
    alt="Four test images in turn, each followed by the map of its pooling weights, four by four tokens in quick, as a "
    "share of the largest weight.",
    caption="Each image, then how much of the pooled vector comes from each of its tokens (yellow: most).",
)

# %% [markdown]
# The token that counts most gives {glue:text}`stems-largest` of the mean, averaged over these images, where equal
# shares would be {glue:text}`stems-even`.
#
# ### What CeiT's depthwise kernels do
#
# Does a trained CeiT use the neighbors? Take them away: set all weights of the depthwise kernels to zero but for the
# middle one, block by block, and test again. What the model has learned about other tokens through attention stays.


# %%
def without_neighbors(model: CeiT, block: int) -> CeiT:
    """The model with one block's feed-forward network made as local as an MLP."""
    twin = pair()["CeiT"].to(next(model.parameters()).device)
    twin.load_state_dict(model.state_dict())
    kernel = twin.blocks[block].mlp.fn.local[0].weight.data
    middle = kernel[..., 1:2, 1:2].clone()
    kernel.zero_()[..., 1:2, 1:2] = middle
    return twin.eval()


racer = raced["CeiT"].eval()
depth = len(racer.blocks)
cut = {"as trained": compare.accuracy(racer, *some.test)}
cut |= {f"block {i + 1} cut": compare.accuracy(without_neighbors(racer, i), *some.test) for i in range(depth)}
assert cut[f"block {depth} cut"] == cut["as trained"]  # why, says the next section

# %% tags=["hide-input"]
show.bars(
    cut,
    y_label="test accuracy, %",
    alt="Bars: " + ", ".join(f"{name} {value:.0f} percent" for name, value in cut.items()) + ".",
    caption="CeiT after the neighbors in one block's depthwise kernels are set to zero.",
)
show.glue("stems-cut", f"{cut['block 1 cut']:.1f} %")
show.glue("stems-uncut", f"{cut['as trained']:.1f} %")

# %% [markdown]
# Without the neighbors in the first block {glue:text}`stems-uncut` becomes {glue:text}`stems-cut`. The last block is
# another matter: cutting it changes nothing, in no image. That is no accident.
#
# ## What breaks
#
# ### Weights that nobody listens to
#
# CeiT's classifier hears the class token alone. Attention of the last block reads the patches and writes to the class
# token; then comes the last LeFF, which works on patches and lets the class token pass. Nobody reads these patches any
# more. So the feed-forward network of the last block never gets a gradient, in the official code as in ours. How many
# weights is that?

# %%
small_ceit = CeiT(image=32, patch=4, dim=32, depth=3, heads=4, classes=10)
nn.init.normal_(small_ceit.head.weight)
small_ceit(torch.randn(8, 3, 32, 32)).square().sum().backward()
silent = {n for n, p in small_ceit.named_parameters() if p.grad is None or not p.grad.any()}
silent = {n for n in silent if n.startswith("blocks.2.mlp.fn")}
assert silent == {n for n, _ in small_ceit.named_parameters() if n.startswith("blocks.2.mlp.fn")}
with torch.device("meta"):
    tiny = tf.create_model("ceit_tiny")
deaf = sum(p.numel() for p in tiny.blocks[-1].mlp.fn.parameters())
show.glue("stems-deaf", f"{deaf:,}")
show.glue("stems-deaf-share", f"{100 * deaf / measures.parameter_count(tiny):.1f} %")

# %% [markdown]
# In CeiT-T it is {glue:text}`stems-deaf` weights, {glue:text}`stems-deaf-share` of the model. Weight decay shrinks them
# and nothing else happens to them. One more surprise sits beside it. Where the class token "passes unchanged" through
# LeFF it passes *after* the LayerNorm, and is then added to itself: in every block it becomes
# $x + \operatorname{LN}(x)$. An implementation that really leaves it alone has other outputs with the same weights.

# %%
block = small_ceit.eval().blocks[0]
x = torch.randn(2, 65, 32)
with torch.no_grad():
    before = block.mixer(x)
    after = block(x)
assert torch.allclose(after[:, 0], before[:, 0] + block.mlp.norm(before[:, 0]), atol=1e-5)

# %% [markdown]
# ### A norm that replaces the stream
#
# A pre-norm block adds to its input and leaves it alone otherwise; the sum runs from the first block to the last. The
# blocks of CCT normalize the sum after attention and go on from there. Write the usual block instead, with a norm in
# front of the MLP, and published weights load without complaint: the shapes are the same, and the answers are wrong.
# What does it change? Follow the size of a token through the blocks of untrained models, and multiply the input by ten.

# %%
torch.manual_seed(seed)
odd = nn.ModuleList(vit_lite.CompactBlock(64, 4, 2.0, dropout=0, attention=0, drop_path=0) for _ in range(6)).eval()


def sizes(x: Tensor, normalize: bool) -> list[float]:
    """Root mean square of the tokens before the first and after each block."""
    out = [x.square().mean().sqrt().item()]
    for block in odd:
        x = block.mixer(x)
        x = block.norm(x) if normalize else x
        x = x + block.mlp(x if normalize else block.norm(x))
        out.append(x.square().mean().sqrt().item())
    return out


x = 10 * torch.randn(4, 16, 64)
with torch.no_grad():
    stream = {"CCT's blocks": sizes(x, True), "pre-norm blocks": sizes(x, False)}
assert stream["CCT's blocks"][1] < 2 < 8 < stream["pre-norm blocks"][1]

# %% tags=["hide-input"]
show.lines(
    list(range(7)),
    stream,
    x_label="blocks passed",
    y_label="root mean square of the tokens",
    alt="Two curves over the number of blocks. Both start at 10. With CCT's blocks the size falls to about one in the "
    "first block and stays there; with pre-norm blocks it stays near 10.",
    caption="Tokens ten times too large, through untrained blocks. CCT's forget the scale at once.",
)

# %% [markdown]
# Neither is wrong. They are different models, and a test of shapes can't tell them apart.
#
# ### A sine that learns
#
# The official code has builders that end in `_sine`. They take the argument `positional_embedding` and do not hand it
# on, so the model has a learned table, which starts as noise. (Where weights are downloaded, the table in the file is
# overwritten by the model's own, which is noise.) The bug in miniature, and what shows it: count the weights.


# %%
def build_sine(positions=sinusoids, **size) -> CCT:
    """The bug: an argument that is named, and swallowed."""
    return CCT(**size)


meant = CCT(image=16, dim=32, depth=1, heads=4, positions=sinusoids)
got = build_sine(image=16, dim=32, depth=1, heads=4)
extra = measures.parameter_count(got) - measures.parameter_count(meant)
assert extra == got.positions.numel() == 64 * 32 and torch.equal(meant.positions, sinusoids(64, 32))

# %% [markdown]
# `load_published` refuses such a file for a model with fixed positions, unless what is in it are the sines.
#
# ## Ours and the papers'
#
# | What differs | Ours | The papers' | What it does |
# |---|---|---|---|
# | data | a thousand digits; `colab`: 5000 of CIFAR-10 | ImageNet; CIFAR, Flowers for CCT | other amounts |
# | steps | hundreds | tens of thousands and more | speed and stability are mixed |
# | clipping | gradients cut at norm 1, for SGD too | not looked up | may help SGD with patches |
# | ranges | three rates each, one weight decay | wider and finer (second-hand) | ours is coarser |
# | stems | two convolutions | four to six (second-hand) | patches here are 4 pixels wide |
# | CCT | no stochastic depth, no augmentation | both | against large models, not looked at |
# | CeiT's partner | a ViT with Xavier's variance at first | DeiT | helps the ViT |
# | positions | start at 0.5, in CCT at 0.2 | 0.02; CCT 0.2 | all learn faster |
#
# The verdicts, by the recorded runs:

# %% tags=["hide-input"]
claims.summary(verdicts)

# %% [markdown]
# ## Questions
#
# Choose before you read on: each answer says why it is right or wrong. Which one is right was computed by this run.

# %% tags=["hide-input"]
field, stride = 1, 1
for _ in range(4):  # four convolutions of 3 x 3, each with stride 2
    field, stride = field + 2 * stride, stride * 2
show.quiz(
    "Four convolutions of 3 by 3 with stride 2 replace a patch of 16 pixels. How wide is what a token sees?",
    [
        ("16 pixels", "That is the patch; neighbors now overlap.", field == 16),
        ("31 pixels", "1, 3, 7, 15, 31: each layer adds twice the stride so far.", field == 31),
        ("9 pixels", "That would be four layers without strides.", field == 9),
    ],
    name="stems-field",
)
with torch.device("meta"):
    depth_p, depth_c = (len(tf.create_model(name).blocks) for name in ("vit_p_1gf", "vit_c_1gf"))
show.quiz(
    "ViT-C has a stem of convolutions. What does the paper take away for it, so that the cost stays the same?",
    [
        ("One block.", "The stem costs about as many multiplications as a block.", depth_p - depth_c == 1),
        ("Nothing.", "Then the comparison would not be fair.", depth_p == depth_c),
        ("Half of the heads.", "Heads cost nothing by themselves.", False),
    ],
    name="stems-block",
)

# %% tags=["hide-input"]
tokens = torch.randn(2, 9, 8)
shares = nn.Linear(8, 1)(tokens).softmax(1)
show.quiz(
    "CCT has no class token. How does it make one vector of many?",
    [
        (
            "By a mean whose weights depend on the tokens.",
            "A linear layer scores each one, and a softmax makes shares of it.",
            not torch.allclose(shares[0], shares[1]) and torch.allclose(shares.sum(1), torch.ones(2, 1)),
        ),
        ("By a plain mean.", "That is one of the alternatives it was compared with.", bool((shares == 1 / 9).all())),
        ("By the first token.", "No token is special here.", False),
    ],
    name="stems-pooling",
)
padded = F.conv2d(torch.ones(1, 1, 6, 6), torch.ones(1, 1, 3, 3), padding=1)
show.quiz(
    "A stem of convolutions sees an image of one color. Can what comes after tell where a token lies?",
    [
        (
            "No: all tokens are equal.",
            "In the middle they are; look at the border.",
            bool((padded == padded[0, 0, 2, 2]).all()),
        ),
        (
            "At the border, yes.",
            "Zeros around the image make the sums there smaller.",
            bool(padded[0, 0, 0, 0] < padded[0, 0, 2, 2]),
        ),
        (
            "Everywhere, yes.",
            "Farther inside than the stem sees, nothing differs.",
            bool(padded[0, 0, 2, 2] != padded[0, 0, 3, 3]),
        ),
    ],
    name="stems-border",
)

# %% [markdown]
# ## Exercises
#
# ```{exercise} Twice seven
# :label: stems-field
# With a pencil: how many pixels along a side does a token of CCT-14/7×2 see, before any attention? Its tokenizer is a
# convolution of $7 \times 7$ with stride 2, a max-pooling of $3 \times 3$ with stride 2, and both once more.
# ```
#
# ```{solution-start} stems-field
# :class: dropdown
# ```

# %%
field, step = 1, 1
for kernel, stride in ((7, 2), (3, 2), (7, 2), (3, 2)):
    field, step = field + (kernel - 1) * step, step * stride
    print(f"kernel {kernel}, stride {stride}: sees {field}, tokens stand {step} pixels apart")
assert (field, step) == (51, 16)

# %% [markdown]
# $1 + 6 + 2 \cdot 2 + 6 \cdot 4 + 2 \cdot 8 = 51$, three times the patch of ViT/16.
# ```{solution-end}
# ```
#
# ```{exercise} A pooling you know
# :label: stems-mean
# For which $u$ is sequence pooling the mean of all tokens? And which pooling does it approach when $u$ becomes very
# long?
# ```
#
# ```{solution-start} stems-mean
# :class: dropdown
# ```

# %%
pool, x = SeqPool(8), torch.randn(2, 5, 8)
nn.init.zeros_(pool.score.weight)
assert torch.allclose(pool(x), x.mean(1), atol=1e-6)
nn.init.constant_(pool.score.weight, 1000)
assert torch.allclose(pool(x), x[torch.arange(2), x.sum(-1).argmax(-1)], atol=1e-4)

# %% [markdown]
# For $u = 0$ all scores are equal. A very long $u$ picks the single token that points furthest along it.
# ```{solution-end}
# ```
#
# ```{exercise} A bag after all?
# :label: stems-bag
# CCT without positions: shuffle the *tokens* after the tokenizer. Does the answer change? And if you shuffle patches of
# the *image*? Explain the difference.
# ```
#
# ```{solution-start} stems-bag
# :class: dropdown
# ```

# %%
bag = CCT(image=16, layers=2, dim=32, depth=2, heads=4, positions=None).eval()
nn.init.normal_(bag.head.weight)
image = torch.randn(2, 3, 16, 16)
order = torch.randperm(16)
with torch.no_grad():
    x = bag.tokens(image).flatten(1, 2)
    answers = [bag.head(bag.pool(bag.norm(bag.blocks(t)))) for t in (x, x[:, order])]
    squares = image.unfold(2, 4, 4).unfold(3, 4, 4).flatten(2, 3)[:, :, order].unflatten(2, (4, 4))
    other = bag(squares.transpose(3, 4).flatten(4).flatten(2, 3))
assert torch.allclose(*answers, atol=1e-5) and (other - answers[0]).abs().max() > 1e-4

# %% [markdown]
# As a set of tokens nothing changes: attention and pooling do not know an order. But every token was made of a piece of
# the image that is wider than its square, and a shuffled image has other pieces.
# ```{solution-end}
# ```
#
# ```{exercise} What a stem costs
# :label: stems-cost
# Which share of the multiply-adds of ViT$_C$-18GF is in its stem, and how does that compare with one block of the
# encoder?
# ```
#
# ```{solution-start} stems-cost
# :class: dropdown
# ```

# %%
with torch.device("meta"):
    convs, fewer = tf.create_model("vit_c_18gf"), tf.create_model("vit_c_18gf", depth=10)
total, one_less = (measures.macs(m, (3, 224, 224)) for m in (convs, fewer))
inside = measures.macs(convs.stem, (3, 224, 224))
print(f"stem {inside / 1e9:.2f} G of {total / 1e9:.2f} G, one block {(total - one_less) / 1e9:.2f} G")
assert 0.8 < inside / (total - one_less) < 1.3

# %% [markdown]
# About as much as a block. So to drop exactly one block makes the comparison fair in multiply-adds.
# ```{solution-end}
# ```
#
# ```{exercise} Twice as far
# :label: stems-far
# How many patches away does information travel through two blocks of LeFF, if attention is left out? Show it by a
# gradient.
# ```
#
# ```{solution-start} stems-far
# :class: dropdown
# ```

# %%
first, second = LeFF(16, 32, (9, 9)).eval(), LeFF(16, 32, (9, 9)).eval()
x = torch.randn(2, 82, 16, requires_grad=True)
second(first(x))[0, 1 + 4 * 9 + 4].square().sum().backward()
reached = (x.grad[0, 1:].abs().sum(-1) > 0).view(9, 9)
assert reached.sum() == 25 and reached[2:7, 2:7].all()

# %% [markdown]
# Two: each block adds one on every side.
# ```{solution-end}
# ```
#
# ```{exercise} Break it
# :label: stems-break
# Someone lays the tokens out on their grid for LeFF without taking the class token off first, and drops the last patch
# to make the numbers fit. It runs and it trains. Write the test that catches it.
# ```
#
# ```{solution-start} stems-break
# :class: dropdown
# ```


# %%
def broken_leff(x: Tensor, layer: LeFF) -> Tensor:
    """The bug: the grid starts with the class token."""
    grid = x[:, :-1].mT.unflatten(2, layer.grid)
    grid = layer.project(layer.local(layer.expand(grid)))
    return torch.cat([grid.flatten(2).mT, x[:, -1:]], 1)


def neighbors_are_neighbors(apply: Callable[[Tensor], Tensor]) -> bool:
    """A patch at the left edge of a 4 x 4 grid hears itself and five neighbors, and no class token."""
    x = torch.randn(2, 17, 8, requires_grad=True)
    apply(x)[0, 1 + 4].square().sum().backward()  # row 1, column 0
    heard = x.grad[0].abs().sum(-1) > 0
    square = torch.zeros(4, 4, dtype=torch.bool)
    square[:3, :2] = True
    return torch.equal(heard, torch.cat([torch.tensor([False]), square.flatten()]))


layer = LeFF(8, 16, (4, 4)).eval()
assert neighbors_are_neighbors(layer)
assert not neighbors_are_neighbors(partial(broken_leff, layer=layer))

# %% [markdown]
# Shapes are right and the loss falls. A test of a patch in the middle finds nothing: question and answer are shifted
# alike. The edge shows it: its patches touch those at the other edge, and the first ones touch the class token.
# ```{solution-end}
# ```
#
# ## Further reading
#
# - {cite:t}`xiao2021`: the conjecture is in the abstract, and the rest is about what has to be held equal to test it.
# - {cite:t}`hassani2021`: the three steps, and what can be trained on a small machine.
# - {cite:t}`yuan2021ceit`: three changes to ViT, and what each brings.
# - {cite:t}`dosovitskiy2021`: what all three start from.
