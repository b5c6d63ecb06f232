"""The widgets in a browser: each wakes, answers, moves, keeps its state in a link, loads nothing from elsewhere."""

import json
import shutil
import string
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from book.tools.browser import chromium, reader, served
from tformerlib.data.tokens import byte_bpe
from tformerlib.layers.convs import ConvNorm
from tformerlib.models.bert import BERT
from tformerlib.models.detr import DETR
from tformerlib.models.gpt2 import GPT2
from tformerlib.models.rnn import RNNEncoderDecoder
from tformerlib.models.swin import Swin
from tformerlib.models.vit import ViT
from tformerlib.peers.parity import widen
from tformerlib.show.live_models import export

ASSETS = Path(__file__).resolve().parents[2] / "book" / "assets"
pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium here")


class Eyes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.Sequential(ConvNorm(3, 8, stride=2, norm=partial(nn.GroupNorm, 4)))

    def features(self, image: Tensor) -> list[Tensor]:
        return [self.convs(image).movedim(1, -1)]


def digits() -> dict[str, Any]:
    pixels = [[0] * 256, [255 if 5 < i % 16 < 9 else 0 for i in range(256)]]
    return {"side": 16, "examples": pixels, "names": ["empty", "a one"], "classes": list("0123456789"), "hint": "Draw."}


def models() -> Iterator[tuple[str, str, nn.Module, dict[str, Any], dict[str, Any]]]:
    """Name, kind, model, configuration and page of every widget, with wide random weights."""
    tokenizer = byte_bpe(["def add(a, b):\n    return a + b\n"] * 3, vocab=280)
    learned = json.loads(tokenizer.to_str())["model"] if isinstance(tokenizer, Tokenizer) else {}
    merges = [m if isinstance(m, list) else m.split(" ") for m in learned["merges"]]
    size: dict[str, Any] = {"dim": 16, "depth": 2, "heads": 2, "hidden": 32, "dropout": 0.0}
    bpe = {"vocab": learned["vocab"], "merges": merges}
    page = {"bpe": bpe, "prompt": "def add", "context": 32, "end": 0, "hint": "Type."}
    vocab = max(learned["vocab"].values()) + 1
    yield "writer", "gpt", GPT2(vocab=vocab, context=32, **size), {"depth": 2, "heads": 2}, page
    words = ["[PAD]", "[MASK]", "the", "dog", "saw", "a", "cat"]
    page = {
        "names": words,
        "mask": 1,
        "sentences": [[2, 3, 4, 5, 6], [5, 6, 4, 2, 3]],
        "gaps": [[1], [2]],
        "hint": "Hide.",
    }
    yield "gaps", "bert", BERT(vocab=7, context=8, **size), {"depth": 2, "heads": 2}, page
    vit = ViT(image=16, patch=4, classes=10, dim=16, depth=2, heads=2)
    yield "digits", "vit", vit, {"depth": 2, "heads": 2, "patch": 4}, digits()
    swin = Swin(image=16, patch=2, classes=10, dim=16, depths=(2, 2), heads=(2, 4), window=4)
    yield "windows", "swin", swin, {"depths": [2, 2], "heads": [2, 4], "window": 4, "patch": 2}, digits()
    detr = DETR(classes=3, queries=4, backbone=Eyes, dim=16, heads=2, hidden=16, encoder=1, decoder=2, dropout=0.0)
    shape = {"kind": "disc", "x": 8, "y": 9, "w": 6, "h": 6, "color": [200, 40, 40]}
    page = {
        "side": 32, "background": [30, 30, 30], "mean": [0, 0, 0], "std": [1, 1, 1], "add": [shape], "hint": "Drag.",
        "classes": ["disc", "box", "triangle"], "examples": [[shape], [shape | {"x": 20}]],
    }  # fmt: skip
    yield "scene", "detr", detr, {"encoder": 1, "decoder": 2, "heads": 2, "strides": [2], "groups": 4}, page
    rnn = RNNEncoderDecoder(source_vocab=6, target_vocab=6, embed=8, hidden=8)
    page = {
        "source": ["", "<s>", "</s>", "?", "six", "ten"], "target": ["", "<s>", "</s>", "?", "sechs", "zehn"],
        "begin": 1, "end": 2, "special": 4, "example": "six ten", "hint": "Type.",
    }  # fmt: skip
    yield "numbers", "translator", rnn, {"hidden": 8}, page
    page = {
        "alphabet": "." + string.ascii_lowercase, "names": ["anna", "otto", "emil"], "context": 12, "batch": 4,
        "lr": 0.01, "hint": "Train.",
    }  # fmt: skip
    learner = GPT2(vocab=27, dim=16, depth=1, heads=2, hidden=32, context=12, dropout=0.0)
    yield "names", "learning-gpt", learner, {"depth": 1, "heads": 2}, page


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(ASSETS / "live", folder / "live")
    for name in ("tf-live.js", "tf.css"):
        shutil.copy(ASSETS / name, folder)
    (folder / "live" / "models").mkdir()
    boxes = ['<div class="tf-live" data-kind="attention"><div class="tf-live-still">still</div></div>']
    torch.manual_seed(0)
    for name, kind, model, config, page in models():
        if kind != "learning-gpt":
            widen(model)
        exported = export(model, name=name, kind=kind, config=config)
        (folder / "live" / "models" / f"{name}.json").write_text(json.dumps(exported.about | {"page": page}))
        (folder / "live" / "models" / exported.about["file"]).write_bytes(exported.data)
        boxes.append(
            f'<div class="tf-live" data-model="{name}" data-kind="{kind}"><div class="tf-live-still">still</div></div>'
        )
    boxes.append(
        '<div class="tf-live" data-model="absent" data-kind="vit"><div class="tf-live-still">still here</div></div>'
    )
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><link rel="stylesheet" href="tf.css">'
    )
    script = '<script type="module" src="tf-live.js"></script>'
    body = '<div style="height:200vh"></div>'.join(boxes)
    (folder / "index.html").write_text(
        f'<!doctype html><html lang="en" data-theme="light">{head}<main>{body}</main>{script}'
    )
    return folder


