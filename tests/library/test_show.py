"""Figures: they have alt text, equal bytes for equal data, and hold in light and dark; wrong input is refused."""

import base64
import io
import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from tformerlib import show
from tformerlib.run import records
from tformerlib.show import charts, frame, palette, prose, widgets

Shown = list[dict[str, Any]]
WEIGHTS = np.array([[0.9, 0.1], [0.25, 0.75]])


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    """What a notebook would display: the MIME bundles, in order."""
    bundles: Shown = []
    for module in (frame, prose, records):
        monkeypatch.setattr(module, "in_kernel", lambda: True)
    monkeypatch.setattr(
        "IPython.display.display", lambda bundle, raw, metadata=None: bundles.append({**bundle, "metadata": metadata})
    )
    return bundles


def svg(bundle: dict[str, Any]) -> ElementTree.Element:
    found = re.search(r"<svg.*</svg>", bundle["text/html"], re.DOTALL)
    assert found is not None
    return ElementTree.fromstring(found[0])


def plot(bundle: dict[str, Any]) -> dict[str, Any]:
    """The figure that the site's script reads."""
    found = re.search(r'<script type="application/json" data-for="(tf-\w+)">(.*)</script>', bundle["text/html"])
    assert found is not None and f'id="{found[1]}"' in bundle["text/html"]
    return dict(json.loads(found[2]))


def curve(**changes: Any) -> None:
    given: dict[str, Any] = {"x_label": "step", "y_label": "loss", "alt": "a falling curve", "caption": "It falls."}
    show.lines([1, 2, 4], {"loss": [3.0, 2.0, 1.5]}, **given | changes)


DRAW: list[Callable[[str], None]] = [
    lambda alt: curve(alt=alt),
    lambda alt: show.bars({"a": 1.0}, y_label="accuracy", alt=alt),
    lambda alt: show.heatmap(WEIGHTS, ["a", "b"], ["c", "d"], alt=alt),
    lambda alt: show.explore({"head 1": WEIGHTS}, ["a", "b"], ["c", "d"], slider_label="head", alt=alt),
    lambda alt: show.slider({"one": go.Figure(go.Bar(y=[1]))}, slider_label="step", alt=alt),
    lambda alt: show.figure(Figure(), alt=alt),
    lambda alt: show.figure(go.Figure(), alt=alt),
]


@pytest.mark.parametrize("draw", DRAW)
def test_a_figure_without_alt_text_is_refused(draw: Callable[[str], None], shown: Shown) -> None:
    for alt in ("", "  \n"):
        with pytest.raises(ValueError, match="alt"):
            draw(alt)
    assert not shown


@pytest.mark.parametrize("draw", DRAW)
def test_alt_text_is_on_the_figure_and_escaped(draw: Callable[[str], None], shown: Shown) -> None:
    draw('rows "a" & columns <b>')
    assert 'role="img" aria-label="rows &quot;a&quot; &amp; columns &lt;b&gt;"' in shown[0]["text/html"]
    assert 'rows "a" & columns <b>' in shown[0]["text/plain"]


@pytest.mark.parametrize("draw", DRAW)
def test_equal_figures_have_equal_bytes(draw: Callable[[str], None], shown: Shown) -> None:
    draw("alt")
    draw("alt")
    assert shown[0] == shown[1]


def test_a_plain_interpreter_prints_the_alt_text(capsys: pytest.CaptureFixture[str]) -> None:
    curve()
    assert capsys.readouterr().out == "[figure: a falling curve]\n"


# --- matplotlib -----------------------------------------------------------------------------------------------------


def test_svg_takes_ink_and_font_from_the_page(shown: Shown) -> None:
    curve(x_label="training step")
    root, text = svg(shown[0]), shown[0]["text/html"]
    assert root.get("fill") == "currentColor" and "stroke: currentColor" in text
    assert "#000000" not in text and "DejaVu" not in text and "<style" not in text  # a style would apply to the page
    assert "training step" in "".join(root.itertext())  # as text, not as outlines
    assert not re.search(r"date|matplotlib", text, re.IGNORECASE)


def test_svg_numbers_keep_their_digits_in_text(shown: Shown) -> None:
    show.lines([0.0015, 0.0025], {"a": [0, 1]}, x_label="rate 0.001234", y_label="y", alt="alt")
    text = "".join(svg(shown[0]).itertext())
    assert "rate 0.001234" in text and "0.0016" in text


