"""CLIP: an image encoder and a text encoder that give matching pairs the highest product (Radford et al. 2021).

Shape letters: B images, M texts, N tokens, C width (`dim`) of an encoder, E width of the space that both share.

Only the image encoders that are ViTs are here, not the five ResNets. Both stacks of blocks start as the official code
starts its text encoder; there, the ViT's blocks start as torch's own layers do. The official code reads a text at its
largest id, which is the end of a text; so do we, and refuse texts that have no end. The loss is `pair_loss` in
tformerlib/objectives/pairing.py.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.blocks import MLP, Attention, Block, look_up
from ..registry import variant

LARGEST = 100.0  # "clipped to prevent scaling the logits by more than 100" (sec. 2.5)


class QuickGELU(nn.Module):
    """x times the logistic function of 1.702 x: what the released weights were trained with, instead of GELU."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def blocks(dim: int, depth: int, heads: int, *, causal: bool) -> nn.ModuleList:
    """Pre-norm blocks, weights from normal distributions; what adds to the residual stream is smaller (GPT-2)."""
    made = nn.ModuleList(
        Block(dim, Attention(dim, heads, causal=causal), MLP(dim, 4 * dim, QuickGELU)) for _ in range(depth)
    )
    for name, layer in made.named_modules():
        if isinstance(layer, nn.Linear):
            adds, widens = name.endswith(("mixer.fn.out", "mlp.fn.3")), name.endswith("mlp.fn.0")
            std = (2 * depth) ** -0.5 if adds else 0.5**0.5 if widens else 1.0
            nn.init.normal_(layer.weight, std=std * dim**-0.5)
            nn.init.zeros_(layer.bias)
    return made


class ImageEncoder(nn.Module):
    """A ViT with a norm before its blocks and no bias on its patches (sec. 2.4): (B, 3, height, width) to (B, E)."""

    def __init__(self, image: int, patch: int, dim: int, depth: int, heads: int, embed: int) -> None:
        super().__init__()
        if image % patch:
            raise ValueError(f"image={image} is not a multiple of patch={patch}")
        self.image, self.grid = image, (image // patch, image // patch)
        self.patches = nn.Conv2d(3, dim, patch, stride=patch, bias=False)
        self.label = nn.Parameter(dim**-0.5 * torch.randn(dim))
        self.positions = nn.Parameter(dim**-0.5 * torch.randn(1 + self.grid[0] * self.grid[1], dim))
        self.before, self.norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.blocks = blocks(dim, depth, heads, causal=False)
        self.project = nn.Linear(dim, embed, bias=False)
        nn.init.normal_(self.project.weight, std=dim**-0.5)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-2:] != (self.image, self.image):
            raise ValueError(f"the images are {tuple(images.shape[-2:])}, the positions for image={self.image}")
        x = self.patches(images).flatten(2).mT
        x = self.before(torch.cat([self.label.expand(len(x), 1, -1), x], 1) + self.positions)
        for block in self.blocks:
            x = block(x)
        return self.project(self.norm(x[:, 0]))


class TextEncoder(nn.Module):
    """GPT-2's blocks, read where the text ends (sec. 2.4): ids (M, N), `vocab` - 1 the end of a text, to (M, E)."""

    def __init__(self, vocab: int, context: int, dim: int, depth: int, heads: int, embed: int) -> None:
        super().__init__()
        self.context, self.end = context, vocab - 1
        self.tokens, self.positions = nn.Embedding(vocab, dim), nn.Embedding(context, dim)
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.01)
        self.blocks = blocks(dim, depth, heads, causal=True)
        self.norm, self.project = nn.LayerNorm(dim), nn.Linear(dim, embed, bias=False)
        nn.init.normal_(self.project.weight, std=dim**-0.5)

    def forward(self, ids: Tensor) -> Tensor:
        if ids.shape[1] > self.context:
            raise ValueError(f"{ids.shape[1]} tokens do not fit the model's context={self.context}")
        ends = ids == self.end
        if ids.device.type == "cpu" and not ends.any(1).all():  # a GPU would have to stop to look
            raise ValueError(f"text {int((~ends.any(1)).nonzero()[0])} does not end: it has no id {self.end}")
        x = look_up(self.tokens, ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.project(self.norm(x[torch.arange(len(ids), device=ids.device), ends.int().argmax(1)]))


class CLIP(nn.Module):
    """Scores of images and texts for each other. ViT-B/32 by default.

    Args:
        image, patch, dim, depth, heads: of the image encoder.  embed: width E of the shared space.
        vocab, context, text_dim, text_depth, text_heads: of the text encoder; the largest id ends a text.
    """

    def __init__(
        self, *, image: int = 224, patch: int = 32, dim: int = 768, depth: int = 12, heads: int = 12, embed: int = 512,
        vocab: int = 49408, context: int = 77, text_dim: int = 512, text_depth: int = 12, text_heads: int = 8,
    ) -> None:  # fmt: skip
        super().__init__()
        self.image = ImageEncoder(image, patch, dim, depth, heads, embed)
        self.text = TextEncoder(vocab, context, text_dim, text_depth, text_heads, embed)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def encode_image(self, images: Tensor) -> Tensor:
        """Images (B, 3, height, width) to vectors (B, E) of length 1."""
        return F.normalize(self.image(images), dim=-1)

    def encode_text(self, ids: Tensor) -> Tensor:
        """Ids (M, N), each row up to its end and anything after it, to vectors (M, E) of length 1."""
        return F.normalize(self.text(ids), dim=-1)

    def scale(self) -> Tensor:
        """What cosines are multiplied by; in training it is first brought back to at most 100."""
        if self.training:
            with torch.no_grad():
                self.log_scale.clamp_(max=math.log(LARGEST))
        return self.log_scale.exp()

    def forward(self, images: Tensor, ids: Tensor) -> Tensor:
        """Images (B, 3, height, width) and ids (M, N) to scaled cosines (B, M)."""
        return self.scale() * self.encode_image(images) @ self.encode_text(ids).mT


LARGE: dict[str, Any] = {
    "patch": 14, "dim": 1024, "depth": 24, "heads": 16, "embed": 768, "text_dim": 768, "text_heads": 12,
}  # fmt: skip


TABLE = "(Radford et al. 2021, table 20; counted from the released weights)."
variant("clip_vit_base_patch32", CLIP, f"CLIP-ViT-B/32: 151.3 M parameters {TABLE}")
variant("clip_vit_base_patch16", CLIP, f"CLIP-ViT-B/16: 149.6 M parameters {TABLE}", patch=16)
variant("clip_vit_large_patch14", CLIP, f"CLIP-ViT-L/14: 427.6 M parameters {TABLE}", **LARGE)
variant("clip_vit_large_patch14_336", CLIP, f"CLIP-ViT-L/14@336px: 427.9 M parameters {TABLE}", **LARGE, image=336)
