"""Decision Transformer: an episode as tokens, an action read off each state, a reward taken off the request."""

from .pen import ACCENT, BAD, GOOD, MUTED, Pen

ALT = (
    "Nine tokens in a row: return, state and action of three steps. A causal Transformer stands above them. From the "
    "token of each state an arrow leads up to the predicted action. An action goes to the world, which answers by "
    "the next state and a reward, and the reward is taken off the return that is asked for in the next step."
)


def draw() -> Pen:
    pen = Pen(396, 320)
    kinds = (("R", BAD), ("s", ACCENT), ("a", GOOD))
    for step in range(3):
        for i, (kind, color) in enumerate(kinds):
            pen.token(34 + 40 * (3 * step + i), 196, f"{kind}{step}", color=color)
        pen.brace(16 + 120 * step, 134 + 120 * step - 6, 226, f"+ time {step}")
    pen.box(14, 114, 368, 40, "causal Transformer: tokens see what stands left of them", edge=GOOD, size=12)
    for step in range(3):
        x = 74 + 120 * step
        for i in range(3):
            pen.line((34 + 40 * (3 * step + i), 182), (34 + 40 * (3 * step + i), 154), color=MUTED, width=1.1)
        pen.arrow((x, 114), (x, 82), color=GOOD)
        pen.token(x, 68, f"a{step}?", color=GOOD, w=34)
    pen.text(198, 22, "an action is predicted at its state, before its token is seen", size=11.5, color=MUTED)
    pen.text(198, 40, "training: compare with the recorded action", size=11.5, color=MUTED)
    pen.box(148, 268, 112, 28, "the world", edge=MUTED)
    pen.arrow((234, 210), (234, 268), color=GOOD)
    pen.text(226, 250, "do it", anchor="end", size=11.5, color=GOOD)
    pen.arrow((260, 282), (315, 282), (315, 243), color=BAD)
    pen.text(298, 309, "next s; R less the reward", size=11.5, color=BAD)
    return pen
