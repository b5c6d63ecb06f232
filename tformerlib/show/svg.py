"""Matplotlib figures as inline SVG: equal bytes for equal figures, text as text, and no colour of their own for ink."""

import hashlib
import html
import io
import re
from typing import TYPE_CHECKING, Any

from ..extras import needs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Ids are drawn from the salt and the content, not at random. Text stays text: selectable, and in the page's font.
RENDER: dict[Any, Any] = {"svg.hashsalt": "tformerlib", "svg.fonttype": "none"}
INK = re.compile(r"#000000")
NUMBERS = re.compile(r'(?<= )(?:d|x|y|x1|y1|x2|y2|cx|cy|width|height|points|transform)="[^"]*"')


def to_svg(fig: "Figure", alt: str) -> str:
    """An `<svg role="img">` that scales with its box and draws everything black in the reader's text colour."""
    with needs("show"):
        import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context(RENDER):
        fig.savefig(
            buffer,
            format="svg",
            transparent=True,
            bbox_inches="tight",
            pad_inches=0.04,
            metadata={"Date": None, "Creator": None},
        )
    drawing = buffer.getvalue()
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawing)
    if size is None:
        raise ValueError("matplotlib wrote an SVG without a viewBox")
    body = drawing[drawing.index("<defs>") if "<defs>" in drawing else drawing.index("<g ") : drawing.rindex("</svg>")]
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>|<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.S)
    body = INK.sub("currentColor", body)
    body = re.sub(r"font-family: [^;\"]+;? ?", "", body)
    body = re.sub(r"font: ([^'\";]*?)(\d[\d.]*)px [^;\"]+", _font, body)
    body = NUMBERS.sub(lambda match: re.sub(r"-?\d+\.\d{3,}", _two_decimals, match[0]), body)
    body = _own_ids(body)
    body = re.sub(r">\s*\n\s*<", "><", body).strip()
    width, height = float(size[1]), float(size[2])
    return (
        f'<svg role="img" aria-label="{html.escape(alt)}" viewBox="0 0 {width:g} {height:g}" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        'stroke-linejoin="round" stroke-linecap="butt" fill="currentColor" font-family="inherit" '
        f'style="width:100%;max-width:{width * 1.5 / 16:.4g}rem;height:auto">{body}</svg>'
    )


def _font(match: re.Match[str]) -> str:
    """Matplotlib's `font:` shorthand names DejaVu Sans; only style, weight and size are kept."""
    style = "font-style: italic; " if "italic" in match[1] or "oblique" in match[1] else ""
    weight = "font-weight: bold; " if "bold" in match[1] or "700" in match[1] else ""
    return f"{style}{weight}font-size: {match[2]}px"


def _two_decimals(match: re.Match[str]) -> str:
    return f"{float(match[0]):.2f}".rstrip("0").rstrip(".")


def _own_ids(body: str) -> str:
    """Drops ids that nothing refers to and makes the rest this drawing's own: a page holds many inline SVGs."""
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', body))
    prefix = hashlib.sha256(body.encode()).hexdigest()[:8]
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", body)
    return re.sub(r'(url\(#|href="#)([^)"]+)', lambda m: f"{m[1]}{prefix}-{m[2]}", body)
