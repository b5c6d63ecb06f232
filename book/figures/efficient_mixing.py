"""Three ways of mixing tokens: all pairs, through thin matrices of features, and by a fixed transform."""

from .pen import ACCENT, GOOD, HALF, MUTED, Pen

ALT = (
    "Three rows. Attention forms a large square of weights from queries and keys and multiplies it with the tall, "
    "narrow matrix of values. The Performer multiplies keys' features, lying flat, with the values first, which gives "
    "a small square, and then the queries' features, standing tall, with that square: no matrix has a side for every "
    "pair. FNet mixes tokens and channels with a fixed Fourier transform that has no parameters."
)
TALL, THIN = 76, 20


def matrix(pen: Pen, x: float, y: float, w: float, h: float, words: str, color: str) -> None:
    pen.box(x, y, w, h, words, edge=color, size=12)


def draw() -> Pen:
    pen = Pen(390, 372)
    pen.text(8, 14, "attention: every pair", anchor="start", bold=True)
    pen.box(60, 28, TALL, TALL, "N × N", edge=ACCENT, size=12)
    pen.text(150, 66, "×")
    matrix(pen, 164, 28, THIN, TALL, "V", MUTED)
    pen.text(200, 66, "=")
    matrix(pen, 216, 28, THIN, TALL, "", MUTED)
    pen.text(254, 66, "N² weights are formed", anchor="start", size=11.5, color=MUTED)

    pen.text(8, 132, "Performer: features first meet the values", anchor="start", bold=True)
    matrix(pen, 60, 148, THIN + 8, TALL, "f(Q)", GOOD)
    pen.text(100, 186, "×  (")
    matrix(pen, 122, 170, TALL, THIN + 8, "f(K)ᵀ", GOOD)
    pen.text(210, 186, "×")
    matrix(pen, 222, 148, THIN, TALL, "V", MUTED)
    pen.text(252, 186, ")  =")
    matrix(pen, 274, 148, THIN, TALL, "", MUTED)
    pen.text(304, 186, "in brackets:\nF × D", anchor="start", size=11.5, color=MUTED)

    pen.text(8, 256, "FNet: a fixed transform", anchor="start", bold=True)
    pen.box(60, 272, TALL, TALL, "waves\nover tokens", edge=HALF, size=11.5, dashed=True)
    pen.text(150, 310, "×")
    matrix(pen, 164, 272, THIN, TALL, "X", MUTED)
    pen.text(198, 310, "×")
    pen.box(212, 300, 54, 22, "channels", edge=HALF, size=11, dashed=True)
    pen.text(278, 310, "nothing learned,\nnothing looked up", anchor="start", size=11.5, color=MUTED)
    return pen