def test_long_names_leave_the_curves_their_room(shown: Shown) -> None:
    for names in (
        ["a", "b", "c"],
        ["a recurrent network with additive attention", "a second one", "a third, as long as one"],
    ):
        show.lines([4, 256], {name: [1, 2] for name in names}, x_label="x", y_label="y", log_x=True, alt="alt")
    room = []
    for bundle in shown:
        ticks = {text.text: text for text in svg(bundle).iter() if text.text in ("4", "256")}
        room.append(float(ticks["256"].get("x", 0)) - float(ticks["4"].get("x", 0)))
    assert room[1] == pytest.approx(room[0], rel=0.02) and room[0] > 250


def test_a_short_logarithmic_axis_has_plain_ticks_and_a_long_one_powers(shown: Shown) -> None:
    curve(log_y=True)
    show.lines([1, 2], {"loss": [0.01, 100.0]}, x_label="x", y_label="y", log_y=True, alt="alt")
    short, long = (" ".join(text.text or "" for text in svg(bundle).iter() if text.tag.endswith(("text", "tspan")))
                   for bundle in shown)  # fmt: skip
    assert "2.5" in short and "×" not in short
    assert "2.5" not in long


def test_ids_of_two_figures_on_a_page_differ(shown: Shown) -> None:
    curve()
    curve(log_y=True)
    first, second = (set(re.findall(r' id="([^"]+)"', bundle["text/html"])) for bundle in shown)
    assert first and second and not first & second
    for bundle in shown:
        for reference in re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', bundle["text/html"]):
            assert f' id="{"".join(reference)}"' in bundle["text/html"]


@pytest.mark.parametrize(
    ("series", "changes", "message"),
    [
        ({"a": [1, 2]}, {}, r"'a' has values of shape \(2,\) at x of shape \(3,\)"),
        ({str(i): [1, 2, 3] for i in range(7)}, {}, "7 series"),
        ({"a": [1, 2, 3]}, {"bands": {"b": ([0], [1])}}, r"bands for \['b'\]"),
    ],
)
def test_lines_refuses_what_it_cannot_draw(series: Any, changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        show.lines([1, 2, 3], series, x_label="x", y_label="y", alt="alt", **changes)


def test_lines_gives_each_series_its_own_x(shown: Shown) -> None:
    x: Any = {"a": [1, 2], "b": [1, 2, 3]}
    y: Any = {"a": [1, 2], "b": torch.tensor([1.0, 2.0, 3.0], requires_grad=True)}
    show.lines(x, y, x_label="x", y_label="y", alt="alt")
    assert {"a", "b"} <= {text.text for text in svg(shown[0]).iter() if text.tag.endswith("text")}


def test_bars_write_the_mean_over_seeds(shown: Shown) -> None:
    show.bars({"dot": [0.5, 0.75], "none": 0.125}, y_label="exact match", alt="alt")
    assert {"0.625", "0.125"} <= {text.text for text in svg(shown[0]).iter() if text.tag.endswith("text")}


def test_heatmap_refuses_names_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="3 rows and 2 columns"):
        show.heatmap(WEIGHTS, ["a", "b", "c"], ["d", "e"], alt="alt")


def test_colours_hold_on_both_pages() -> None:
    css = (Path(__file__).parents[2] / "book" / "assets" / "tf.css").read_text("utf-8")
    assert re.findall(r"--tf-page: (#\w+)", css) == [palette.LIGHT_PAGE, palette.DARK_PAGE]
    for page in (palette.LIGHT_PAGE, palette.DARK_PAGE):
        assert all(palette.contrast(colour, page) >= 3 for colour in palette.SERIES)  # WCAG 1.4.11, graphics
    assert palette.contrast("#000000", "#ffffff") == pytest.approx(21)


def test_values_in_cells_stay_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[float] = []

    class Axes:
        def text(self, *args: Any, color: str, **_: Any) -> None:
            written.append(palette.contrast(color, fills[len(written)]))

    for name in (palette.SEQUENTIAL, palette.DIVERGING):
        colours = colormaps[name](np.linspace(0, 1, 64))[None]
        fills = ["#" + "".join(f"{round(255 * c):02x}" for c in colour[:3]) for colour in colours[0]]
        written.clear()
        charts._write_values(Axes(), colours, np.zeros((1, 64)))  # type: ignore[arg-type]  # only text() is used
        assert min(written) >= 4.5  # WCAG AA, text


