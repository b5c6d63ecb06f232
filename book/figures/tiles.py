"""Online softmax: tiles of keys pass by a tile of queries, and three running numbers a row are all that stays."""

from .pen import ACCENT, GOOD, HALF, MUTED, Pen

ALT = (
    "A tile of queries waits in fast memory. Tiles of keys and values come from slow memory one after another. "
    "Each gives a tile of scores, and then the row's maximum m, its sum l and its output o are corrected and "
    "carried on to the next tile. The whole table of scores never exists."
)


def draw() -> Pen:
    pen = Pen(390, 310)
    pen.box(8, 8, 374, 92, fill="none", dashed=True)
    pen.text(16, 22, "slow memory", anchor="start", size=11.5, color=MUTED)
    pen.token(50, 62, "Q", side=50, w=34)
    for i in range(4):
        pen.token(140 + 62 * i, 52, f"K{i + 1}".translate(SUB), color=GOOD, w=48, side=22)
        pen.token(140 + 62 * i, 80, f"V{i + 1}".translate(SUB), color=HALF, w=48, side=22)
    pen.box(8, 128, 374, 172, fill="none", dashed=True)
    pen.text(16, 288, "fast memory", anchor="start", size=11.5, color=MUTED)
    pen.arrow((50, 88), (50, 172))
    pen.token(50, 198, "Q", side=50, w=34)
    pen.arrow((202, 94), (202, 148), color=GOOD)
    pen.text(210, 116, "tile 2 now, then 3, then 4", anchor="start", size=11.5, color=MUTED)
    pen.grid(160, 152, [[0.2, 0.6, 0.1, 0.3], [0.5, 0.1, 0.7, 0.1], [0.1, 0.3, 0.2, 0.8]], cell=21)
    pen.text(202, 228, "scores Q K₂ᵀ", size=11.5)
    pen.arrow((70, 190), (158, 184))
    pen.arrow((246, 184), (284, 184))
    pen.box(286, 152, 84, 66, "m  largest\nl  sum\no  output", edge=ACCENT, size=11.5)
    pen.arrow((328, 218), (328, 252), (120, 252), (120, 204), (158, 204), color=ACCENT, dashed=True)
    pen.text(224, 264, "carried on; o and l times exp(m old − m new)", size=11.5, color=MUTED)
    return pen


SUB = str.maketrans("1234", "₁₂₃₄")
