"""GPT-3: GPT-2 in eight sizes, of which every other layer sees a band of the last tokens only (Brown et al. 2020).

The paper says "alternating dense and locally banded sparse attention patterns" (sec. 2.1) and neither how wide the
bands are nor which layers come first. Ours are 256 tokens in every second layer, as in GPT-Neo.
"""

from typing import Annotated, Any

from ..registry import Takes, register
from .gpt2 import GPT2


class GPT3(GPT2):
    """GPT-2 with layers 1, 3, 5, ... banded. See there for the arguments.

    Args:
        window: tokens that a banded layer sees, its own included; None makes all layers dense.
    """

    def __init__(
        self, *, window: int | None = 256, context: int = 2048, dropout: float = 0.0,
        **gpt2: Annotated[Any, Takes(GPT2, but=("windows",))],
    ) -> None:  # fmt: skip
        super().__init__(context=context, dropout=dropout, windows=(None, window), **gpt2)


@register
def gpt3_small(**overrides: Any) -> GPT3:
    """125.2 M parameters; the paper says 125 M (Brown et al. 2020, table 2.1)."""
    return GPT3(**overrides)


@register
def gpt3_medium(**overrides: Any) -> GPT3:
    """355.9 M parameters; the paper says 350 M (Brown et al. 2020, table 2.1)."""
    return GPT3(**{"dim": 1024, "depth": 24, "heads": 16} | overrides)


@register
def gpt3_large(**overrides: Any) -> GPT3:
    """760.3 M parameters; the paper says 760 M (Brown et al. 2020, table 2.1)."""
    return GPT3(**{"dim": 1536, "depth": 24, "heads": 16} | overrides)


@register
def gpt3_xl(**overrides: Any) -> GPT3:
    """1.316 B parameters; the paper says 1.3 B (Brown et al. 2020, table 2.1).

    The table has 24 heads of 128 at a width of 2048. They would make 1.52 B; 16 heads of 128 fit width and total.
    """
    return GPT3(**{"dim": 2048, "depth": 24, "heads": 16} | overrides)


@register
def gpt3_2_7b(**overrides: Any) -> GPT3:
    """2.652 B parameters; the paper says 2.7 B (Brown et al. 2020, table 2.1)."""
    return GPT3(**{"dim": 2560, "depth": 32, "heads": 32} | overrides)


@register
def gpt3_6_7b(**overrides: Any) -> GPT3:
    """6.658 B parameters; the paper says 6.7 B (Brown et al. 2020, table 2.1)."""
    return GPT3(**{"dim": 4096, "depth": 32, "heads": 32} | overrides)


@register
def gpt3_13b(**overrides: Any) -> GPT3:
    """12.94 B parameters; the paper says 13.0 B (Brown et al. 2020, table 2.1).

    As in the table: 40 heads of 128, together 5120 wide, in a model that is 5140 wide.
    """
    return GPT3(**{"dim": 5140, "depth": 40, "heads": 40, "head_dim": 128} | overrides)


@register
def gpt3_175b(**overrides: Any) -> GPT3:
    """174.6 B parameters; the paper says 175.0 B (Brown et al. 2020, table 2.1)."""
    return GPT3(**{"dim": 12288, "depth": 96, "heads": 96} | overrides)
