"""The website of a small book: what a page holds, what stops the build, and what the browser check catches."""

import csv
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
import yaml

import tformerlib as tf
from book.tools import browser, notation, notebooks, site, tables
from book.tools.layout import Book
from tformerlib import claims, show
from tformerlib.claims import ledger

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

HERE = Path(__file__).resolve().parents[2]
CHAPTER = """\
# %% [markdown]
# # A small chapter
#
# It cites {cite:t}`vaswani2017` and measures {glue:text}`mini-gain` points, with $q \\cdot k$ of shape `(B, N, D)`.
#
# $$ \\sum_j \\alpha_{ij} = 1 $$

# %% tags=["bootstrap"]
import sys

# %% tags=["parameters"]
profile = "quick"
seed = 0

# %%
show.glue("mini-gain", "12.5")

# %% tags=["landing"]
show.explore(heads, tokens, tokens, slider_label="head", alt="Two heads", caption="Two heads.")

# %%
show.lines([1, 2], {"loss": [2, 1]}, x_label="step", y_label="loss", alt="falls", caption="With $q$.")

# %%
claims.report("mini.gain", gain=6.0)

# %% [markdown]
# ```{exercise} Easy
# :label: mini-easy
# What is it?
# ```
#
# ```{solution-start} mini-easy
# :class: dropdown
# ```

# %%
print("the solution")

# %% [markdown]
# ```{solution-end}
# ```
"""
ROW = {
    "id": "mini.gain",
    "kind": "mechanism",
    "system": "transformer",
    "claim": "More is better.",
    "source": {"cite": "vaswani2017", "where": "Table 3", "quote": None, "checked": True},
    "paper": "27.3 BLEU",
    "metrics": {"gain": "points"},
    "gate": None,
    "reproduced": "gain >= 5",
    "partly": "gain > 0",
    "tuned": None,
    "profile": "quick",
    "differs": "all of it",
}
NOTATION = [
    {"group": "Shapes", "kind": kind, "symbol": symbol, "meaning": f"the {symbol}", "chapters": ["mini"]}
    for kind, symbol in (("shape", "B"), ("shape", "N"), ("shape", "D"), ("math", "q"), ("math", "k_j"))
] + [{"group": "Attention", "kind": "math", "symbol": r"\alpha_{ij}", "meaning": "weight of $k_j$", "chapters": []}]
PAGES = {
    "index": "# Welcome\n\n<!-- generated: landing -->\n\nRead {doc}`chapters/part/mini` of {repository}.\n",
    "notation": "# Notation\n\n<!-- generated: notation -->\n",
    "scoreboard": "# Scoreboard\n\n<!-- generated: scoreboard -->\n",
    "systems": "# Systems\n\n<!-- generated: systems -->\n",
    "bibliography": "# Bibliography\n\n```{bibliography}\n:all:\n```\n",
}


def outputs(book: Book) -> list[list[dict[str, Any]]]:
    """What the chapter's code cells display, made by the same calls as in a kernel."""
    shown: list[tuple[dict[str, Any], dict[str, Any]]] = []
    with pytest.MonkeyPatch.context() as patch:
        for module in ("tformerlib.show.frame", "tformerlib.show.prose", "tformerlib.run.records"):
            patch.setattr(f"{module}.in_kernel", lambda: True)
        patch.setattr("IPython.display.display", lambda data, raw, metadata=None: shown.append((data, metadata or {})))
        patch.setattr(ledger, "PLACES", (book.root / "data",))
        ledger._own_ledger.cache_clear()
        tf.parameters(profile="quick", seed=0)
        shown.clear()
        tokens, heads = ["the", "cat"], {"head 1": [[0.9, 0.1], [0.2, 0.8]], "head 2": [[0.5, 0.5], [0.4, 0.6]]}
        exec(
            "\n".join(re.findall(r"^(?:show|claims)\..*$", CHAPTER, re.MULTILINE)),
            {**locals(), "show": show, "claims": claims},
        )
    ledger._own_ledger.cache_clear()
    displays = [{"output_type": "display_data", "data": data, "metadata": metadata} for data, metadata in shown]
    return [
        [],
        [],
        *([display] for display in displays),
        [{"output_type": "stream", "name": "stdout", "text": "it is\n"}],
    ]


