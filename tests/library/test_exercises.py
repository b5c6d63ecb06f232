"""The checks are checked: each rejects its planted wrong answers and accepts a second right one."""

import importlib
import pkgutil
from typing import Any

import pytest
import torch

import tests.exercises
import tformerlib as tf
from tformerlib.exercises import NotYet, check, exercise, known

MODULES = [importlib.import_module(f"tests.exercises.{m.name}") for m in pkgutil.iter_modules(tests.exercises.__path__)]
RIGHT: dict[str, list[Any]] = {name: answers for module in MODULES for name, answers in module.RIGHT.items()}
PLANTED: dict[str, dict[str, Any]] = {name: answers for module in MODULES for name, answers in module.WRONG.items()}
WRONG = [(name, why, answer) for name, answers in PLANTED.items() for why, answer in answers.items()]


def test_every_check_has_planted_wrong_answers_and_a_second_right_one():
    assert set(known()) == set(RIGHT) == {name for name, _, _ in WRONG}
    for name in known():
        assert sum(found == name for found, _, _ in WRONG) >= 3, f"{name}: at least three wrong answers"


@pytest.mark.parametrize(("name", "answer"), [(name, answer) for name in RIGHT for answer in RIGHT[name]])
def test_a_second_right_answer_is_accepted(name, answer, capsys):
    tf.check(name, answer)
    assert capsys.readouterr().out == f"{name}: right.\n"


@pytest.mark.parametrize(("name", "why", "answer"), WRONG, ids=[f"{name}: {why}" for name, why, _ in WRONG])
def test_a_wrong_answer_is_rejected_and_the_symptom_named(name, why, answer):
    with pytest.raises(NotYet) as caught:
        check(name, answer)
    assert len(str(caught.value)) > 15, "a message that names the symptom"


def test_the_chapters_random_numbers_go_on(capsys):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    check("attention-weights", RIGHT["attention-weights"][0])
    assert torch.equal(torch.rand(3), expected)


def test_a_stub_stays_a_stub_and_a_crash_is_a_symptom():
    def stub(q, k):
        raise NotImplementedError

    with pytest.raises(NotImplementedError):
        check("attention-weights", stub)
    with pytest.raises(NotYet, match="it raised RuntimeError"):
        check("attention-weights", lambda q, k: q @ k)
    assert NotYet("it is empty")._render_traceback_() == ["Not yet: it is empty"]


def test_unknown_and_double_names_are_refused():
    with pytest.raises(KeyError, match="no exercise 'attention-wieghts'; close to it: attention-weights"):
        check("attention-wieghts", None)
    with pytest.raises(ValueError, match="two checks are called 'attention-weights'"):
        exercise("attention-weights")(lambda answer: None)
