"""Diagrams: drawn, described, legible on a phone, one language of colors, in the page and in notebooks."""

import base64
import re
import xml.etree.ElementTree as ET

import pytest

from book.figures import diagram, names
from book.figures.pen import SMALL, WIDEST, Pen
from book.tools.diagrams import for_notebook, for_page

TEXT = "Before.\n\n```{diagram} heads\nEach head has its `own` table.\n```\n\nAfter."


@pytest.mark.parametrize("name", names())
def test_a_diagram_is_legible_and_described(name):
    made = diagram(name)
    root = ET.fromstring(made.svg)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    assert width <= WIDEST and height <= 480, "more than a phone's screen"
    assert len(made.alt.split()) >= 20, "say what is there, to those who do not see it"
    texts = [e for e in root.iter() if e.tag.endswith("text")]
    assert texts and min(float(e.attrib["font-size"]) for e in texts) >= 10.5
    for e in texts:
        size, words = float(e.attrib["font-size"]), "".join(e.itertext())
        wide = 0.56 * size * len(words)
        start = {"middle": 0.5, "end": 1.0, "start": 0.0}[e.attrib.get("text-anchor", "start")]
        left = float(e.attrib["x"]) - start * wide
        assert left >= -6 and left + wide <= width + 6, f"{words!r} is cut off"
    ids = [e.attrib["id"] for e in root.iter() if "id" in e.attrib]
    assert len(ids) == len(set(ids)) and all(id.startswith(f"{name}-") for id in ids)
    assert not re.search(r'(?:fill|stroke)="#', made.svg), "colors are the theme's"


def test_an_unknown_diagram_lists_those_there_are():
    with pytest.raises(ValueError, match="no diagram 'head'; there are .*heads"):
        diagram("head")


def test_a_sheet_wider_than_a_phone_is_refused():
    with pytest.raises(ValueError, match="width=500"):
        Pen(500, 100)


def test_words_are_escaped():
    pen = Pen(100, 40)
    pen.text(50, 20, "a < b", size=SMALL)
    assert "a &lt; b" in pen.svg("x & y") and 'aria-label="x &amp; y"' in pen.svg("x & y")


def test_the_page_has_the_drawing_itself_and_a_notebook_an_image():
    page = for_page(TEXT)
    assert page.startswith("Before.") and page.endswith("After.") and "<svg role=" in page
    assert "<figcaption>Each head has its <code>own</code> table.</figcaption>" in page
    notebook = for_notebook(TEXT)
    data = re.search(r"base64,([^)]+)\)", notebook)
    assert data is not None
    ET.fromstring(base64.b64decode(data[1]))
    assert "*Each head has its `own` table.*" in notebook


def test_a_diagram_without_caption_is_refused():
    with pytest.raises(ValueError, match="'heads' has no caption"):
        for_page("```{diagram} heads\n```")
