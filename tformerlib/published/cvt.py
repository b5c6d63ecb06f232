"""Weights of CvT as transformers and the official code name them.

transformers' model has GELU in its MLPs, and the released weights QuickGELU: `create_model("cvt_13", act=nn.GELU)` is
the former.
"""

from torch import Tensor

from ..models.cvt import CvT
from .rules import Rules, published


@published("CvT", "transformers")
def from_transformers(model: CvT, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """`CvtForImageClassification`."""
    stage = r"cvt\.encoder\.stages\.(\d)\."
    block, ours = stage + r"layers\.(\d+)\.", r"stages.\1.\2."
    conv = block + r"attention\.attention\.convolution_projection_([qkv])(?:uery|ey|alue)\.convolution_projection\."
    return state, [
        (stage + r"embedding\.convolution_embeddings\.projection\.(.*)", r"embed.\1.conv.\2"),
        (stage + r"embedding\.convolution_embeddings\.normalization\.(.*)", r"embed.\1.norm.\2"),
        (stage + r"cls_token", "cls"),
        (conv + r"convolution\.(.*)", ours + r"mixer.fn.\3.0.0.\4"),
        (conv + r"normalization\.(.*)", ours + r"mixer.fn.\3.0.1.\4"),
        (block + r"attention\.attention\.projection_([qkv])(?:uery|ey|alue)\.(.*)", ours + r"mixer.fn.attn.\3.\4"),
        (block + r"attention\.output\.dense\.(.*)", ours + r"mixer.fn.attn.out.\3"),
        (block + r"layernorm_before\.(.*)", ours + r"mixer.norm.\3"),
        (block + r"layernorm_after\.(.*)", ours + r"mlp.norm.\3"),
        (block + r"intermediate\.dense\.(.*)", ours + r"mlp.fn.0.\3"),
        (block + r"output\.dense\.(.*)", ours + r"mlp.fn.3.\3"),
        (r"layernorm\.(.*)", r"norm.\1"),
        (r"classifier\.(.*)", r"head.\1"),
    ]


@published("CvT", "official")
def from_official(model: CvT, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Rules]:
    """`ConvolutionalVisionTransformer` of microsoft/CvT."""
    block, ours = r"stage(\d)\.blocks\.(\d+)\.", r"stages.\1.\2."
    return state, [
        (r"stage(\d)\.patch_embed\.proj\.(.*)", r"embed.\1.conv.\2"),
        (r"stage(\d)\.patch_embed\.norm\.(.*)", r"embed.\1.norm.\2"),
        (r"stage\d\.cls_token", "cls"),
        (block + r"attn\.conv_proj_([qkv])\.conv\.(.*)", ours + r"mixer.fn.\3.0.0.\4"),
        (block + r"attn\.conv_proj_([qkv])\.bn\.(.*)", ours + r"mixer.fn.\3.0.1.\4"),
        (block + r"attn\.proj_([qkv])\.(.*)", ours + r"mixer.fn.attn.\3.\4"),
        (block + r"attn\.proj\.(.*)", ours + r"mixer.fn.attn.out.\3"),
        (block + r"norm1\.(.*)", ours + r"mixer.norm.\3"),
        (block + r"norm2\.(.*)", ours + r"mlp.norm.\3"),
        (block + r"mlp\.fc1\.(.*)", ours + r"mlp.fn.0.\3"),
        (block + r"mlp\.fc2\.(.*)", ours + r"mlp.fn.3.\3"),
        (r"(norm|head)\.(.*)", r"\1.\2"),
    ]