# --- plotly ---------------------------------------------------------------------------------------------------------


def test_explore_holds_every_matrix_as_a_frame(shown: Shown) -> None:
    heads = {f"head {i}": torch.rand(3, 4, generator=torch.Generator().manual_seed(i)) for i in range(3)}
    show.explore(heads, list("abc"), list("wxyz"), slider_label="head", alt="alt", caption="Look.")
    figure = plot(shown[0])
    assert [step["label"] for step in figure["layout"]["sliders"][0]["steps"]] == list(heads)
    for name, one in zip(heads, figure["frames"], strict=True):
        assert one["name"] == name
        assert np.allclose(one["data"][0]["z"], heads[name], atol=1e-4)
        assert set(one["data"][0]) == {"type", "z"} and "layout" not in one  # a colour means one value throughout
    assert shown[0]["application/vnd.plotly.v1+json"]["frames"] == figure["frames"]  # JupyterLab draws this one
    assert "<figcaption>Look.</figcaption>" in shown[0]["text/html"]


def test_explore_takes_names_for_each_matrix(shown: Shown) -> None:
    short, long = np.eye(2), np.eye(3)
    names = {"short": ["a", "b"], "long": ["c", "d", "d"]}
    show.explore({"short": short, "long": long}, names, names, slider_label="sentence", alt="alt")
    frames = plot(shown[0])["frames"]
    assert [name.rstrip("\u200b") for name in frames[1]["data"][0]["x"]] == ["c", "d", "d"]
    assert len(set(frames[1]["data"][0]["x"])) == 3  # to plotly equal names would be one column
    assert frames[0]["layout"]["height"] != frames[1]["layout"]["height"]
    with pytest.raises(ValueError, match=r"'long' has shape \(3, 3\), named are 2 rows"):
        show.explore({"short": short, "long": long}, ["a", "b"], ["a", "b"], slider_label="sentence", alt="alt")


def test_every_frame_sets_what_any_frame_changes(shown: Shown) -> None:
    bars = {
        name: go.Figure(go.Bar(y=[1, height], x=["a", "b"])) for name, height in (("low", 1), ("high", 9), ("same", 1))
    }
    show.slider(bars, slider_label="height", alt="alt")
    assert [frame["data"][0]["y"] for frame in plot(shown[0])["frames"]] == [[1, 1], [1, 9], [1, 1]]
    assert all("x" not in frame["data"][0] for frame in plot(shown[0])["frames"])


def test_slider_refuses_figures_that_do_not_match() -> None:
    with pytest.raises(ValueError, match="'b' has 2 traces, 'a' 1"):
        two = go.Figure([go.Bar(y=[1]), go.Bar(y=[2])])
        show.slider({"a": go.Figure(go.Bar(y=[1])), "b": two}, slider_label="x", alt="alt")


def test_a_label_cannot_end_the_script(shown: Shown) -> None:
    show.explore({"</script><b>": WEIGHTS}, ["a", "b"], ["c", "d"], slider_label="x", alt="alt")
    assert shown[0]["text/html"].count("</script>") == 1
    show.explore({"x</script>": WEIGHTS, "y": WEIGHTS}, ["a", "b"], ["c", "d"], slider_label="x", alt="alt")
    assert plot(shown[1])["frames"][0]["name"] == "x</script>"


def test_different_figures_have_different_ids(shown: Shown) -> None:
    for scale in (1, 0.5):
        show.explore({"a": WEIGHTS * scale}, ["a", "b"], ["c", "d"], slider_label="x", alt="alt")
    first, second = (re.findall(r' id="(tf-\w+)"', bundle["text/html"]) for bundle in shown)
    assert first != second


