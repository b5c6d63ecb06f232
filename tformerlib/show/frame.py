"""What every figure shares: alt text that must be there, a caption, and the way onto the page."""

import base64
import html
import io
import re
from typing import Any

from torch import Tensor

from ..run.records import in_kernel


def described(alt: str) -> str:
    """The alt text without surrounding space; a figure without one is refused."""
    if not isinstance(alt, str) or not alt.strip():
        raise ValueError(f"alt={alt!r}: say in a sentence or two what the figure shows")
    return alt.strip()


def present(bundle: dict[str, Any], *, alt: str) -> None:
    """Shows a mimebundle in a notebook; a plain interpreter prints what it would show."""
    text = f"[figure: {alt}]"
    if not in_kernel():
        print(text)
        return
    from IPython.display import display

    display({**bundle, "text/plain": text}, raw=True)


def as_figure(content: str, caption: str, *, kind: str) -> str:
    """An HTML `<figure>` of a kind ("static", "interactive", "table", "alive") around content, caption below."""
    legend = f"<figcaption>{rich(caption)}</figcaption>" if caption.strip() else ""
    return f'<figure class="tf-figure tf-{kind}">{content}{legend}</figure>'


def rich(text: str) -> str:
    """Plain text to HTML: `code` between backticks, and $formulas$ in the delimiters that MathJax looks for."""
    parts = re.split(r"(\$[^$]+\$|`[^`]+`)", text.strip())
    for i, part in enumerate(parts):
        inner = html.escape(part[1:-1], quote=False)
        if i % 2 == 0:
            parts[i] = html.escape(part, quote=False)
        elif part[0] == "`":
            parts[i] = f"<code>{inner}</code>"
        else:
            parts[i] = rf'<span class="math notranslate">\({inner}\)</span>'
    return "".join(parts)


def picture(image: Tensor, *, exact: bool = False) -> str:
    """An image (3, H, W) of bytes as an address that a plot can show: a JPEG, or a PNG if every pixel has to be right.

    Raises:
        ValueError: another shape, or pixels that are not bytes.
    """
    from PIL import Image

    if image.ndim != 3 or image.shape[0] != 3 or image.element_size() != 1:
        raise ValueError(f"{image.dtype} of {tuple(image.shape)} is not an image (3, H, W) of bytes")
    kind, file = "png" if exact else "jpeg", io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).cpu().numpy()).save(file, kind, **({} if exact else {"quality": 88}))
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
