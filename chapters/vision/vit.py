# ---
# jupyter:
#   jupytext: {text_representation: {extension: .py, format_name: percent}}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# (vit)=
# # Vision Transformer: an image read as a sentence
#
# A Transformer reads a list of vectors. {cite:t}`dosovitskiy2021` cut an image into squares, made each square a vector,
# and gave the list to an encoder that was built for text, with as little change as they could. It worked, with one
# condition: a great deal of data. {cite:t}`steiner2022` then trained thousands of such models to learn how much of that
# data careful training can replace. This chapter builds the model and tests both on a small scale. There the condition
# does not show; that augmentation can replace data does, on photographs and for short training.
#
# After this chapter you can
# - turn an image into tokens and back by hand, and say what a patch embedding has to do with a convolution;
# - write ViT in thirty lines, hold it against an independent implementation, and move its positions to another size;
# - measure what a Transformer lacks beside a convolutional network when images are few, and what augmentation gives.
#
# **Time**: about a minute on one CPU core; the line above says what this copy took. The profile `colab` trains the same
# comparison on 5000 photographs of CIFAR-10, in six or seven minutes of one core; `full` takes all 50,000 and larger
# models, for a large GPU. **Before**: {ref}`attention <attention>` and the {ref}`Transformer <transformer>`.

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
from dataclasses import asdict

import plotly.graph_objects as go
import skimage.data
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

import tformerlib as tf
from tformerlib import claims, measures, show, training
from tformerlib.attention import record_attention
from tformerlib.data.images import as_floats, digits
from tformerlib.layers.blocks import MLP, Attention, Block
from tformerlib.layers.convs import basic_block
from tformerlib.layers.positions import resize_grid
from tformerlib.models.resnet import ResNet
from tformerlib.models.vit import ViT
from tformerlib.peers import prepare
from tformerlib.training import augment, compare

# %% tags=["parameters"]
profile = "quick"  # quick: two CPU cores.  colab: one T4.  full: one large GPU.
seed = 0

# %%
run = tf.parameters(profile=profile, seed=seed)

# %% [markdown]
# ## The question: what is a word of an image?
#
# The obvious token is a pixel. But every token asks every other one, so a layer forms a score for each pair, and an
# image has many pixels. Count them for a photograph of the usual size, $224 \times 224$:


# %%
def scores(tokens: int) -> int:
    """Pairs of tokens that one head of one layer scores."""
    return tokens**2