def recorded(gains: list[float]) -> str:
    """Lines of a chapter's records: seeds 10, 11, ... with these gains."""
    lines = [
        {"run": f"r{i}", "chapter": "mini", "profile": "quick", "seed": 10 + i, "ended": "finished", "key": "k",
         "claims": {"mini.gain": {"gain": gain}}} for i, gain in enumerate(gains)
    ]  # fmt: skip
    return "".join(json.dumps(line) + "\n" for line in lines)


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Book:
    """A book of one executed chapter, not yet built."""
    book = Book(tmp_path_factory.mktemp("book"))
    for name in ("_config.yml", "pyproject.toml", "book/assets", "book/references.bib"):
        copy = shutil.copytree if (HERE / name).is_dir() else shutil.copy
        (book.root / name).parent.mkdir(parents=True, exist_ok=True)
        copy(HERE / name, book.root / name)
    write(book, "data/systems.yml", (HERE / "data" / "systems.yml").read_text("utf-8"))
    write(book, "data/notation.yml", yaml.safe_dump(NOTATION))
    write(book, "data/claims/mini.yml", yaml.safe_dump([ROW]))
    write(book, "data/results/mini.jsonl", recorded([5.5, 6.5, 6.0, 6.25, 5.75]))
    entries = [{"file": "chapters/part/mini"}, *({"file": name} for name in PAGES if name != "index")]
    write(book, "_toc.yml", yaml.safe_dump({"format": "jb-book", "root": "index", "chapters": entries}))
    for name, text in PAGES.items():
        write(book, f"book/pages/{name}.md", text)
    write(book, "chapters/part/mini.py", CHAPTER)
    notebook = notebooks.convert(book.chapter("mini"), book.repository)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for i, (cell, shown) in enumerate(zip(code, outputs(book), strict=True)):
        cell.outputs, cell.execution_count = [nbformat.from_dict(output) for output in shown], i + 1
    records = [record for record in notebooks.records(notebook) if record["kind"] != "run"]
    run = {"device": "cpu: x86_64", "threads": 2, "isa": "AVX2", "torch": "2.13.0", "python": "3.11.7"}
    about = {
        "profile": "quick",
        "seed": 0,
        "commit": "0123456789ab+",
        "date": "2026-11-23T00:00:00+00:00",
        "seconds": 3.2,
    }
    write(book, "build/executed/quick/mini-s0.json", json.dumps(run | about | {"records": records}))
    write(book, "build/executed/quick/mini-s0.ipynb", notebooks.dumps(notebook))
    return book


@pytest.fixture(scope="module")
def built(book: Book) -> Path:
    """The built site, which its own check has no complaint about."""
    folder = site.build(book)
    assert site.check(book) == []
    return folder


def write(book: Book, name: str, text: str) -> None:
    path = book.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    if name.startswith("build/executed") and path.suffix == ".ipynb":  # as its run leaves it
        run = json.loads(path.with_suffix(".json").read_text("utf-8"))
        run["output_sha256"] = hashlib.sha256(text.encode()).hexdigest()
        path.with_suffix(".json").write_text(json.dumps(run), "utf-8")


@pytest.fixture
def edited(book: Book) -> Iterator[Book]:
    """The book with its sources restored afterwards."""
    kept = {
        path: path.read_bytes()
        for path in book.root.rglob("*")
        if path.is_file() and not {"site", "html", "source", "doctrees"} & set(path.relative_to(book.root).parts)
    }
    yield book
    for path, content in kept.items():
        path.write_bytes(content)


# --- what a page holds ------------------------------------------------------------------------------------------------


def test_a_chapter_says_where_it_comes_from(built: Path, book: Book) -> None:
    page = (built / "chapters" / "part" / "mini.html").read_text("utf-8")
    slug = book.repository.removeprefix("https://github.com")
    assert f"https://colab.research.google.com/github{slug}/blob/notebooks/mini.ipynb" in page
    for part in ("2026-11-23", "in 3 s", "AVX2", "2 threads", "commit/0123456789ab", ">0123456789ab<"):
        assert part in page
    downloaded = nbformat.read(built / "chapters" / "part" / "mini.ipynb", as_version=4)
    assert any("parameters" in notebooks.tags(cell) for cell in downloaded.cells)
    assert not any("{cite" in cell.source or "{glue" in cell.source for cell in downloaded.cells)
    assert (built / "chapters" / "part" / "mini.py").read_text("utf-8") == CHAPTER
    assert 'class="right-next"' in page and "og:image" in page
    card = re.search(r'og:image" content="[^"]*/(_images/[^"]+)"', page)
    assert card is not None and (built / card[1]).stat().st_size > 1000


