"""Questions: exactly one right answer in this run, a reason for each, readable without JavaScript."""

import pytest
from lxml import html

from tformerlib import show
from tformerlib.run import records

OPTIONS = [
    ("it `doubles`", "No: $N^2$.", False),
    ("it grows by 4", "Because $2^2 = 4$.", True),
    ("<it> stays", "No.", False),
]


@pytest.fixture
def shown(monkeypatch):
    """What a kernel would display."""
    bundles = []
    monkeypatch.setattr(
        "tformerlib.show.questions.emit", lambda kind, payload, **parts: bundles.append((kind, payload, parts))
    )
    return bundles


def test_every_answer_has_its_reason_in_a_fold(shown):
    show.quiz("How does the cost grow?", OPTIONS, name="swin-cost", section="the-cost")
    kind, payload, parts = shown[0]
    assert (kind, payload) == ("quiz", {"name": "swin-cost"})
    tree = html.fromstring(parts["html"])
    answers = tree.xpath("//details")
    assert len(answers) == 3 and all(answer.get("open") is None for answer in answers)
    assert [li.get("data-right") for li in tree.xpath("//li")] == ["false", "true", "false"]
    assert tree.xpath("//details[2]//strong/text()") == [] and "Right." in tree.xpath("//li[2]//strong/text()")
    assert len(tree.xpath("//a[@href='#the-cost']")) == 3
    assert "<code>doubles</code>" in parts["html"] and "&lt;it&gt;" in parts["html"]
    assert parts["text"].splitlines()[-1] == "  Answer: B. Because $2^2 = 4$."


def test_without_a_kernel_it_is_text(capsys):
    assert not records.in_kernel()
    show.quiz("How does the cost grow?", OPTIONS, name="swin-cost")
    assert "  A. it `doubles`" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (OPTIONS[:2], "2 options"),
        (
            [(text, why, False) for text, why, _ in OPTIONS],
            "must be right in this run, but none are",
        ),
        ([(text, why, True) for text, why, _ in OPTIONS], "exactly one option must be right"),
        ([("a", " ", True), ("b", "x", False), ("c", "y", False)], r"no reason is given for \['a'\]"),
    ],
)
def test_a_question_that_the_run_contradicts_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        show.quiz("?", options, name="swin-cost")


@pytest.mark.parametrize("name", ["Swin", "swin cost", "", "swin--cost"])
def test_names_are_addresses(name):
    with pytest.raises(ValueError, match="small letters"):
        show.quiz("?", OPTIONS, name=name)
