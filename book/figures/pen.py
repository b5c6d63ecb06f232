"""What diagrams are drawn with: boxes, tokens, arrows, grids and words, in the site's colors."""

import html
import re
from collections.abc import Sequence

import drawsvg

INK, MUTED, LINE, PAPER = (
    "currentColor",
    "var(--tf-muted, #59616b)",
    "var(--tf-line, #deded8)",
    "var(--tf-surface, #f4f4f0)",
)
ACCENT, GOOD, HALF, BAD = (
    f"var(--tf-{name}, {color})"
    for name, color in (("accent", "#1d5f9e"), ("good", "#17694f"), ("half", "#7a5200"), ("bad", "#a1304a"))
)
TEXT, SMALL = 13, 11.5
WIDEST = 400

Point = tuple[float, float]


class Pen:
    """A sheet of at most 400 units in width; a unit is a pixel on a phone."""

    def __init__(self, width: float, height: float) -> None:
        if width > WIDEST:
            raise ValueError(f"width={width}: on a phone text would be too small; {WIDEST} at most")
        self.width, self.height = width, height
        self.sheet = drawsvg.Drawing(width, height)
        self.heads: dict[str, drawsvg.Marker] = {}

    def svg(self, alt: str, name: str = "pen") -> str:
        """The drawing as an element for a page: it scales with its column and is read out as `alt`.

        Args:
            name: unique on the page; ids inside the drawing begin with it.
        """
        whole = self.sheet.as_svg(header="")
        body = whole[whole.index(">", whole.index("<svg")) + 1 : whole.rindex("</svg>")]
        body = re.sub(r'(id="|url\(#)(\w+)', rf"\1{name}-\2", body)  # a page holds several drawings
        return (
            f'<svg role="img" aria-label="{html.escape(alt)}" viewBox="0 0 {self.width:g} {self.height:g}" '
            'xmlns="http://www.w3.org/2000/svg" font-family="inherit" '
            f'style="width:100%;max-width:{self.width * 1.45 / 16:.4g}rem;height:auto">{body.strip()}</svg>'
        )

    def text(self, x: float, y: float, words: str, *, size: float = TEXT, anchor: str = "middle", color: str = INK,
             bold: bool = False, italic: bool = False, mono: bool = False) -> None:  # fmt: skip
        """Words whose middle is at the height y; several lines where there are line ends."""
        lines = words.split("\n")
        style = {
            "fill": color, "text_anchor": anchor, "dominant_baseline": "central",
            **({"font_weight": "600"} if bold else {}), **({"font_style": "italic"} if italic else {}),
            **({"font_family": "ui-monospace, monospace"} if mono else {}),
        }  # fmt: skip
        for i, line in enumerate(lines):
            self.sheet.append(drawsvg.Text(line, size, x, y + (i - (len(lines) - 1) / 2) * size * 1.25, **style))

    def box(self, x: float, y: float, w: float, h: float, words: str = "", *, edge: str = MUTED, fill: str = PAPER,
            size: float = TEXT, bold: bool = False, dashed: bool = False, round: float = 4) -> None:  # fmt: skip
        """A box by its upper left corner, with words inside. A colored edge says: this is learned."""
        dash = {"stroke_dasharray": "4 3"} if dashed else {}
        self.sheet.append(drawsvg.Rectangle(x, y, w, h, rx=round, fill=fill, stroke=edge, stroke_width=1.4, **dash))
        if words:
            self.text(x + w / 2, y + h / 2, words, size=size, bold=bold)

    def token(
        self, x: float, y: float, words: str = "", *, color: str = ACCENT, side: float = 26, w: float = 0
    ) -> None:
        """A token: a small tinted box, by its middle."""
        w = w or side
        self.sheet.append(
            drawsvg.Rectangle(x - w / 2, y - side / 2, w, side, rx=4, fill=color, fill_opacity=0.16, stroke=color,
                              stroke_width=1.2)
        )  # fmt: skip
        if words:
            self.text(x, y, words, size=SMALL)

    def line(
        self, *points: Point, color: str = MUTED, width: float = 1.4, dashed: bool = False, opacity: float = 1
    ) -> None:
        dash = {"stroke_dasharray": "4 3"} if dashed else {}
        path = drawsvg.Path(fill="none", stroke=color, stroke_width=width, stroke_opacity=opacity, **dash)
        path.M(*points[0])
        for point in points[1:]:
            path.L(*point)
        self.sheet.append(path)

    def arrow(
        self, *points: Point, color: str = MUTED, width: float = 1.4, dashed: bool = False, opacity: float = 1
    ) -> None:
        """A line with a head at its last point."""
        if color not in self.heads:
            head = drawsvg.Marker(0, -4, 8, 4, scale=1, orient="auto", markerUnits="userSpaceOnUse")
            head.append(drawsvg.Lines(0, -3.5, 7, 0, 0, 3.5, fill=color, close=True))
            self.heads[color] = head
        (x0, y0), (x, y) = points[-2:]
        length = max(((x - x0) ** 2 + (y - y0) ** 2) ** 0.5, 1e-9)
        end = (x - (x - x0) / length * 6, y - (y - y0) / length * 6)  # the head reaches the point, not beyond
        dash = {"stroke_dasharray": "4 3"} if dashed else {}
        path = drawsvg.Path(fill="none", stroke=color, stroke_width=width, stroke_opacity=opacity,
                            marker_end=self.heads[color], **dash)  # fmt: skip
        path.M(*points[0])
        for point in (*points[1:-1], end):
            path.L(*point)
        self.sheet.append(path)

    def grid(
        self, x: float, y: float, filled: Sequence[Sequence[float]], *, cell: float = 16, color: str = ACCENT
    ) -> None:
        """Cells by their shares in 0 .. 1; 0 is empty. A mask is a grid of zeros and ones."""
        for r, row in enumerate(filled):
            for c, share in enumerate(row):
                self.sheet.append(
                    drawsvg.Rectangle(x + c * cell, y + r * cell, cell, cell, fill=color if share else "none",
                                      fill_opacity=0.12 + 0.75 * share if share else 0, stroke=LINE, stroke_width=1)
                )  # fmt: skip

    def circle(self, x: float, y: float, r: float, words: str = "", *, edge: str = INK) -> None:
        self.sheet.append(drawsvg.Circle(x, y, r, fill=PAPER, stroke=edge, stroke_width=1.3))
        if words:
            self.text(x, y, words)

    def brace(self, x0: float, x1: float, y: float, words: str, *, below: bool = True) -> None:
        """A flat bracket over a span, with its name."""
        turn = 5 if below else -5
        self.line((x0, y - turn), (x0, y), (x1, y), (x1, y - turn), color=MUTED, width=1.1)
        self.text((x0 + x1) / 2, y + (11 if below else -11), words, size=SMALL, color=MUTED)
