"""The book's diagrams, drawn by program: one module a diagram, with `ALT` and `draw() -> Pen`.

A chapter asks for one by ```{diagram} name, with the caption inside. All speak one language: a token is a small square,
what is learned has a colored edge, data flows along arrows, the residual stream is a thick line, a mask is a grid whose
filled cells may be seen. Colors are the site's, for light and dark; text is legible at 390 pixels, as no diagram is
wider than 400 units.
"""

import importlib
import pkgutil
from dataclasses import dataclass

from .pen import Pen


@dataclass(frozen=True)
class Diagram:
    """A drawing with its words for those who do not see it."""

    name: str
    alt: str
    svg: str


def names() -> list[str]:
    """All diagrams there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "pen")


def diagram(name: str) -> Diagram:
    """Draws one.

    Raises:
        ValueError: no diagram of that name; the message lists those there are.
    """
    if name not in names():
        raise ValueError(f"no diagram {name!r}; there are {', '.join(names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    pen: Pen = module.draw()
    return Diagram(name, module.ALT, pen.svg(module.ALT, name))
