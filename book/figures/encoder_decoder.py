"""Bahdanau's translator: states of the source, and a decoder that looks back at all of them before each word."""

from itertools import pairwise

from .pen import ACCENT, GOOD, MUTED, Pen

ALT = (
    "Four source words become four states, read in both directions. A decoder state compares itself with each of "
    "them; the comparison gives four weights, the weighted states are summed into a context, and the context goes "
    "into the next word."
)
WORDS, WEIGHTS = ("fifty", "six", "thousand", "</s>"), (0.1, 0.7, 0.15, 0.05)


def draw() -> Pen:
    pen = Pen(390, 330)
    at = [60 + 88 * i for i in range(4)]
    for x, word, weight in zip(at, WORDS, WEIGHTS, strict=True):
        pen.text(x, 312, word)
        pen.arrow((x, 300), (x, 274))
        pen.token(x, 258, "h", w=40)
        pen.line((x, 245), (x, 206), color=ACCENT, width=1 + 9 * weight)
        pen.text(x + 5, 190, f"{weight:.2f}", size=11.5, anchor="middle", color=ACCENT)
        pen.line((x, 178), (195, 140), color=ACCENT, width=1 + 9 * weight)
    for a, b in pairwise(at):
        pen.arrow((a + 21, 254), (b - 21, 254))
        pen.arrow((b - 21, 263), (a + 21, 263))
    pen.text(388, 120, "weights: the softmax\nof score(s, h)", size=11.5, anchor="end", color=MUTED)
    pen.circle(195, 132, 13, "Σ", edge=ACCENT)
    pen.text(214, 132, "context c", anchor="start")
    pen.token(60, 70, "s", color=GOOD, w=40)
    pen.token(195, 70, "s′", color=GOOD, w=40)
    pen.arrow((82, 70), (173, 70), color=GOOD)
    pen.arrow((195, 118), (195, 85), color=ACCENT)
    pen.arrow((60, 85), (60, 150), color=GOOD, dashed=True)
    pen.text(68, 110, "asks", anchor="start", size=11.5, color=MUTED)
    pen.arrow((195, 56), (195, 34), color=GOOD)
    pen.text(195, 20, "the next word: sechs")
    pen.text(300, 70, "decoder", color=MUTED)
    pen.text(354, 285, "encoder", color=MUTED, size=11.5)
    return pen