def test_colab_gets_html_that_stands_alone(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    show.explore({"a": WEIGHTS}, ["a", "b"], ["c", "d"], slider_label="x", alt="alt")
    page = shown[0]["text/html"]
    assert "Plotly.newPlot" in page and "tf-plotly" not in page and 'aria-label="alt"' in page


def test_figure_refuses_what_is_none() -> None:
    with pytest.raises(TypeError, match="dict is neither"):
        show.figure({}, alt="alt")


# --- prose ----------------------------------------------------------------------------------------------------------


def test_parity_stops_at_an_error_above_tolerance_and_at_nan(capsys: pytest.CaptureFixture[str]) -> None:
    show.parity("ours against theirs", 2e-5, 2e-5)
    assert capsys.readouterr().out == "ours against theirs: largest error 2.0e-05 (allowed 2e-05)\n"
    for error in (2.1e-5, float("nan")):
        with pytest.raises(AssertionError, match="ours against theirs"):
            show.parity("ours against theirs", error, 2e-5)


def test_a_sentence_that_a_run_contradicts_is_marked_and_one_that_holds_is_left_alone(shown: Shown) -> None:
    show.expect(True, "attention is ahead")
    assert not shown
    show.expect(False, "attention is ahead at $d = 64$")
    assert shown[0]["text/plain"] == "Not so in this run: attention is ahead at $d = 64$."
    assert "tf-not-so" in shown[0]["text/html"] and r"\(d = 64\)" in shown[0]["text/html"]
    with pytest.raises(ValueError, match="what should hold"):
        show.expect(True, " ")


def test_glue_is_hidden_and_named_for_myst(shown: Shown) -> None:
    show.glue("gain", "12.5 points")
    assert shown[0]["metadata"] == {"scrapbook": {"name": "gain", "mime_prefix": prose.GLUE_PREFIX}}
    visible = [mime for mime in shown[0] if mime.startswith("text/")]
    assert not visible and shown[0][f"{prose.GLUE_PREFIX}text/plain"] == "'12.5 points'"
    for name, text in (("", "1"), ("a ", "1"), ("a", " ")):
        with pytest.raises(ValueError, match="glue"):
            show.glue(name, text)
    with pytest.raises(ValueError, match=r"glue 'a' is 12\.5"):
        show.glue("a", 12.5)  # type: ignore[arg-type]


def test_table_formats_numbers_and_escapes_text(shown: Shown) -> None:
    show.table([{"model": "<base>", "parameters": 65_000_000, "BLEU": 27.34567}], caption="`x` and $d$")
    page = shown[0]["text/html"]
    assert "&lt;base&gt;" in page and "65,000,000" in page and ">27.35<" in page
    assert r"<code>x</code> and <span class=\"math notranslate\">\(d\)</span>".replace('\\"', '"') in page
    with pytest.raises(ValueError, match="row 1 has the columns"):
        show.table([{"a": 1}, {"b": 2}])
    with pytest.raises(ValueError, match="at least one row"):
        show.table([])


def test_widget_shows_nothing_without_somebody_to_use_it(shown: Shown) -> None:
    show.attention_widget({"head 1": WEIGHTS}, ["a", "b"], ["c", "d"], label="head", alt="alt")
    assert not shown
    show.writing_widget(lambda text, temperature: text, text="def ")
    assert not shown


def test_writing_widget_writes_and_says_what_was_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import ipywidgets

    def write(text: str, temperature: float) -> str:
        if not text:
            raise ValueError("prompts [0] are empty")
        return f"{text} at {temperature}"

    called: dict[str, Any] = {}
    monkeypatch.setattr(widgets, "in_live_kernel", lambda: True)
    monkeypatch.setattr(ipywidgets, "interact", lambda function, **controls: called.update(f=function, **controls))
    show.writing_widget(write, text="def ")
    assert called["text"].value == "def " and called["temperature"].min == 0
    called["f"]("import", 0.5)
    called["f"]("", 0.5)
    assert capsys.readouterr().out == "import at 0.5\nprompts [0] are empty\n"


def test_a_picture_is_the_image_and_other_things_are_refused():
    image = torch.randint(0, 256, (3, 4, 6), dtype=torch.uint8)

    def shown(address: str) -> torch.Tensor:
        read = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
        return torch.from_numpy(np.array(read)).permute(2, 0, 1)

    assert torch.equal(shown(show.picture(image, exact=True)), image)
    gray = torch.full((3, 16, 16), 120, dtype=torch.uint8)
    assert (shown(show.picture(gray)).int() - 120).abs().max() <= 2
    for wrong, message in ((image.float(), "torch.float32"), (image[0], r"\(4, 6\)")):
        with pytest.raises(ValueError, match=message):
            show.picture(wrong)
