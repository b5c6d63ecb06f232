"""Diagrams in a chapter's prose: ```{diagram} name, with a caption inside, drawn by book/figures.

On the site a diagram is an inline SVG, which follows the theme; in a downloaded notebook it is an image on white.
"""

import base64
import re

from tformerlib.show.frame import as_figure

from ..figures import diagram

DIRECTIVE = re.compile(
    r"^(?P<fence>`{3,}|:{3,})\{diagram\}\s*(?P<name>\S+)\n(?P<caption>.*?)^(?P=fence)[ \t]*$", re.M | re.S
)


def for_page(text: str) -> str:
    """Prose with every diagram in place.

    Raises:
        ValueError: a diagram that nobody has drawn, or one without a caption.
    """

    def drawn(match: re.Match[str]) -> str:
        figure = as_figure(diagram(match["name"]).svg, caption(match), kind="diagram")
        return f"```{{raw}} html\n{figure}\n```"

    return DIRECTIVE.sub(drawn, text)


def for_notebook(text: str) -> str:
    """Prose with every diagram as an image that any viewer of notebooks shows."""

    def drawn(match: re.Match[str]) -> str:
        found = diagram(match["name"])
        svg = found.svg.replace("<svg ", '<svg color="#1d2127" ', 1)
        svg = svg.replace(">", '><rect width="100%" height="100%" fill="#fff"/>', 1)
        data = base64.b64encode(svg.encode()).decode()
        return f"![{found.alt}](data:image/svg+xml;base64,{data})\n\n*{caption(match)}*"

    return DIRECTIVE.sub(drawn, text)


def caption(match: re.Match[str]) -> str:
    words = " ".join(match["caption"].split())
    if not words:
        raise ValueError(f"the diagram {match['name']!r} has no caption: say what to see")
    return words
