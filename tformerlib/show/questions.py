"""Questions about a chapter, whose right answer the run asserts; readable and answerable without JavaScript."""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..run.records import emit
from .frame import rich


@dataclass(frozen=True)
class Option:
    """An answer that one can choose, why it is right or wrong, and whether it is right."""

    text: str
    because: str
    right: bool = False


def quiz(question: str, options: Sequence[tuple[str, str, bool]], *, name: str, section: str = "") -> None:
    """Shows a question with its answers; each says why, once it was chosen.

    The truth of an option is a value of the run: quiz("...", [("grows by 4", "...", cost(2) == 4 * cost(1)), ...]).

    Args:
        question: plain text with `code` and $formulas$.
        options: (text, why it is right or wrong, whether it is right): three to five, exactly one of them right.
        name: unique in the book, "swin-cost": the page remembers under it whether the reader has answered.
        section: the label of the section that explains it, for a link.

    Raises:
        ValueError: not exactly one right option, an option without a reason, a name with other than a-z, 0-9 and -.
    """
    given = [Option(*option) for option in options]
    if not 3 <= len(given) <= 5:
        raise ValueError(f"{name}: {len(given)} options; three to five make a question")
    right = [option.text for option in given if option.right]
    if len(right) != 1:
        raise ValueError(f"{name}: exactly one option must be right in this run, but {right or 'none'} are")
    if missing := [option.text for option in given if not option.because.strip()]:
        raise ValueError(f"{name}: no reason is given for {missing}")
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise ValueError(f"name={name!r}: small letters, digits and hyphens")
    link = f' <a href="#{html.escape(section)}">Where it is explained</a>' if section else ""
    items = "".join(
        f'<li data-right="{str(option.right).lower()}">'
        f'<details name="quiz-{name}"><summary>{rich(option.text)}</summary>'
        f"<p><strong>{'Right.' if option.right else 'No.'}</strong> {rich(option.because)}{link}</p></details></li>"
        for option in given
    )
    content = (
        f'<section class="tf-quiz" data-quiz="{name}" id="quiz-{name}" aria-label="question">'
        f'<p class="tf-quiz-question">{rich(question)}</p><ol type="A">{items}</ol></section>'
    )
    letters = "ABCDE"
    lines = [question, *(f"  {letters[i]}. {option.text}" for i, option in enumerate(given))]
    answer = next(i for i, option in enumerate(given) if option.right)
    alt = "\n".join([*lines, f"  Answer: {letters[answer]}. {given[answer].because}"])
    emit("quiz", {"name": name}, html=content, text=alt)