@pytest.fixture(scope="module")
def browser(site: Path) -> Iterator[tuple[str, Any]]:
    """The site's address, and a browser; a process has one at a time."""
    executable = chromium()
    assert executable is not None
    with served(site) as address, reader(executable) as context:
        yield address, context


@pytest.fixture(scope="module")
def page(browser: tuple[str, Any]) -> Any:
    address, context = browser
    page = context.new_page()
    page.set_viewport_size({"width": 390, "height": 844})
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.goto(address)
    return page


def awake(page: Any, name: str) -> Any:
    box = page.locator(f'.tf-live[data-model="{name}"], .tf-live[data-kind="{name}"]:not([data-model])')
    box.scroll_into_view_if_needed()
    box.locator(".tf-live-widget").wait_for(state="visible", timeout=20_000)
    return box


KINDS = ["attention", "writer", "gaps", "digits", "windows", "scene", "numbers", "names"]


@pytest.mark.parametrize("name", KINDS)
def test_a_widget_wakes_and_fits_a_phone(page, name):
    box = awake(page, name)
    assert box.locator(".tf-said").first.text_content() is not None
    assert box.locator(".tf-live-still").is_hidden()
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 390, f"the page is {width} px wide"
    assert not page.faults


def test_models_far_away_are_not_loaded(browser):
    address, context = browser
    page, asked = context.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.set_viewport_size({"width": 390, "height": 600})
    page.goto(address)
    page.wait_for_timeout(500)
    assert not any(url.endswith(".bin") for url in asked)
    assert all(url.startswith(address) for url in asked), "nothing from elsewhere"
    page.close()


