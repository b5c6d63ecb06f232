"""Two ways to use few examples: in the prompt, without a gradient; as a sentence with a gap, with one."""

from .pen import ACCENT, GOOD, MUTED, Pen

ALT = (
    "Left, GPT-3: three solved examples and a question stand in the prompt; the model writes the answer and no "
    "weight changes. Right, PET: an example is rewritten as a sentence with a gap, a masked model fills it in, "
    "words stand for labels, and a gradient step follows."
)


def draw() -> Pen:
    pen = Pen(390, 290)
    pen.text(98, 16, "in the prompt (GPT-3)", bold=True)
    for i, line in enumerate(("great film → good", "dull, long → bad", "loved it → good", "a mess →")):
        pen.box(12, 34 + 30 * i, 172, 24, line, size=12, edge=GOOD if i == 3 else MUTED)
    pen.arrow((98, 154), (98, 180))
    pen.box(40, 182, 116, 28, "language model", dashed=True)
    pen.arrow((98, 210), (98, 234))
    pen.token(98, 248, "bad", color=GOOD, w=50)
    pen.text(98, 276, "no weight changes", size=11.5, color=MUTED)
    pen.text(292, 16, "as a gap (PET)", bold=True)
    pen.box(206, 34, 172, 24, "a mess", size=12)
    pen.arrow((292, 58), (292, 78))
    pen.box(206, 80, 172, 24, "a mess. It was ____.", size=12, edge=GOOD)
    pen.arrow((292, 104), (292, 126))
    pen.box(234, 128, 116, 28, "masked model", edge=ACCENT)
    pen.arrow((292, 156), (292, 178))
    pen.text(292, 190, "great → good,  bad → bad", size=12)
    pen.arrow((292, 202), (292, 234))
    pen.token(292, 248, "bad", color=GOOD, w=50)
    pen.arrow((352, 248), (382, 248), (382, 142), (352, 142), color=ACCENT, dashed=True)
    pen.text(292, 276, "a gradient step follows", size=11.5, color=MUTED)
    return pen