def test_values_and_citations_reach_the_text(built: Path) -> None:
    page = (built / "chapters" / "part" / "mini.html").read_text("utf-8")
    assert re.search(r"measures\s*<span[^>]*>12\.5</span>\s*points", page)
    assert '<a href="../../bibliography.html#ref-vaswani2017">Vaswani et al. (2017)</a>' in page  # in the claim's card
    assert 'id="ref-vaswani2017"' in (built / "bibliography.html").read_text("utf-8")


def test_generated_pages(built: Path, book: Book) -> None:
    scoreboard = (built / "scoreboard.html").read_text("utf-8")
    for part in (
        "✓ shown",
        "27.3 BLEU",
        "[5.3, 6.7]",
        "5 seeds, profile quick",
        "Of <strong>1</strong> mechanisms: <strong>1</strong> shown.",
        "tf-reproduce mini.gain --seed 10",
        "part/mini.html#claim-mini-gain",
    ):
        assert part in scoreboard
    assert "tf-plotly" in (built / "index.html").read_text("utf-8")
    assert book.repository in (built / "index.html").read_text("utf-8")
    assert "the B" in (built / "notation.html").read_text("utf-8")
    systems = (built / "systems.html").read_text("utf-8")
    for entry in yaml.safe_load((HERE / "data" / "systems.yml").read_text("utf-8")):
        assert f"<strong>{tables.esc(entry['name'])}</strong>" in systems


def test_nothing_comes_from_elsewhere_and_nothing_heavy_is_kept(built: Path) -> None:
    for page in built.rglob("*.html"):
        text = page.read_text("utf-8")
        assert not re.search(r'<(?:script|img|iframe)[^>]*src="https?:', text), page
        assert "fontawesome.js" not in text and "require.js" not in text and "THEBE" not in text
        assert ("searchindex.js" in text) == (page.name == "search.html")
    assert (built / "_static" / "mathjax" / "tex-chtml.js").exists()
    assert (built / "_static" / "plotly.min.js").exists()


def test_a_warning_stops_the_build_and_the_old_site_stays(built: Path, edited: Book, capfd: Any) -> None:
    before = (built / "notation.html").read_bytes()
    write(edited, "book/pages/notation.md", PAGES["notation"] + "\n{ref}`nowhere`\n")
    for _ in range(2):  # the second time as well, when Sphinx has already read the page once
        with pytest.raises(site.SiteError, match="warnings"):
            site.build(edited)
        assert "nowhere" in capfd.readouterr().err
    assert (built / "notation.html").read_bytes() == before


def test_a_changed_style_sheet_reaches_the_site(built: Path, edited: Book) -> None:
    write(edited, "book/assets/tf.css", "p { color: teal }")
    assert "teal" in (site.build(edited) / "_static" / "tf.css").read_text("utf-8")


def test_check_finds_what_is_broken(built: Path, book: Book, tmp_path: Path) -> None:
    copy = Book(tmp_path)
    shutil.copytree(built, copy.build / "site")
    shutil.copy(book.root / "_toc.yml", tmp_path)
    page = copy.build / "site" / "notation.html"
    bad = '<img src="gone.png"><a href="systems.html#nowhere">x</a><a href="gone.html">y</a><script src="https://x.org/a.js">'
    page.write_text(page.read_text("utf-8").replace("</main>", f"{bad}</script></main>"), "utf-8")
    (copy.build / "site" / "systems.html").rename(copy.build / "site" / "elsewhere.html")
    problems = "\n".join(site.check(copy))
    for part in (
        "systems.html: missing",
        "gone.png, which is not",
        "no alt text",
        "gone.html",
        "x.org/a.js from elsewhere",
    ):
        assert part in problems