def test_a_model_that_cannot_be_loaded_leaves_the_picture(page):
    box = page.locator('.tf-live[data-model="absent"]')
    box.scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('[data-model=absent]').dataset.asleep !== undefined")
    assert box.locator(".tf-live-still").is_visible()


def test_the_query_moves_by_keyboard_and_the_numbers_follow(page):
    box = awake(page, "attention")
    before = box.locator(".tf-said").text_content()
    box.locator("canvas").focus()
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    after = box.locator(".tf-said").text_content()
    assert before != after and "q = (0.7" in after
    shares = box.locator(".tf-share").all_text_contents()
    assert sum(float(share.rstrip(" %")) for share in shares) == pytest.approx(100, abs=3)


def test_the_writer_reads_what_is_typed_and_goes_on(page):
    box = awake(page, "writer")
    box.locator("textarea").fill("return a")
    tokens = box.locator(".tf-tokens button").all_text_contents()
    assert "".join(tokens).replace("·", " ") == "return a"
    box.locator(".tf-bars button").first.click()
    assert len(box.locator("textarea").input_value()) > len("return a")


def test_words_become_gaps_and_come_back(page):
    box = awake(page, "gaps")
    assert box.locator(".tf-tokens button").nth(1).text_content() == "____"
    box.locator(".tf-tokens button").nth(3).click()
    assert box.locator(".tf-columns .tf-bars").count() == 6  # two gaps, three readers
    assert "of 2 right" in box.locator(".tf-said").text_content()
    box.locator(".tf-tokens button").nth(3).click()
    assert box.locator(".tf-columns .tf-bars").count() == 3


@pytest.mark.parametrize("name", ["digits", "windows"])
def test_a_stroke_changes_the_answer(page, name):
    box = awake(page, name)
    before = box.locator(".tf-share").all_text_contents()
    canvas = box.locator("canvas").first
    canvas.scroll_into_view_if_needed()
    where = canvas.bounding_box()
    page.mouse.move(where["x"] + 30, where["y"] + 30)
    page.mouse.down()
    page.mouse.move(where["x"] + 90, where["y"] + 120, steps=5)
    page.mouse.up()
    assert box.locator(".tf-share").all_text_contents() != before


def test_a_shape_is_dragged_and_costs_follow(page):
    box = awake(page, "scene")
    before = box.locator("td").all_text_contents()
    canvas = box.locator("canvas")
    canvas.scroll_into_view_if_needed()
    where = canvas.bounding_box()
    unit = where["width"] / 32
    page.mouse.move(where["x"] + 8 * unit, where["y"] + 9 * unit)
    page.mouse.down()
    page.mouse.move(where["x"] + 24 * unit, where["y"] + 22 * unit, steps=4)
    page.mouse.up()
    assert box.locator("td").all_text_contents() != before


def test_unknown_words_are_named_and_known_ones_translated(page):
    box = awake(page, "numbers")
    box.locator("textarea").fill("six eleven")
    assert "I do not know “eleven”" in box.locator(".tf-said").text_content()
    box.locator("textarea").fill("ten")
    assert box.locator("thead th").all_text_contents() == ["writes", "ten"]


def test_the_loss_falls_while_it_trains(page):
    box = awake(page, "names")
    box.get_by_role("button", name="Train").click()
    page.wait_for_timeout(2500)
    box.get_by_role("button", name="Pause").click()
    said = box.locator(".tf-said").text_content()
    assert float(said.split("loss ")[1].split(" ")[0]) < 2.9, said  # guessing: 3.296


def test_a_link_brings_the_state_back(page):
    box = awake(page, "numbers")
    box.locator("textarea").fill("six six")
    box.get_by_role("button", name="Copy link to this").click()
    page.wait_for_function("location.hash.startsWith('#live:numbers:')")
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    assert awake(page, "numbers").locator("textarea").input_value() == "six six"
