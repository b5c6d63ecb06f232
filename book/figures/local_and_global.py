"""Three answers to one question: which tokens does a token hear, and how finely?"""

import drawsvg

from .pen import ACCENT, BAD, GOOD, MUTED, Pen

ALT = (
    "Three drawings. Focal: a map of 12 by 12 tokens; the marked token's window of 3 by 3 is dark, the ring around it "
    "is lighter, and all windows are outlined as one coarse key each. HRFormer: a fine, a middle and a coarse map run "
    "in parallel from left to right; arrows between them exchange what they hold. EfficientFormer: a row of blocks; "
    "the maps get smaller, all blocks but the last pool, and the last attends."
)


def focal(pen: Pen, x: float, y: float, cell: float = 12) -> None:
    """The keys of the window in the middle of a map."""

    def share(r: int, c: int) -> float:
        if 3 <= r < 6 and 3 <= c < 6:
            return 0.9
        return 0.45 if 2 <= r < 7 and 2 <= c < 7 else 0

    pen.grid(x, y, [[share(r, c) for c in range(12)] for r in range(12)], cell=cell)
    for r in range(4):
        for c in range(4):
            pen.box(x + 3 * c * cell + 1, y + 3 * r * cell + 1, 3 * cell - 2, 3 * cell - 2, edge=GOOD, fill="none")
    pen.sheet.append(drawsvg.Circle(x + 4.5 * cell, y + 4.5 * cell, 4, fill=BAD))


def draw() -> Pen:
    pen = Pen(390, 452)
    pen.text(8, 14, "Focal: fine nearby, coarse far away", anchor="start", bold=True)
    focal(pen, 12, 30)
    for i, (words, color) in enumerate(
        (("own window: a key a token", ACCENT), ("ring: a key a token", ACCENT), ("each window pooled: one key", GOOD))
    ):
        pen.token(186, 62 + 34 * i, color=color, side=16)
        pen.text(202, 62 + 34 * i, words, anchor="start", size=11.5, color=MUTED)

    pen.text(8, 202, "HRFormer: the fine map stays", anchor="start", bold=True)
    sizes = (26, 18, 12)
    for column, x in enumerate((30, 140, 250, 360)):
        for branch, side in enumerate(sizes[: column + 1] if column < 3 else sizes):
            pen.token(x, 228 + 38 * branch, color=ACCENT, side=side)
        if column < 3:
            for branch in range(min(column + 1, 3)):
                for target in range(min(column + 2, 3)):
                    start, end = 228 + 38 * branch, 228 + 38 * target
                    straight = branch == target
                    pen.arrow((x + 16, start), (x + 92, end), color=ACCENT if straight else MUTED,
                              width=2 if straight else 1.1)  # fmt: skip
    pen.text(195, 334, "windows and a convolution on each map; then all maps exchange", size=11.5, color=MUTED)

    pen.text(8, 364, "EfficientFormer: attention at the end", anchor="start", bold=True)
    for i, side in enumerate((36, 36, 28, 22, 22, 18)):
        x = 30 + 62 * i
        attends = i == 5
        pen.token(x, 398, "attend" if attends else "pool", color=BAD if attends else GOOD, side=side, w=46)
        if i:
            pen.arrow((x - 39, 398), (x - 23, 398))
    pen.text(195, 436, "large maps on the left, small ones on the right", size=11.5, color=MUTED)
    return pen
