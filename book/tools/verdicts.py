"""Verdicts in prose: put in from the records when the site is built, never typed.

    {verdict}`swin.relative-bias`            the word, linked to the claim's card
    {recorded}`swin.relative-bias:gain`      the metric's mean and interval

    :::{when} swin.relative-bias positive partly
    A paragraph that is shown where the claim has one of these states.
    :::

States are positive, partly, negative, undecided, void and pending (not run yet, or out of reach); `otherwise` stands
for those that no block names. A claim that `when` asks about has to have a block for every state.
"""

import re
from collections.abc import Callable, Iterator

from tformerlib.claims import Verdict
from tformerlib.claims import card as cards
from tformerlib.claims.rule import STATES

ROLE = re.compile(r"\{(?P<role>verdict|recorded)\}`(?P<what>[^`]+)`")
WHEN = re.compile(
    r"^(?P<fence>:{3,})\{when\}\s*(?P<id>\S+)\s+(?P<states>[\w ]+)\n(?P<text>.*?)^(?P=fence)[ \t]*\n?", re.M | re.S
)
Look = Callable[[str], Verdict]
Link = Callable[[str], str]  # a claim's id to the address of its card


class ProseError(ValueError):
    """A role or a branch that names no claim, metric or state, or leaves a state out."""


def resolved(text: str, look: Look, link: Link | None = None) -> str:
    """Prose with its verdicts in place.

    Args:
        look: a claim's id to its verdict; raises KeyError for an unknown one.
        link: where a claim's card is; without it words are bold.

    Raises:
        ProseError: see the class.
    """
    text = WHEN.sub(lambda match: _branch(match, text, look), text)
    return ROLE.sub(lambda match: _role(match, look, link), text)


def _branch(match: re.Match[str], text: str, look: Look) -> str:
    id, named = match["id"], match["states"].split()
    if unknown := set(named) - {*STATES, "otherwise"}:
        raise ProseError(f"when {id}: no state {', '.join(sorted(unknown))}; there are {', '.join(STATES)}, otherwise")
    all_named = {state for other in WHEN.finditer(text) if other["id"] == id for state in other["states"].split()}
    state = _of(id, look).state
    shown = state in named or ("otherwise" in named and state not in all_named)
    return match["text"] if shown else ""


def _role(match: re.Match[str], look: Look, link: Link | None) -> str:
    id, _, metric = re.sub(r"\s", "", match["what"]).partition(":")  # a name may be wrapped where prose is
    verdict = _of(id, look)
    if match["role"] == "verdict":
        return f'<a href="{link(id)}">{verdict.word}</a>' if link else f"**{verdict.word}**"
    if metric not in verdict.claim.metrics:
        raise ProseError(f"{match[0]}: {id} has no metric {metric!r}; it has {', '.join(verdict.claim.metrics)}")
    if metric not in verdict.summaries:
        return verdict.word
    summary = verdict.summaries[metric]
    return f"{cards.number(summary.mean)} {cards.interval(summary)}".rstrip()


def _of(id: str, look: Look) -> Verdict:
    try:
        return look(id)
    except KeyError as error:
        raise ProseError(str(error.args[0])) from None


def left_out(text: str) -> Iterator[tuple[str, list[str]]]:
    """Claims that `when` asks about in a chapter's prose, with the states that no block of theirs names."""
    named: dict[str, set[str]] = {}
    for match in WHEN.finditer(text):
        named.setdefault(match["id"], set()).update(match["states"].split())
    for id, states in named.items():
        if "otherwise" not in states and (missing := [state for state in STATES if state not in states]):
            yield id, missing


# Words of a verdict, typed: where the text says that a claim was (not) reproduced, or bold, as a verdict stands.
TYPED = re.compile(
    r"\b(?:was|were|is|are|stays?|counts? as|verdict(?:s)?:?)\s+(?:\w+\s+)?(?:not |partly )?reproduced\b"
    r"|\*{1,2}(?:not |partly )?(?:reproduced|shown|undecided|out of reach(?: here)?)\*{1,2}"
    r"|\bnot reproduced\b|\bpartly reproduced\b",
    re.IGNORECASE,
)


def typed(text: str) -> Iterator[str]:
    """Verdicts that are typed where a role should stand."""
    for match in TYPED.finditer(ROLE.sub("", text)):
        yield match[0]