def test_cards_and_scoreboard_take_results_recorded_after_the_run(edited: Book) -> None:
    write(edited, "data/results/mini.jsonl", recorded([-60.0, -70.0, -65.0, -61.0, -69.0]))
    source = site.assemble(edited)
    for page in ("chapters/part/mini.ipynb", "scoreboard.md"):
        text = (source / page).read_text("utf-8")
        assert "✗ not shown" in text and "5 seeds, profile quick" in text


def test_this_run_never_enters_a_verdict(edited: Book) -> None:
    """What the page's own run measured, on whatever machine, changes no word of it."""
    before = (site.assemble(edited) / "scoreboard.md").read_text("utf-8")
    sidecar = edited.executed("mini").with_suffix(".json")
    sidecar.write_text(sidecar.read_text("utf-8").replace('"gain": 6.0', '"gain": -1000000.0'), "utf-8")
    assert (site.assemble(edited) / "scoreboard.md").read_text("utf-8") == before


def test_the_ledger_leaves_as_a_table_and_as_linked_data(built: Path) -> None:
    rows = list(csv.DictReader((built / "_static" / "ledger.csv").open(encoding="utf-8")))
    assert [(row["id"], row["verdict"], row["metric"], row["seeds"]) for row in rows] == [
        ("mini.gain", "shown", "gain", "5")
    ]
    assert float(rows[0]["mean"]) == 6.0 and float(rows[0]["low"]) < 5.5
    crate = json.loads((built / "_static" / "ro-crate-metadata.json").read_text("utf-8"))
    entries = {entry["@id"]: entry for entry in crate["@graph"]}
    assert crate["@context"] == "https://w3id.org/ro/crate/1.1/context"
    assert entries["ro-crate-metadata.json"]["conformsTo"]["@id"] == "https://w3id.org/ro/crate/1.1"
    root = entries["./"]
    for kind in ("hasPart", "mentions"):
        assert root[kind] and all(part["@id"] in entries for part in root[kind])
    claim = entries["chapters/part/mini.html#claim-mini-gain"]
    assert claim["reviewRating"] == "shown" and claim["result"] == {"gain": 6.0}


# --- what stops the build ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [lambda text: text.replace("12.5", "99.9"), lambda text: text[:500]])
def test_a_notebook_that_is_not_as_its_run_left_it_is_refused_by_name(edited: Book, damage: Any) -> None:
    path = edited.executed("mini")
    path.write_text(damage(path.read_text("utf-8")), "utf-8")
    with pytest.raises(site.SiteError, match="build/executed/quick/mini-s0.ipynb was damaged or edited after its run"):
        site.assemble(edited)


def test_chapters_that_did_not_run_are_refused(edited: Book) -> None:
    path = edited.executed("mini")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[2].execution_count = None
    write(edited, str(path.relative_to(edited.root)), notebooks.dumps(notebook))
    with pytest.raises(site.SiteError, match="cell mini-002 was not executed"):
        site.assemble(edited)
    path.unlink()
    with pytest.raises(site.SiteError, match="mini has not been executed"):
        site.assemble(edited)


@pytest.mark.parametrize(
    ("name", "old", "new", "error", "message"),
    [
        ("book/pages/index.md", "generated: landing", "generated: landscape", site.SiteError, "asks for 'landscape'"),
        ("build/executed/quick/mini-s0.ipynb", "tf-interactive", "tf-other", site.SiteError, "no chapter shows an"),
        ("build/executed/quick/mini-s0.json", "mini.gain", "mini.loss", tables.PageError, "no result for its claim"),
        (
            "data/claims/mini.yml",
            "id: mini.gain",
            "id: mini.loss",
            tables.PageError,
            "no result for its claim mini.loss",
        ),
        ("data/claims/mini.yml", "cite: vaswani2017", "cite: nobody", tables.PageError, "no entry 'nobody'"),
        ("data/systems.yml", "status: planned", "status: dreamt", tables.PageError, "status 'dreamt'"),
        ("chapters/part/mini.py", "q \\cdot k", "q \\cdot \\Upsilon", notation.NotationError, "Upsilon"),
        ("chapters/part/mini.py", "(B, N, D)", "(B, N, J)", notation.NotationError, r"shape \(B, N, J\): J"),
    ],
)
def test_data_that_does_not_fit_is_refused(
    edited: Book, name: str, old: str, new: str, error: type[Exception], message: str
) -> None:
    text = (edited.root / name).read_text("utf-8")
    assert old in text
    write(edited, name, text.replace(old, new))
    with pytest.raises(error, match=message):
        site.assemble(edited)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("shape", "B"), ("shape", "B")], "'B' has two meanings"),
        ([("math", "h_i"), ("math", "h_j")], "'h_j' has two meanings"),  # an index is only an index
        ([("shape", "V"), ("math", "V")], "'V' is a shape and stands in formulas"),
        ([("sign", "V")], "kind 'sign'"),
    ],
)
def test_notation_with_two_meanings_is_refused(tmp_path: Path, rows: list[tuple[str, str]], message: str) -> None:
    path = tmp_path / "notation.yml"
    entries = [
        {"group": "g", "kind": k, "symbol": s, "meaning": str(i), "chapters": []} for i, (k, s) in enumerate(rows)
    ]
    path.write_text(yaml.safe_dump(entries))
    with pytest.raises(notation.NotationError, match=message):
        notation.load(path)