side = 224
show.table(
    [
        {
            "token": name,
            "tokens": (side // patch) ** 2,
            "scores of one head": scores((side // patch) ** 2),
        }
        for name, patch in (
            ("a pixel", 1),
            ("a square of 8 × 8", 8),
            ("a square of 16 × 16", 16),
            ("of 32 × 32", 32),
        )
    ],
    caption="Tokens go with the area of the image, scores with its square.",
)

# %% [markdown]
# Two and a half thousand million scores for one head of one layer are too many; a square of $16 \times 16$ pixels as a
# token leaves $196$ tokens, a sentence of ordinary length. Earlier models kept the pixels (or very small squares) and
# restricted who may ask whom, or ran attention on top of a convolutional network. Here nothing is restricted. The price
# is that a token is now a square of $768$ numbers, and the model knows nothing about what is inside it or beside it.
# Can it learn that?
#
# Look at what it does *not* know. Shuffle the pixels of all images by one fixed permutation. A convolution has lost its
# world: neighbors are no longer neighbors. A linear layer on a whole patch does not notice, if the shuffle stays inside
# the patch.

# %%
patch_pixels = torch.randn(5, 3 * 16 * 16)  # five patches, flattened
layer = nn.Linear(3 * 16 * 16, 8)
order = torch.randperm(3 * 16 * 16)
shuffled = nn.Linear(3 * 16 * 16, 8)
shuffled.load_state_dict({"weight": layer.weight[:, order], "bias": layer.bias})
assert torch.allclose(layer(patch_pixels), shuffled(patch_pixels[:, order]), atol=1e-5)

# %% [markdown]
# For every layer on the original pixels there is one on the shuffled pixels that computes the same, so learning is
# equally hard on both. A convolutional network comes with two beliefs about images, *neighbors belong together* and
# *the same pattern may appear anywhere*. ViT comes with almost none. That is this chapter's question: **what do the
# beliefs cost, and what are they worth?**
#
# ## By hand: sixteen pixels
#
# Take an image of $4 \times 4$ gray pixels: dark on the left, bright on the right, with one bright spot at the top
# left. Cut it into four patches of $2 \times 2$, in reading order. A patch of four pixels becomes a token of two
# numbers: its **mean**, and **right minus left**.

# %%
tiny = torch.tensor([[[[4.0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 2, 4]]]])  # (B, 1, 4, 4)
measure = torch.tensor([[1.0, 1, 1, 1], [-2, 2, -2, 2]]) / 4  # rows: mean, right minus left

patches = rearrange(tiny, "b c (h p) (w q) -> b (h w) (p q c)", p=2, q=2)
tokens = patches @ measure.T
print("patches:", patches[0].int().tolist())
print("tokens: ", tokens[0].tolist())
assert torch.equal(tokens[0], torch.tensor([[1.0, -2], [2, 0], [0, 0], [2.5, 1]]))

# %% [markdown]
# Check the first token with a pencil: pixels $4, 0, 0, 0$ have the mean $1$; the right column sums to $0$, the left to
# $4$, and half the difference is $-2$. The order inside a patch is a convention, and the matrix has to know it.
#
# Multiplying every patch by one matrix is what a convolution does whose kernel is as large as its stride. So a patch
# embedding is a convolution, the only one in the model, and libraries write it so.

# %%
kernel = measure.view(2, 1, 2, 2)
as_convolution = F.conv2d(tiny, kernel, stride=2)  # (B, 2, 2, 2)
assert torch.equal(as_convolution.flatten(2).mT, tokens)

# %% [markdown]
# ## Build it
#
# From pixels to a class, as the paper has it for an image of 224 pixels:
#
# ```{diagram} patches
# Patches become tokens, a class token goes in front, positions are added; from there on it is the encoder that we know.
# Sixteen of the 196 patches are drawn.
# ```
#
# ### Patches
#
# With three colors a patch of side $p$ has $3p^2$ numbers. Nothing is lost yet: the cut can be undone.


# %%
def to_patches(image: Tensor, patch: int) -> Tensor:
    """Images (B, 3, height, width) to patches (B, N, 3 * patch * patch), in reading order."""
    return rearrange(image, "b c (h p) (w q) -> b (h w) (c p q)", p=patch, q=patch)


def to_image(patches: Tensor, patch: int, rows: int) -> Tensor:
    """The way back."""
    return rearrange(patches, "b (h w) (c p q) -> b c (h p) (w q)", p=patch, q=patch, h=rows, c=3)


photograph = torch.from_numpy(skimage.data.chelsea()[:288, 60:348].copy()).permute(2, 0, 1)[None]
cut = to_patches(photograph, 48)
assert torch.equal(to_image(cut, 48, rows=6), photograph)
print(f"{tuple(photograph.shape[1:])} pixels, {cut.shape[1]} patches of {cut.shape[2]} numbers")


# %% tags=["hide-input"]
def patch_figure(patch: int) -> go.Figure:
    """The photograph with lines between patches; hovering says which token a patch is and where."""
    small = F.interpolate(photograph.float(), size=144, mode="area").byte()[0]
    count = 144 // patch
    centers = [(i + 0.5) * patch for i in range(count)]
    names = [[f"token {1 + r * count + c}<br>row {r}, column {c}" for c in range(count)] for r in range(count)]
    heat = go.Heatmap(
        z=[[0] * count] * count, x=centers, y=centers, text=names, hovertemplate="%{text}<extra></extra>",
        colorscale=[[0, "rgba(0,0,0,0)"], [1, "rgba(0,0,0,0)"]], showscale=False,
    )  # fmt: skip
    lines = [
        {
            "type": "line",
            "x0": a,
            "x1": b,
            "y0": c,
            "y1": d,
            "line": {"color": "white", "width": 1},
        }
        for i in range(1, count)
        for a, b, c, d in ((i * patch, i * patch, 0, 144), (0, 144, i * patch, i * patch))
    ]
    axis = {"visible": False, "range": [0, 144], "constrain": "domain"}
    image = go.Image(source=show.picture(small), x0=0.5, y0=0.5, hoverinfo="skip")
    layout = {
        "xaxis": axis,
        "yaxis": {**axis, "range": [144, 0], "scaleanchor": "x"},
        "shapes": lines,
        "height": 420,
    }
    return go.Figure([image, heat], layout)


# %% tags=["hide-input"]
show.slider(
    {f"{patch} × {patch}: {(144 // patch) ** 2} tokens": patch_figure(patch) for patch in (48, 24, 16, 12)},
    slider_label="patches of",
    alt="A photograph of a cat with white lines that cut it into squares; a slider makes the squares smaller, from "
    "nine to 144 of them.",
    caption="Hover for the number of a token; number 0 is kept for the class token. Halve the side of a patch, and "
    "there are four times as many tokens and sixteen times as many scores.",
)

# %% [markdown]
# ### A token that asks
#
# Who answers for the whole image? The encoder returns a vector for each patch. As in BERT, ViT puts one more token in
# front, the **class token**: a learned vector, the same for all images, which asks the patches in every layer and whose
# last state goes to the classifier. And since attention does not know the order of its tokens, each place gets a
# learned vector that is added to what stands there, the class token's place included:
#
# $$ z_0 = x_0 + t_0, \qquad z_j = W_p x_j + t_j \quad (j = 1, \dots, N), $$
#
# where $x_j$ is a flattened patch, $W_p$ the embedding matrix, $x_0$ the class token and $t_j$ the vector of a place,
# one more than there are patches. The rest is an encoder with pre-norm blocks, and it fits into one cell:


# %%
class SmallViT(nn.Module):
    """ViT without options: patches, class token, positions, blocks, head."""

    def __init__(self, image: int, patch: int, dim: int, depth: int, heads: int, classes: int) -> None:
        super().__init__()
        self.patch, tokens = patch, (image // patch) ** 2
        self.embed = nn.Linear(3 * patch * patch, dim)
        self.cls = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + tokens, dim))
        self.blocks = nn.Sequential(*[Block(dim, Attention(dim, heads), MLP(dim, 4 * dim)) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, classes)

    def forward(self, image: Tensor) -> Tensor:
        x = self.embed(to_patches(image, self.patch))
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


# %% [markdown]
# ### What the positions are for
#
# Take the positions away, and the class token sees a *bag* of patches: shuffle them, and nothing changes. That is an
# identity, so we can demand it of random weights. With positions it has to fail.

# %%
model = SmallViT(image=32, patch=8, dim=32, depth=2, heads=4, classes=10)
images = torch.randn(2, 3, 32, 32)
mixed = to_image(to_patches(images, 8)[:, torch.randperm(16)], 8, rows=4)
with torch.no_grad():
    assert (model(images) - model(mixed)).abs().max() > 1e-4
    model.positions.zero_()
    assert torch.allclose(model(images), model(mixed), atol=1e-5)

# %% [markdown]
# ## The library's version
#
# `ViT` is the same with the options of the published models. Give both the same weights, and they have to agree. The
# library's embedding is a convolution, so its kernel is our matrix in another shape; our norms need its `eps`.

# %%
sizes = {"image": 32, "patch": 8, "dim": 32, "depth": 2, "heads": 4, "classes": 10}
ours, library = SmallViT(**sizes), ViT(**sizes)
renamed = {key.replace("embed.", "patches.conv.").replace("cls", "prefix"): x for key, x in ours.state_dict().items()}
renamed["patches.conv.weight"] = renamed["patches.conv.weight"].view(32, 3, 8, 8)
library.load_state_dict(renamed)
for module in ours.modules():
    if isinstance(module, nn.LayerNorm):
        module.eps = 1e-6
show.parity(
    "thirty lines against the library",
    (ours(images) - library(images)).abs().max().item(),
    tolerance=1e-5,
)

# %% [markdown]
# And the library against other people's code: `ViTForImageClassification` of Hugging Face transformers, at a size that
# nobody published. Its weights travel through rules that refuse a tensor they do not know.

# %%
prepare()
from transformers import ViTConfig, ViTForImageClassification

config = ViTConfig(
    image_size=96, patch_size=12, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=192,
    layer_norm_eps=1e-6,
)  # fmt: skip
theirs = ViTForImageClassification(config).eval()
with torch.no_grad():
    for p in theirs.parameters():
        p.add_(0.1 * torch.randn_like(p))  # away from the start, where every softmax is nearly uniform
library = ViT(image=96, patch=12, dim=48, depth=3, heads=4, classes=2).eval()
tf.load_published(library, theirs.state_dict(), source="transformers")
images = torch.randn(2, 3, 96, 96)
error = (library(images) - theirs(images).logits).abs().max().item()
show.parity("ViT against transformers", error, tolerance=2e-5)

# %% [markdown]
# The tests do the same, with gradients, against timm for the published sizes. Here they are with their price: what the
# papers print, and what our models have. Multiply-adds are counted by torch for one image of $224 \times 224$.

# %%
printed = {  # million parameters as in the papers; "?": second-hand, not looked up in their tables
    "vit_tiny_patch16": "5.8 ?", "vit_small_patch32": "22.9 ?", "vit_small_patch16": "22.2 ?", "vit_base_patch16": "86",
    "vit_large_patch16": "307", "vit_huge_patch14": "632", "vit_tiny_r_s16_p8": "6.4 ?",
    "vit_small_r26_s32": "36.6 ?", "vit_large_r50_s32": "330 ?",
}  # fmt: skip


def price(name: str) -> dict[str, object]:
    """Parameters and cost of a published size; on "meta" nothing is allocated and nothing computed."""
    with torch.device("meta"):
        model = tf.create_model(name)
    millions = measures.parameter_count(model) / 1e6
    giga = measures.macs(model, (3, 224, 224)) / 1e9
    return {
        "model": name,
        "papers, M": printed[name],
        "ours, M": f"{millions:.1f}",
        "multiply-adds, G": f"{giga:.2f}",
    }


show.table(
    [price(name) for name in printed],
    caption="B, L and H: Dosovitskiy et al., table 1. The others: Steiner et al.; a question mark says that the number "
    "was not looked up there. Patches of 32 cost a quarter of those of 16. Hybrids (with r) let a ResNet look first.",
)

# %% [markdown]
# ViT-L falls short of the printed $307$ million by less than one percent. The head is not the reason: that of
# pre-training, for the 21,843 classes of ImageNet-21k, would alone add $21843 \cdot 1024$ parameters, over twenty
# million. With patches of 32 pixels the same model has $306.5$ million, because its embedding is larger. Whether that
# is what was counted, the paper does not say.
#
# ## A toy: where is the mark?
#
# Positions are the only thing that tells patches apart. So there is a task that a ViT without them can't do at all. An
# image is black but for one white patch of sixteen; say in which quarter of the image it is.

# %%
marks = torch.zeros(16, 16, 3 * 4 * 4)
marks[torch.arange(16), torch.arange(16)] = 1.0
marks = to_image(marks, 4, rows=4)  # sixteen images of 16 x 16: the patch that is white differs
quarter = torch.tensor([2 * (i // 8) + (i % 4) // 2 for i in range(16)])


def mark_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def find_the_mark(positions: bool) -> float:
    """Share of the sixteen images whose quarter a trained ViT tells."""
    torch.manual_seed(seed)
    model = ViT(image=16, patch=4, dim=32, depth=2, heads=2, classes=4)
    if not positions:
        model.positions.requires_grad_(False).zero_()
    training.fit(
        model,
        (marks, quarter),
        mark_loss,
        steps=80,
        batch_size=16,
        lr=3e-3,
        seed=seed,
        device="cpu",
    )
    return (model(marks).argmax(-1) == quarter).float().mean().item()


without, found = find_the_mark(positions=False), find_the_mark(positions=True)
assert without == 0.25  # all sixteen images give the same logits, so one quarter is always said
show.glue("vit-mark", f"{found:.0%}")

# %% [markdown]
# Without positions the sixteen images are one and the same bag, and the answer is right for exactly a quarter of them,
# however long one trains. With positions it is right for {glue:text}`vit-mark`.
#
# ## The experiment: what do beliefs cost?
#
# {cite:t}`dosovitskiy2021` pre-trained ViTs and ResNets (of the kind called BiT, {cite:p}`kolesnikov2020`) on more and
# more images. With few, the ResNets win; with many, ViT draws level and then ahead (figures 3 and 4 there). Our scale
# is smaller by a factor of a hundred thousand, and the question is the same: **does the gap close as images are
# added?**
#
# In `quick` the images are handwritten digits on a noisy ground, a hundred of them or a thousand; in `colab` they are
# photographs, 500 or 5000. Both models get the same images, the same number of steps, and the same number of
# parameters, within a tenth. One favor for ViT: in so few steps a table of positions that starts
# near nothing has no time to grow, so ours starts larger.

# %%
task = compare.league(run, run.pick(quick=None, colab=5000, full=None))
counts = run.pick(quick=[100, 1000], colab=[500, 5000], full=[5000, 15_000, 50_000])
small, large = counts[0], counts[-1]
budget = compare.Budget(
    steps=run.pick(quick=800, colab=1400, full=8000),
    batch_size=run.pick(quick=32, colab=32, full=256),
    lr=run.pick(quick=3e-3, colab=2e-3, full=1e-3),
)


# %%
def make_vit() -> ViT:
    size = run.pick(
        quick={"dim": 56, "depth": 2, "heads": 4},
        colab={"dim": 40, "depth": 4, "heads": 4},
        full={"dim": 384, "depth": 6, "heads": 6},
    )
    model = ViT(image=task.side, patch=4, classes=task.classes, **size)
    nn.init.normal_(model.positions, std=0.5)
    return model


def make_cnn() -> ResNet:
    dims, depths = run.pick(
        quick=((16, 32, 64), (1, 1, 1)),
        colab=((16, 32, 64), (1, 1, 1)),
        full=((128, 256, 512), (2, 2, 2)),
    )
    return ResNet(
        depths=depths,
        dims=dims,
        stem=dims[0],
        block=basic_block,
        small=True,
        classes=task.classes,
    )


# %%
show.table(
    [
        {
            "model": name,
            "parameters": measures.parameter_count(make()),
            "multiply-adds for an image": measures.macs(make(), task.train[0].shape[1:]),
        }
        for name, make in (("ViT", make_vit), ("CNN", make_cnn))
    ],
    caption=f"The two models of profile {run.profile}.",
)

# %% tags=["hide-input"]
examples = compare.subset(task, small, seed=seed).train
show_images, labels = examples[0][:20], examples[1][:20].tolist()
sheet = rearrange(show_images, "(h w) c y x -> c (h y) (w x)", w=10)
across, down = sheet.shape[2], sheet.shape[1]
show.figure(
    go.Figure(
        go.Image(source=show.picture(sheet), hoverinfo="skip"),
        {"xaxis": {"visible": False}, "yaxis": {"visible": False}, "height": 190},
    ),
    alt=f"Twenty training images in two rows. Their labels are {', '.join(map(str, labels))}.",
    caption="Twenty of the images that both models learn from.",
)


# %%
def score(make, count: int, recipe: augment.Recipe | None = None, name: str = "") -> tuple[float, nn.Module]:
    """Test accuracy in percent after training on so many images, and the model."""
    torch.manual_seed(seed)
    model, some = make(), compare.subset(task, count, seed=seed)
    recipe = recipe or augment.Recipe()
    spent = compare.Budget(budget.steps, budget.batch_size, budget.lr, recipe=recipe)
    history = compare.train(model, some, spent, seed=seed, device=run.device, label=f"{name} {count}")
    return history.metrics[-1]["accuracy"], model


accuracy, models = {}, {}
for name, make in (("ViT", make_vit), ("CNN", make_cnn)):
    for count in counts:
        accuracy[name, count], models[name, count] = score(make, count, name=name)

# %%
gap = {count: accuracy["CNN", count] - accuracy["ViT", count] for count in counts}
verdicts = [
    claims.report(
        "vit.gap-closes-with-data",
        gap_small=gap[small],
        closing=gap[small] - gap[large],
    )
]

# %% tags=["hide-input"]
show.glue("vit-gap-small", f"{gap[small]:.1f}")
show.glue("vit-gap-large", f"{gap[large]:.1f}")
show.glue("vit-small", str(small))
show.glue("vit-large", str(large))
show.lines(
    counts,
    {name: [accuracy[name, count] for count in counts] for name in ("CNN", "ViT")},
    x_label="training images (log)",
    y_label="test accuracy, %",
    log_x=True,
    alt="Test accuracy of a convolutional network and of ViT over the number of training images. Both rise. "
    f"With {small} images they differ by {gap[small]:.0f} points, with {large} by {gap[large]:.0f}.",
    caption=f"Equal parameters, steps and images; profile {run.profile}, seed {seed}.",
)

# %% [markdown]
# With {glue:text}`vit-small` images the CNN is ahead by {glue:text}`vit-gap-small` points, with {glue:text}`vit-large`
# by {glue:text}`vit-gap-large`. That is one seed; over the recorded ones the gap closes by
# {recorded}`vit.gap-closes-with-data:closing` points: {verdict}`vit.gap-closes-with-data`.
#
# Draw a digit yourself: the ViT that saw the most images is in this page. Draw slowly and watch at which stroke it
# changes its mind. Then move the digit with the arrow keys, half a patch at a time: a convolution would hardly notice.

# %% tags=["hide-input"]
if run.profile == "quick":  # the larger profiles learn photographs, and nobody draws those
    show.live_digits(
        models["ViT", large],
        (task.test[0][:40], task.test[1][:40]),
        name="vit-digits",
        kind="vit",
        config={"depth": 2, "heads": 4, "patch": 4},
        hint="Draw a digit, or begin with one of the test set. On the right is what the class token looks at.",
        alt="A field to draw a digit in, bars with the model's answer, and a map of where its class token looks.",
        caption="A ViT that reads what you draw.",
    )

# %% [markdown]
# What was expected? The CNN *guesses better* about images that it has not seen, because what it believes about images
# is true; with more images there is less to guess, and the belief should be worth less. At equal steps two things mix:
# how much is left to guess, and whether ViT has had the steps to learn what more images offer. *Ours and the paper's*
# returns to that.
#
# ### Can augmentation stand in for data?
#
# {cite:t}`steiner2022` ask what data can be replaced by. Their answer in one line: the right augmentation and
# regularization, together with more computation, are worth about ten times the data. **Regularization** means dropout,
# which silences random channels, and stochastic depth, which skips random branches. **Augmentation** means making new
# examples of old ones, by changes that should not change the label: RandAugment {cite:p}`cubuk2020` picks one or two
# operations from a list for each image (turn, shear, shift, brighten, solarize …); mixup {cite:p}`zhang2018` blends
# pairs of images and their labels.

# %%
recipe = run.pick(
    quick=augment.Recipe(operations=1, magnitude=5.0),
    colab=augment.Recipe(crop=4, flip=True, operations=1, magnitude=5.0),
    full=augment.Recipe(crop=4, flip=True, operations=2, magnitude=9.0, mixup=0.5),
)
torch.manual_seed(seed)
before = as_floats(examples[0][:10])
rows = [before] + [recipe(before, examples[1][:10], task.classes)[0] for _ in range(3)]
sheet = rearrange(torch.stack(rows), "h w c y x -> c (h y) (w x)")
sheet = ((sheet.clamp(-1, 1) + 1) * 127.5).byte()

# %% tags=["hide-input"]
show.figure(
    go.Figure(
        go.Image(source=show.picture(sheet), hoverinfo="skip"),
        {"xaxis": {"visible": False}, "yaxis": {"visible": False}, "height": 330},
    ),
    alt="Ten training images in the first row; below them three rows of the same images, each turned, sheared, moved "
    "or recolored a little differently.",
    caption="First row: the images. Below: three draws of the recipe for each.",
)

# %% [markdown]
# The comparison has three runs of ViT with equal steps: {glue:text}`vit-small` images as they are, the same images
# augmented, and {glue:text}`vit-tenfold` images as they are.

# %%
tenfold = next(count for count in counts if count >= 10 * small)
augmented, models["ViT, augmented", small] = score(make_vit, small, recipe, "ViT, augmented,")
plain, more = accuracy["ViT", small], accuracy["ViT", tenfold]
verdicts.append(
    claims.report(
        "vit.augmentation-for-data",
        shortfall=more - augmented,
        share=100 * (augmented - plain) / max(more - plain, 1.0),
        tenfold=more - plain,
    )
)

# %% tags=["hide-input"]
show.glue("vit-tenfold", str(tenfold))
show.glue("vit-plain", f"{plain:.1f} %")
show.glue("vit-augmented", f"{augmented:.1f} %")
show.glue("vit-more", f"{more:.1f} %")
show.bars(
    {
        f"{small} images": plain,
        f"{small} images, augmented": augmented,
        f"{tenfold} images": more,
    },
    y_label="test accuracy of ViT, %",
    alt=f"Three bars: {plain:.0f} percent with {small} images, {augmented:.0f} percent with augmentation, {more:.0f} "
    f"percent with {tenfold} images.",
    caption="What augmentation adds, beside what ten times the images add.",
)

# %% [markdown]
# From {glue:text}`vit-plain` augmentation goes to {glue:text}`vit-augmented`, where ten times the images go to
# {glue:text}`vit-more`. The share of the gain that augmentation brings is {recorded}`vit.augmentation-for-data:share`
# percent over the recorded seeds; the verdict is {verdict}`vit.augmentation-for-data`. Ours lacks half of the paper's
# recipe, the additional computation and the regularization. And a recipe has to fit its task: a digit that is turned a
# little is the same digit, and one that is turned over may be another, as an exercise below shows.
#
# The profile `colab` makes both comparisons with photographs, on models of the same size.
#
# ### What everything costs
#
# Later chapters bring more models for the same task. The figure collects what all of them have recorded: accuracy over
# parameters, over multiply-adds, over images a second. A model on the dotted line is not beaten on both counts.

# %%
results = [compare.weigh(name, models[name, large], task, profile=run.profile, seed=seed) for name in ("ViT", "CNN")]
compare.keep(results, chapter="vit")

# %% tags=["hide-input"]
known = [row for row in compare.recorded(task.name) if row["profile"] == run.profile]
rows = [*known, *({"chapter": "vit", **asdict(result)} for result in results)]
show.pareto(
    rows,
    alt="Test accuracy of every recorded model over its cost, with a dotted line through those that no other beats; a "
    "slider chooses parameters, multiply-adds or throughput.",
    caption=f"Task {task.name}, {large} training images. It grows as chapters are added. Throughput is this machine's.",
)

# %% [markdown]
# ## Look inside
#
# Digits are a poor thing to look at. So here is a ViT that has seen photographs: four of them, from scikit-image, cut
# into many small crops. It learns from which of the four a crop comes, and from which quarter of it. That takes a few
# seconds and is no feat, but it has to look at textures, edges, colors, and where they are.

# %%
photographs = {
    "astronaut": skimage.data.astronaut()[:448, 32:480],
    "cat": skimage.data.chelsea()[:, 75:375],
    "coffee": skimage.data.coffee()[:, 100:500],
    "rocket": skimage.data.rocket()[:, 100:527],
}


def square(pixels, side: int) -> Tensor:
    """Pixels (H, W, 3) as bytes (3, side, side)."""
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float()
    return F.interpolate(image, size=(side, side), mode="area").round().byte()[0]


whole = torch.stack([square(pixels, 144) for pixels in photographs.values()])
generator = torch.Generator().manual_seed(seed)
corners = torch.randint(144 - 48 + 1, (4, 300, 2), generator=generator)
crops = torch.stack([whole[i, :, y : y + 48, x : x + 48] for i in range(4) for y, x in corners[i].tolist()])
origin = 4 * torch.arange(4)[:, None] + (corners > 48).long() @ torch.tensor([2, 1])  # photograph, quarter
origin = origin.flatten()

# %%
torch.manual_seed(seed)
seeing = ViT(image=48, patch=6, dim=48, depth=4, heads=4, classes=16)
untrained = ViT(image=48, patch=6, dim=48, depth=4, heads=4, classes=16).eval()
album = compare.Task("crops", (crops, origin), (crops, origin), 16)
history = compare.train(seeing, album, compare.Budget(steps=200, batch_size=24, lr=3e-3), seed=seed, device="cpu")
show.glue("vit-crops", f"{history.metrics[-1]['accuracy']:.0f} %")

# %% [markdown]
# ### Positions find their grid
#
# It tells {glue:text}`vit-crops` of its training crops. Nobody told it that patch 9 lies under patch 1: the table of
# positions starts as noise. Compare the learned vectors with each other by their cosine.

# %% tags=["hide-input"]
side = 8
places = {
    "trained": F.normalize(seeing.positions.detach()[0, 1:], dim=-1),
    "untrained": F.normalize(untrained.positions.detach()[0, 1:], dim=-1),
}
maps = {
    f"{name}, row {r}, column {c}": (vectors @ vectors[r * side + c]).view(side, side)
    for name, vectors in places.items()
    for r, c in ((1, 1), (1, 6), (4, 4), (6, 1))
}
show.explore(
    maps,
    [f"row {i}" for i in range(side)],
    [f"column {i}" for i in range(side)],
    slider_label="place",
    alt="Cosine between the position vector of one patch and those of all patches, as a map of 8 by 8; for trained and "
    "untrained positions.",
    caption="Each map compares one place with all others. Untrained places are alike only to themselves.",
)

# %% [markdown]
# Two hundred steps move a table only a little, so do not expect much. {cite:t}`dosovitskiy2021` show the same maps
# after long training, with rows and columns plainly visible (figure 7, center). Here we ask for a number instead: how
# much more alike are neighbors than patches that are far apart?

# %%
yx = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float()
apart = torch.cdist(yx, yx)


def neighborly(vectors: Tensor) -> float:
    """Mean cosine of direct neighbors minus that of patches at least four apart."""
    cosine = vectors @ vectors.mT
    return (cosine[apart == 1].mean() - cosine[apart >= 4].mean()).item()


for name, vectors in places.items():
    print(f"{name}: {neighborly(vectors):+.3f}")
show.glue("vit-neighbors", f"{neighborly(places['trained']):+.3f}")
show.glue("vit-neighbors-untrained", f"{neighborly(places['untrained']):+.3f}")

# %% [markdown]
# The difference is {glue:text}`vit-neighbors` in this run, and {glue:text}`vit-neighbors-untrained` before training.
#
# ### How far does a head look?
#
# A convolution of $3 \times 3$ looks one pixel far, in every layer. A head may look anywhere. Its **attention
# distance** is the mean distance, in pixels, between a patch and the patches it attends to, weighted by attention.
# A head that attends to everything equally has a distance that depends on the grid alone; the figure marks it. We ask
# the model of the experiment that has seen the most digits, on test images.


# %%
def distances(model: ViT, patch: int) -> Tensor:
    """(N, N): pixels between the centers of two patches."""
    rows, columns = model.grid
    centers = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()
    return patch * torch.cdist(centers, centers)


def attention_distance(model: ViT, images: Tensor, patch: int) -> Tensor:
    """(layers, heads): mean distance in pixels between a patch and what it attends to among patches."""
    with record_attention() as weights, torch.no_grad():
        model(images)
    among = [w[:, :, 1:, 1:] for w in weights]  # without the class token, which is nowhere
    far = distances(model, patch)
    return torch.stack([(w / w.sum(-1, keepdim=True) * far).sum(-1).mean((0, 2)) for w in among])


sample = as_floats(task.test[0][:100])
reader, beginner = models["ViT", large].cpu().eval(), make_vit().eval()
distance = {
    "trained": attention_distance(reader, sample, patch=4),
    "untrained": attention_distance(beginner, sample, patch=4),
}
even = distances(reader, patch=4).mean().item()
assert (distance["untrained"] - even).abs().max() < 0.05 * even  # small random weights attend evenly

# %% tags=["hide-input"]
layers, heads = distance["trained"].shape
points = [
    go.Scatter(
        x=[layer + 1 + 0.24 * (head + 0.5 - heads / 2) / heads for layer in range(layers) for head in range(heads)],
        y=[d for row in values.tolist() for d in row],
        mode="markers",
        name=name,
        text=[f"layer {layer + 1}, head {head + 1}" for layer in range(layers) for head in range(heads)],
        hovertemplate="%{text}: %{y:.1f} pixels<extra></extra>",
        marker={"size": 9, "symbol": symbol},
    )
    for (name, values), symbol in zip(distance.items(), ("circle", "diamond-open"), strict=True)
]
line = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": even, "y1": even}
layout = {
    "xaxis": {"title": "layer", "dtick": 1},
    "yaxis": {"title": "attention distance, pixels", "rangemode": "tozero"},
    "shapes": [line | {"line": {"dash": "dot", "color": "#767676"}}],
    "height": 380,
}
low, high = distance["trained"].min().item(), distance["trained"].max().item()
show.glue("vit-distances", f"{low:.1f} to {high:.1f}")
show.glue("vit-even", f"{even:.1f}")
show.figure(
    go.Figure(points, layout),
    alt=f"Attention distance of each head in each of {layers} layers. Untrained heads lie on the dotted line of even "
    f"attention, {even:.1f} pixels; trained heads reach from {low:.1f} to {high:.1f} pixels.",
    caption="Each point is a head. The dotted line is a head that attends to all patches equally.",
)

# %% [markdown]
# Trained heads reach from {glue:text}`vit-distances` pixels, where even attention is at {glue:text}`vit-even`. In the
# paper's large models some heads of the first layers already look across the image, and others stay local as a
# convolution would (figure 7, right). Nothing but training makes that difference between heads. Ours are two layers on
# small digits, so do not read the paper's figure into them.
#
# ### Rollout: what reaches the class token?
#
# One layer's weights say where it reads, and what it reads is already mixed. **Rollout** {cite:p}`abnar2020` follows
# the mixing: average the heads, count the residual connection as attending to oneself, and multiply the layers, later
# ones from the left,
#
# $$ \Phi = \prod_{\text{layers}} \tfrac12 (\bar\alpha + I) , $$
#
# where $\bar\alpha$ is the mean of the heads' weights and $I$ the identity. The class token's row of $\Phi$ says from
# which patches it was made, as far as weights can say. By hand, with two tokens that attend only to each other in both
# layers: after one layer a token is half itself and half the other, and a second layer changes nothing, for it mixes
# two equal mixtures.


# %%
def rollout(weights: list[Tensor]) -> list[Tensor]:
    """Weights (B, H, N, N) of each layer to the products (B, N, N) after each layer."""
    mixed = torch.eye(weights[0].shape[-1]).expand(len(weights[0]), -1, -1)
    steps = []
    for w in weights:
        mixed = (w.mean(1) + torch.eye(w.shape[-1])) / 2 @ mixed
        steps.append(mixed)
    return steps


swap = torch.tensor([[[[0.0, 1], [1, 0]]]])
assert torch.equal(rollout([swap, swap])[-1], torch.full((1, 2, 2), 0.5))

# %% [markdown]
# The photographs are larger than the crops the model was trained on: $144$ pixels against $48$. Its blocks do not mind
# more tokens. Its positions do: there are $8 \times 8$ of them and $24 \times 24$ patches. ViT's answer is to
# **resample the table** as if it were an image, and to leave the class token's row alone.


# %%
def at_size(model: ViT, image: int) -> ViT:
    """The same weights for square images of another size."""
    larger = ViT(image=image, patch=6, dim=48, depth=4, heads=4, classes=16).eval()
    state = dict(model.state_dict())
    prefix, grid = state["positions"][:, :1], state["positions"][0, 1:]
    state["positions"] = torch.cat([prefix, resize_grid(grid, model.grid, larger.grid)[None]], 1)
    larger.load_state_dict(state)
    return larger


larger = at_size(seeing, 144)
with record_attention() as weights, torch.no_grad():
    said = larger(as_floats(whole)).softmax(-1)
flow = rollout(weights)
assert torch.allclose(flow[-1].sum(-1), torch.ones(4, 577), atol=1e-4)  # rows stay distributions
of_each = said.view(4, 4, 4).sum(-1)  # over the quarters of a photograph
right = (of_each.argmax(-1) == torch.arange(4)).sum().item()
show.glue("vit-whole", f"{right} of 4")


# %% tags=["hide-input"]
def overlay(i: int, layer: int) -> go.Figure:
    """A photograph, and over it how much of each patch has reached the class token after a layer."""
    share = flow[layer][i, 0, 1:].view(24, 24)
    share = share / share.max()
    centers = [6 * (k + 0.5) for k in range(24)]
    heat = go.Heatmap(
        z=[[round(v, 2) for v in row] for row in share.tolist()], x=centers, y=centers, zmin=0, zmax=1, opacity=0.55,
        colorscale="Viridis", colorbar={"thickness": 10}, hovertemplate="%{z:.2f} of the largest<extra></extra>",
    )  # fmt: skip
    axis = {"visible": False, "range": [0, 144], "constrain": "domain"}
    image = go.Image(source=show.picture(whole[i]), x0=0.5, y0=0.5, hoverinfo="skip")
    return go.Figure(
        [image, heat],
        {
            "xaxis": axis,
            "yaxis": {**axis, "range": [144, 0], "scaleanchor": "x"},
            "height": 420,
        },
    )


show.slider(
    {f"{name}, layer {layer + 1}": overlay(i, layer) for i, name in enumerate(photographs) for layer in (0, 3)},
    slider_label="photograph",
    alt="Four photographs, an astronaut, a cat, a cup of coffee and a rocket, each under a map of 24 by 24 cells that "
    "shows how much of each patch has reached the class token after the first and after the last layer.",
    caption="Rollout, as a share of the largest value in its map. Yellow patches count most.",
)
show.attention_widget(
    {f"layer {k + 1}": flow[k][0, 0, 1:].view(24, 24) for k in range(4)},
    [str(k) for k in range(24)],
    [str(k) for k in range(24)],
    label="after",
    alt="Rollout of the class token on the astronaut.",
    caption="The same by a live kernel, for every layer.",
)

# %% [markdown]
# On the whole photographs, three times as large as anything in training, the model names {glue:text}`vit-whole`
# correctly. The maps are coarse, and they are not a proof: rollout knows weights, and nothing of what the values carry.
#
# ## What breaks
#
# Resampling has a trap that people fall into. The table has one row more than the grid. Forget the class token, and
# either the shapes do not fit, or (worse) one treats all rows as a grid, and every position is off by one. The model
# still runs. How far is it off?


# %%
def careless(model: ViT, image: int) -> ViT:
    """Resamples the whole table along its rows, class token and all: the bug."""
    larger = at_size(model, image)
    rows = model.positions.detach().mT  # (1, C, 1 + N)
    larger.positions.data = F.interpolate(rows, size=larger.positions.shape[1], mode="linear").mT
    return larger


with torch.no_grad():
    good, bad = at_size(seeing, 144).positions[0, 1:], careless(seeing, 144).positions[0, 1:]
    same_column = F.cosine_similarity(good.view(24, 24, -1)[:-1], good.view(24, 24, -1)[1:], dim=-1).mean()
    torn = F.cosine_similarity(bad.view(24, 24, -1)[:-1], bad.view(24, 24, -1)[1:], dim=-1).mean()
print(f"vertical neighbors are alike: {same_column:.2f} resampled as a grid, {torn:.2f} resampled as a list")
assert same_column > torn + 0.2

# %% [markdown]
# A grid resampled to three times its size is smooth in both directions: each old place becomes nine similar ones. A
# list resampled is smooth along the row, and the patch below has little to do with the patch above. The check costs
# one line.
#
# ## Ours and the paper's
#
# | What differs | Ours | The papers' | What it does |
# |---|---|---|---|
# | data | 100 and 1000 digits; `colab`: 500 and 5000 of CIFAR-10 | up to 300 million photographs | other amounts |
# | procedure | trained and tested on one task | pre-training, then transfer | transfer is not measured |
# | CNN | a small ResNet with BatchNorm | BiT: wide ResNets with GroupNorm | not measured |
# | augmentation | one recipe | a grid of recipes, the best chosen | against us |
# | computation | equal steps in all runs | more of it is part of the claim | against us |
# | regularization | weight decay alone | dropout and stochastic depth too | not measured |
# | positions | start at 0.5 | start at 0.02 | ViT learns faster in few steps |
# | head | one layer, zero at first | one more with tanh, in pre-training only | not measured |
#
# **Steps matter more than the claim says.** We chose steps and digits in pilot runs, before any run was judged. With
# fewer steps ViT had not yet learned a thousand images by heart, and the gap was several times as wide there as with a
# hundred. With digits that are small and moved about, it did little better than guessing after five hundred steps, when
# the CNN had nearly all of them right. A gap at equal steps mixes two things: what a model can't guess from few images,
# and how long it takes to learn from many. The steps of `colab` were chosen by what one thread of a CPU can do in some
# minutes, and not by what ViT would need.
#
# The verdicts, by the recorded runs:

# %% tags=["hide-input"]
claims.summary(verdicts)

# %% [markdown]
# ## Questions
#
# Choose before you read on: each answer says why it is right or wrong. Which one is right was computed by this run.

# %% tags=["hide-input"]
with torch.device("meta"):
    small_images, large_images = (tf.create_model("vit_base_patch16", image=side) for side in (224, 384))
more = measures.parameter_count(large_images) - measures.parameter_count(small_images)
show.quiz(
    "ViT-B/16 is given images of 384 pixels instead of 224. What happens to its number of parameters?",
    [
        ("It stays.", "Nearly: one table has a row for every patch.", more == 0),
        (
            "It grows by the table of positions alone.",
            f"{more:,} numbers: 380 more patches, 768 numbers each.",
            more == 380 * 768,
        ),
        ("It grows with the pixels, by about three.", "All other weights are shared by all patches.", more > 1e8),
    ],
    name="vit-resolution",
)
pairs = {patch: ((224 // patch) ** 2) ** 2 for patch in (16, 8)}
show.quiz(
    "Patches of 8 pixels instead of 16. By how much does the number of pairs grow that attention looks at?",
    [
        ("By 4", "That is the number of tokens.", pairs[8] == 4 * pairs[16]),
        ("By 16", "Four times the tokens, and pairs of them.", pairs[8] == 16 * pairs[16]),
        ("By 2", "That is the number of tokens along a side.", pairs[8] == 2 * pairs[16]),
    ],
    name="vit-pairs",
)

# %% tags=["hide-input"]
blind = ViT(image=16, patch=4, dim=24, depth=2, heads=3, classes=5).eval()
nn.init.normal_(blind.head.weight)
nn.init.zeros_(blind.positions)
picture = torch.randn(1, 3, 16, 16)
tiles = rearrange(picture, "b c (h p) (w q) -> (h w) b c p q", p=4, q=4)[torch.randperm(16)]
shuffled = rearrange(tiles, "(h w) b c p q -> b c (h p) (w q)", h=4)
with torch.no_grad():
    equal = torch.allclose(blind(picture), blind(shuffled), atol=1e-5)
show.quiz(
    "A ViT without positions gets an image whose patches were shuffled. What does it answer?",
    [
        ("Exactly the same.", "The class token reads a set of patches.", equal),
        ("Something else.", "With positions it would.", not equal),
        ("It depends on its depth.", "No layer brings an order in.", False),
    ],
    name="vit-shuffled",
)
with torch.device("meta"):
    stem, body = (sum(p.numel() for p in part.parameters()) for part in (small_images.patches, small_images.blocks))
show.quiz(
    "How much of ViT-B/16 knows that its input is an image?",
    [
        (
            f"The patches' projection, {100 * stem / (stem + body):.1f} % of the weights, and the positions.",
            "All else works on vectors.",
            stem < 0.02 * body,
        ),
        ("About half.", "The blocks are those of a Transformer for words.", 0.3 < stem / body < 3),
        ("All of it.", "The blocks are those of a Transformer for words.", False),
    ],
    name="vit-image",
)

# %% [markdown]
# ## Exercises
#
# ```{exercise} Count tokens
# :label: vit-count
# With a pencil: how many tokens has ViT-B/16 at $384 \times 384$ pixels, and by which factor do the scores grow beside
# $224 \times 224$? Which share of all multiply-adds are scores, before and after?
# ```
#
# ```{solution-start} vit-count
# :class: dropdown
# ```

# %%
for image in (224, 384):
    n, dim, depth = (image // 16) ** 2 + 1, 768, 12
    attention_products = 2 * depth * n * n * dim  # queries with keys, weights with values
    with torch.device("meta"):
        total = measures.macs(tf.create_model("vit_base_patch16", image=image), (3, image, image))
    print(f"{image}: {n} tokens, {n * n:,} scores for a head, {attention_products / total:.0%} of the multiply-adds")

# %% [markdown]
# Tokens grow by a factor of three, scores by nearly nine. Even so most of the work is in the linear layers.
# ```{solution-end}
# ```
#
# ```{exercise} One parameter fewer
# :label: vit-cls
# The class token is added to the first row of the position table before anything else happens. Show that the model
# loses nothing if the class token is fixed at zero. Why might one keep it?
# ```
#
# ```{solution-start} vit-cls
# :class: dropdown
# ```

# %%
model = ViT(**sizes)
nn.init.normal_(model.prefix), nn.init.normal_(model.head.weight)
merged = ViT(**sizes)
merged.load_state_dict(model.state_dict())
merged.positions.data[:, :1] += merged.prefix.data
merged.prefix.data.zero_()
images = torch.randn(2, 3, 32, 32)
assert torch.allclose(model(images), merged(images), atol=1e-5)

# %% [markdown]
# Only the sum of the two reaches the blocks. Separate vectors are a convenience: the token has a name, and tables of
# positions can be resampled without touching it.
# ```{solution-end}
# ```
#
# ```{exercise} The mean instead
# :label: vit-mean
# Classify from the mean of all patch tokens instead of the class token. Is the class token needed for the marks of the
# toy?
# ```
#
# ```{solution-start} vit-mean
# :class: dropdown
# ```


# %%
class MeanViT(ViT):
    """Reads the answer off the mean of the patches."""

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.tokens(image)[:, 1:].mean(1))


torch.manual_seed(seed)
model = MeanViT(image=16, patch=4, dim=32, depth=2, heads=2, classes=4)
training.fit(
    model,
    (marks, quarter),
    mark_loss,
    steps=80,
    batch_size=16,
    lr=3e-3,
    seed=seed,
    device="cpu",
)
print(f"{(model(marks).argmax(-1) == quarter).float().mean():.0%} of the marks")

# %% [markdown]
# It is not needed. {cite:t}`dosovitskiy2021` find that both work equally well, each with its own learning rate
# (appendix D.3).
# ```{solution-end}
# ```
#
# ```{exercise} An operation that lies
# :label: vit-lies
# Which operation of RandAugment can change the label of a digit? And which augmentation, harmless for cats, would be a
# mistake for digits? Show one digit that becomes another.
# ```
#
# ```{solution-start} vit-lies
# :class: dropdown
# ```

# %%
drawn, names = digits("train", noise=0.0, canvas=12)
six = drawn[names == 6].float().mean((0, 1))
nine = drawn[names == 9].float().mean((0, 1))
print(f"6 with 9: {F.cosine_similarity(six.flatten(), nine.flatten(), 0):.2f}")
print(f"6 upside down with 9: {F.cosine_similarity(six.rot90(2).flatten(), nine.flatten(), 0):.2f}")

# %% [markdown]
# A half turn makes a 6 into a 9. RandAugment turns by at most 30 degrees, which is safe. Mirroring left to right, which
# every recipe for photographs has, makes a 2 into something that is no digit, and teaches the model that it is one.
# ```{solution-end}
# ```
#
# ```{exercise} Mixup of two labels
# :label: vit-mixup
# Mixup blends two images with weights $\lambda$ and $1 - \lambda$ and asks for the blended label. For a model whose
# logits are linear in the pixels, compare the loss of the blended image under the blended label with the blend of the
# two images' own losses. Is one of them always the smaller one?
# ```
#
# ```{solution-start} vit-mixup
# :class: dropdown
# ```

# %%
a, b = torch.randn(2, 1000, 10)
first, second = torch.randint(10, (2, 1000))
share = 0.3
blend = share * F.one_hot(first, 10) + (1 - share) * F.one_hot(second, 10)
of_blend = F.cross_entropy(share * a + (1 - share) * b, blend, reduction="none")
straight = share * F.cross_entropy(a, first, reduction="none") + (1 - share) * F.cross_entropy(
    b, second, reduction="none"
)
cross = share * F.cross_entropy(a, second, reduction="none") + (1 - share) * F.cross_entropy(b, first, reduction="none")
print(f"blend {of_blend.mean():.2f}, straight {straight.mean():.2f}, crosswise {cross.mean():.2f}")

# %% [markdown]
# The blend of the logits costs at most the blend of the costs, if the target is the same: cross-entropy is convex in
# the logits. But the target is blended as well, and that adds what each image's logits cost for the other's label. So
# neither is always smaller. Mixup asks for more than fitting the images: that predictions move in a straight line
# between them.
# ```{solution-end}
# ```
#
# ```{exercise} Break it
# :label: vit-break
# Someone cuts the patches and gets the order of the grid wrong: columns first. Training works, and accuracy is as
# before. Why? And when does it go wrong? Write the test that catches it.
# ```
#
# ```{solution-start} vit-break
# :class: dropdown
# ```


# %%
def broken_patches(image: Tensor, patch: int) -> Tensor:
    return rearrange(image, "b c (h p) (w q) -> b (w h) (c p q)", p=patch, q=patch)


def patch_is_where_reading_puts_it(cut) -> bool:
    """The second token of an image must be the square right of the first."""
    image = torch.arange(3 * 8 * 8.0).view(1, 3, 8, 8)
    return torch.equal(cut(image, 4)[0, 1].view(3, 4, 4), image[0, :, :4, 4:])


assert patch_is_where_reading_puts_it(to_patches)
assert not patch_is_where_reading_puts_it(broken_patches)

# %% [markdown]
# Positions are learned, so any fixed order is as good as another. It goes wrong when the order has to agree with
# something: with published weights, with a table resampled for an image that is not square, with a map drawn over a
# photograph. A parity test with *square* images and random weights notices; one that only looks at shapes does not.
# ```{solution-end}
# ```
#
# ## Further reading
#
# - {cite:t}`dosovitskiy2021`, section 3 for the model in one page, figures 3 and 4 for the data, figure 7 for what is
#   inside, appendix D for what was tried and left out.
# - {cite:t}`steiner2022`, section 4: findings in a row, each with its figure. The released models are theirs.
# - {cite:t}`kolesnikov2020`: the convolutional networks that ViT was measured against.
# - {cite:t}`abnar2020`: rollout, and attention flow, which is its careful sibling.
# - {cite:t}`touvron2021`: the same model from ImageNet alone.
