"""Verdicts in prose come from the records, every state has its sentence, and typed ones are refused."""

from types import SimpleNamespace

import pytest

from book.tools.verdicts import ProseError, left_out, resolved, typed
from tformerlib.claims.rule import Summary

TEXT = """It came out {verdict}`a.b`, at {recorded}`a.b:gain` points.

:::{when} a.b positive partly
It helps.
:::
:::{when} a.b negative
It hurts.
:::
:::{when} a.b otherwise
Nobody knows.
:::

After."""


def look(state: str, word: str = "shown", runs: bool = True):
    def found(id: str):
        if id != "a.b":
            raise KeyError(f"no claim {id!r}; close to it: a.b")
        summaries = {"gain": Summary(2.0, 1.5, 2.5, 5)} if runs else {}
        return SimpleNamespace(state=state, word=word, summaries=summaries, claim=SimpleNamespace(metrics={"gain": ""}))

    return found


@pytest.mark.parametrize(
    ("state", "sentence"),
    [("positive", "It helps."), ("partly", "It helps."), ("negative", "It hurts."), ("void", "Nobody knows.")],
)
def test_the_branch_of_the_state_is_shown(state, sentence):
    text = resolved(TEXT, look(state), link=lambda id: f"#{id}")
    assert 'It came out <a href="#a.b">shown</a>, at 2 [1.5, 2.5] points.' in text
    assert [s for s in ("It helps.", "It hurts.", "Nobody knows.") if s in text] == [sentence]
    assert text.endswith("After.") and ":::" not in text


def test_a_name_may_be_wrapped_as_prose_is():
    assert resolved("{recorded}`a.b:\ngain`", look("positive")) == "2 [1.5, 2.5]"


def test_before_any_run_the_word_says_so():
    text = resolved(TEXT, look("pending", "not run yet", runs=False))
    assert "It came out **not run yet**, at not run yet points." in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{verdict}`a.c`", "no claim 'a.c'"),
        ("{recorded}`a.b:loss`", "a.b has no metric 'loss'; it has gain"),
        (":::{when} a.b proven\nx\n:::\n", "no state proven"),
        (":::{when} a.c void\nx\n:::\n", "no claim 'a.c'"),
    ],
)
def test_what_does_not_exist_is_refused(text, message):
    with pytest.raises(ProseError, match=message):
        resolved(text, look("positive"))


def test_states_without_a_sentence_are_found():
    assert list(left_out(TEXT)) == []
    assert list(left_out(TEXT.replace("otherwise", "void"))) == [("a.b", ["undecided", "pending"])]


@pytest.mark.parametrize(
    "sentence",
    ["The claim was not reproduced.", "It is reproduced here.", "**not reproduced**", "so it counts as reproduced",
     "this stays partly reproduced", "*out of reach here*"],
)  # fmt: skip
def test_typed_verdicts_are_found(sentence):
    assert list(typed(sentence))


@pytest.mark.parametrize(
    "sentence",
    ["{verdict}`a.b` by the rule", "a run that can be reproduced", "the reproducible Transformer", "as shown in Fig. 2",
     "the figure is shown above"],
)  # fmt: skip
def test_other_sentences_are_not(sentence):
    assert not list(typed(sentence))