def test_notation_reads_formulas_and_shapes_as_meant() -> None:
    rows = [notation.Symbol("g", kind, symbol, "m", []) for kind, symbol in (("math", r"\alpha_{ij}"), ("shape", "N"))]
    cell = nbformat.v4.new_markdown_cell(
        "Known $\\alpha_{ij} < N$, $\\sum_j \\alpha_j = \\text{one}$; unknown $\\beta_{ij} x$. "
        "Shape `(N, 4, heads)`, not `f(N)`.\n```python\ncost = '$5 and $z'\n```\n"
        "```{exercise} Title\n:label: l\nLet $w$ be. Call `g(N, M)` on $\\alpha$.\n```"
    )
    code = nbformat.v4.new_code_cell("f(A, B)  # (N, Z)\ndef g():\n    '''To (N, Y).'''")
    found = notation.unknown(nbformat.v4.new_notebook(cells=[cell, code]), rows)
    assert [problem.rpartition(": ")[2] for problem in found] == ["M", "beta", "x", "w", "Z", "Y"]


# --- the browser ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium() -> Iterator["BrowserContext"]:
    executable = browser.chromium()
    if executable is None:
        pytest.skip("no Chromium on this machine")
    with browser.reader(executable) as context:
        yield context


def test_the_small_book_passes_the_browser_check(book: Book, built: Path, chromium: "BrowserContext") -> None:
    site.build(book)  # other tests may have built it from edited sources
    with browser.served(built) as address:
        chapter = browser.inspect(chromium, address, "chapters/part/mini.html")
        scoreboard = browser.inspect(chromium, address, "scoreboard.html")
        assert browser.search(chromium, address, "small chapter", "chapters/part/mini.html") == []
        assert browser.search(chromium, address, "zygomorphic", "chapters/part/mini.html") != []
    assert chapter.problems == [] and scoreboard.problems == []
    assert (chapter.figures, chapter.solutions) == (2, 1) and chapter.formulas >= 3
    assert chapter.plotly > 1e6 and chapter.bytes < browser.HEAVIEST


GOOD = '<p>Good.</p><img src="dot.svg" alt="a dot"><a href="page.html">a link</a>'
BUGS = {
    "no alt text": '<img src="dot.svg">',
    "asks https://example.org/x.js": '<script src="https://example.org/x.js"></script>',
    "asks https://example.org/late": "<script>fetch('https://example.org/late').catch(() => 0)</script>",
    "console: planted": "<script>console.error('planted')</script>",
    "script error: planted": "<script>throw new Error('planted')</script>",
    "HTTP 404: gone.png": '<img src="gone.png" alt="gone">',
    "light: color-contrast: <p style": '<p style="color: #999">faint</p>',
    "dark: color-contrast: <a href": "<style>@media (prefers-color-scheme: dark) {a {background: #000}}</style>",
    "wider than a phone": '<div style="width: 500px">wide</div>',
    "formula not typeset": '<span class="math">\\(x\\)</span>',
    "is not drawn": '<div class="tf-plotly" id="f" aria-label="figure"></div>',
    "open from the start": '<div class="solution dropdown"><p>x</p><button>b</button></div>',
    "does not open when asked": '<div class="solution dropdown"><p hidden>x</p><button>b</button></div>',
    "changes nothing": '<div class="tf-plotly" id="g" aria-label="g"><i class="main-svg">x</i></div>'
    '<label>l <input type="range" id="g-range"></label>',
    "weighs 3.2 MB": "<script src='big.js'></script>",
    "light: link-name": '<a href="page.html"></a>',
}


def planted(folder: Path, content: str) -> None:
    head = '<!doctype html><html lang="en"><title>t</title><link rel="icon" href="dot.svg">'
    (folder / "page.html").write_text(f"{head}<main>{GOOD}{content}</main></html>", "utf-8")
    (folder / "dot.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')
    (folder / "big.js").write_text("/*" + "x" * 3_200_000 + "*/")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, chromium: "BrowserContext") -> str:
    """What the check says about a page with every bug."""
    folder = tmp_path_factory.mktemp("planted")
    planted(folder, "".join(BUGS.values()))
    with pytest.MonkeyPatch.context() as patch, browser.served(folder) as address:
        patch.setattr(browser, "PATIENCE", 500)
        return "\n".join(browser.inspect(chromium, address, "page.html").problems)


@pytest.mark.parametrize("bug", BUGS)
def test_the_browser_check_catches(bug: str, found: str) -> None:
    assert bug in found


def test_the_browser_check_lets_a_good_page_pass(tmp_path: Path, chromium: "BrowserContext") -> None:
    planted(tmp_path, '<div style="overflow-x: auto"><div style="width: 500px">scrolls in its own box</div></div>')
    with browser.served(tmp_path) as address:
        assert browser.inspect(chromium, address, "page.html").problems == []


def test_without_chromium_the_check_is_skipped_or_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    monkeypatch.setattr(browser, "chromium", lambda: None)
    for arguments, status in (([], 0), (["--require"], 1)):
        result = CliRunner().invoke(browser.main, arguments)
        assert (result.exit_code, "skipped: no Chromium" in result.output) == (status, True)


# --- the league -------------------------------------------------------------------------------------------------------

LEAGUE = {
    "budget": {"steps": 10, "batch_size": 4},
    "sizes": {"Mini": {"parameters": 1000, "macs": 2_000_000, "activations": 3_000_000}},
    "scores": [{"model": "Mini", "chapter": "mini", "seed": seed, "accuracy": 40.0 + seed} for seed in range(3)],
    "speed": {"images_per_second": {"Mini": 1234.0}, "provenance": {"device": "CPU", "threads": 1}},
}


def league_of(tmp_path: Path, record: dict[str, Any]) -> str:
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: index\nchapters:\n- file: chapters/p/mini\n")
    for name, text in (("chapters/p/mini.py", ""), ("benchmarks/results/league.json", json.dumps(record))):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    return tables.league(Book(tmp_path))


def test_the_league_averages_seeds_and_says_what_each_model_costs(tmp_path):
    page = league_of(tmp_path, LEAGUE)
    assert '<a href="chapters/p/mini.html">Mini</a>' in page and "41.0 % <small>(3 seeds, 40.0 to 42.0)</small>" in page
    for cost in ("1 k", "2.0 M", "1,234 images/s", "3.00 MB", "10 steps of 4 images (40 in all)"):
        assert cost in page, cost
    assert page.count('class="tf-plotly"') == 1 and '"memory"' in page


def test_the_league_s_table_begins_with_the_best(tmp_path):
    record = json.loads(json.dumps(LEAGUE).replace("Mini", "Low"))
    for part in (record["sizes"], record["speed"]["images_per_second"]):
        part["High"] = part["Low"]
    record["scores"] += [{"model": "High", "chapter": "mini", "seed": 0, "accuracy": 41.5}]  # above the mean alone
    page = league_of(tmp_path, record).split("<tbody>")[1]
    assert 0 < page.index(">High<") < page.index(">Low<")


@pytest.mark.parametrize("part", ["sizes", "speed"])
def test_a_league_with_a_part_missing_is_refused(tmp_path, part):
    with pytest.raises(tables.PageError, match="'Mini'"):
        league_of(tmp_path, LEAGUE | {part: {}})
