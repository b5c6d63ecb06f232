"""The website: `python -m book.tools.site build` makes build/site from executed chapters, `check` looks it over.

Pages are book/pages/*.md and the executed notebooks, in the order of _toc.yml. A page may hold lines of the form
`<!-- generated: NAME -->`, which are replaced:

- notation, systems, scoreboard: tables from data/ (book/tools/tables.py);
- landing: an interactive figure or a live model of a chapter, as its run left it: of the cell tagged `landing`, or
  without such a cell the first in the book.

`{repository}` in a page becomes the repository's address, which only pyproject.toml knows. Each chapter gets a line
below its title: where to run it, downloads, and which run it shows.
"""

import base64
import copy
import hashlib
import importlib.util
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import click
import nbformat
from nbformat import NotebookNode

from tformerlib.claims import Claim, LedgerError, Verdict, load_ledger, row, verdict
from tformerlib.claims.card import anchor

from . import diagrams
from .execute import intact
from .exercises import ExerciseError, stubs, tested, work
from .exercises import for_page as exercises_for_page
from .layout import Book
from .notation import NotationError
from .notebooks import MIME, dumps, records, tags
from .plain import Citation, citations, plain
from .scoreboard import as_crate, as_csv
from .tables import GENERATED, PageError, esc, raw, refreshed_card
from .verdicts import ProseError, resolved

MARKER = re.compile(r"^<!-- generated: ([\w-]+) -->$", re.MULTILINE)
TITLE = re.compile(r"^# .+$", re.MULTILINE)
NOTEBOOK_BRANCH = "notebooks"  # where executed notebooks are published as plain files, for Colab
# Of MathJax's 24 MB: what TeX to HTML can ask for.
MATHJAX = ("tex-chtml.js", "output/chtml/fonts/woff-v2", "input/tex/extensions")
# 1.5 MB that draw a dozen icons; without it the theme's style sheet draws the same ones from a font of 0.15 MB.
# For the theme's search as one types, which is off; the index grows with the book. Only search.html needs it.
SEARCH_INDEX = re.compile(r'<script src="[^"]*(?:searchtools|language_data|searchindex)\.js"></script>\s*')
FONT_AWESOME = re.compile(r"\s*<script[^>]*scripts/fontawesome\.js[^>]*></script>")
ROLES = re.compile(r' role="(?:doc-biblioentry|list)"')  # docutils' for citations: deprecated, and wrongly nested


class SiteError(Exception):
    """The site cannot be built, or is not as it should be; the message says where."""


# --- sources ------------------------------------------------------------------------------------------------------


def assemble(book: Book) -> Path:
    """Writes the sources of the site to build/source, leaving what did not change untouched for Sphinx's sake."""
    target = book.build / "source"
    files: dict[str, str | bytes | Path] = {
        "_toc.yml": book.root / "_toc.yml",
        "references.bib": book.root / "book" / "references.bib",
        "assets/plotly.min.js": package_file("plotly", "package_data/plotly.min.js"),
    }
    for asset in sorted((book.root / "book" / "assets").rglob("*")):
        if asset.is_file():
            files[f"assets/{asset.relative_to(book.root / 'book' / 'assets')}"] = asset
    notebooks = {name: executed(book, name) for name in book.chapters}
    for name, notebook in notebooks.items():
        files |= live_models(name, notebook)
    files["assets/ledger.csv"], files["assets/ro-crate-metadata.json"] = as_csv(book), as_crate(book)
    cited, ledger = citations(book.root / "book" / "references.bib"), load_ledger(book.root / "data" / "claims")
    for page in sorted((book.root / "book" / "pages").glob("*.md")):
        files[page.name] = fill(book, page, notebooks)
    for name, path in book.chapters.items():
        place = path.relative_to(book.root)
        files[f"extra/{place}"] = path.read_text("utf-8").replace("{repository}", book.repository)
        solved = with_verdicts(book, notebooks[name], ledger)
        files[f"extra/{place.with_suffix('.ipynb')}"] = dumps(plain(solved, cited))
        files[f"extra/{place.with_name(f'{name}-work.ipynb')}"] = dumps(plain(work(solved), cited))
        files[str(place.with_suffix(".ipynb"))] = dumps(stamped(book, name, notebooks[name], ledger, cited))
    for name, content in files.items():
        text = content.read_bytes() if isinstance(content, Path) else content
        text = text.encode() if isinstance(text, str) else text
        path = target / name
        if not path.exists() or path.read_bytes() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text)
    for path in target.rglob("*"):
        if path.is_file() and str(path.relative_to(target)) not in files:
            path.unlink()
    return target


def executed(book: Book, name: str) -> NotebookNode:
    """A chapter's executed notebook in profile quick.

    Raises:
        SiteError: it was never executed, or a code cell of it was not, or it is not what its run left.
    """
    path = book.executed(name)
    if not path.exists():
        raise SiteError(f"chapter {name} has not been executed: {path.relative_to(book.root)} is missing")
    if intact(path) is None:
        again = f"python -m book.tools.execute {name}"
        raise SiteError(f"{path.relative_to(book.root)} was damaged or edited after its run; run {again}")
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.source.strip() and cell.execution_count is None:
            raise SiteError(f"chapter {name}: cell {cell.id} was not executed")
    return notebook


def provenance(book: Book, name: str) -> dict[str, Any]:
    """What the runner wrote down about a chapter's run."""
    return dict(json.loads(book.executed(name).with_suffix(".json").read_text("utf-8")))


def fill(book: Book, page: Path, notebooks: dict[str, NotebookNode]) -> str:
    """A page with its generated parts in place."""

    def part(match: re.Match[str]) -> str:
        name = match[1]
        if name == "landing":
            return landing(notebooks)
        if name not in GENERATED:
            raise SiteError(f"{page.name} asks for {name!r}; generated are landing, {', '.join(GENERATED)}")
        return GENERATED[name](book)

    text = MARKER.sub(part, page.read_text("utf-8").replace("{repository}", book.repository))
    ledger = load_ledger(book.root / "data" / "claims")

    def link(id: str) -> str:
        return f"{book.chapters[ledger[id].chapter].relative_to(book.root).with_suffix('.html')}#{anchor(id)}"

    return diagrams.for_page(resolved(text, lambda id: judged(book, row(id, ledger)), link))


def judged(book: Book, claim: Claim) -> Verdict:
    """A claim as the book's records judge it."""
    return verdict(claim, book.root / "data" / "results")


def with_verdicts(book: Book, notebook: NotebookNode, ledger: dict[str, Claim]) -> NotebookNode:
    """A copy for downloads: verdicts in words, diagrams as images, models that live in the page left out."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            said = resolved(cell.source, lambda id: judged(book, row(id, ledger)))
            cell.source = diagrams.for_notebook(said)
        else:
            cell.outputs = [o for o in cell.outputs if o.get("data", {}).get(MIME, {}).get("kind") != "live"]
    return notebook


def live_models(name: str, notebook: NotebookNode) -> dict[str, str | bytes | Path]:
    """The files of the models that live in a chapter's page.

    Raises:
        SiteError: weights that are not those which were exported.
    """
    files: dict[str, str | bytes | Path] = {}
    for record in records(notebook):
        if record["kind"] == "live":
            data = base64.b64decode(record["weights"])
            if hashlib.sha256(data).hexdigest() != record["about"]["sha256"]:
                raise SiteError(f"chapter {name}: the weights of {record['name']} are not those that were exported")
            files[f"assets/live/models/{record['name']}.json"] = json.dumps(record["about"])
            files[f"assets/live/models/{record['about']['file']}"] = data
    return files


def landing(notebooks: dict[str, NotebookNode]) -> str:
    """The interactive figure or live model of a cell tagged `landing`, or of the first cell that has one."""
    cells = [cell for notebook in notebooks.values() for cell in notebook.cells if cell.cell_type == "code"]
    for cell in sorted(cells, key=lambda cell: "landing" not in tags(cell)):
        for output in cell.outputs:
            figure = output.get("data", {}).get("text/html", "")
            if "tf-interactive" in figure or "tf-alive" in figure:
                return raw([figure])
    raise SiteError("no chapter shows an interactive figure, and the landing page needs one")


def stamped(
    book: Book, name: str, notebook: NotebookNode, ledger: dict[str, Claim], cited: dict[str, Citation]
) -> NotebookNode:
    """The notebook as the site shows it: below its title a line to run it elsewhere, take it along, know its run."""
    notebook = copy.deepcopy(notebook)
    checks = tested(sorted(stubs(notebook)))
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            said = resolved(cell.source, lambda id: judged(book, row(id, ledger)), lambda id: f"#{anchor(id)}")
            cell.source = exercises_for_page(diagrams.for_page(said), checks)
        else:
            cell.outputs = [o for o in cell.outputs if o.get("data", {}).get(MIME, {}).get("kind") != "live"]
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        data = output.get("data", {})
        if (record := data.get(MIME, {})).get("kind") == "claim":
            data["text/html"] = refreshed_card(book, record, ledger, cited)
        for mime in [mime for mime in data if mime.startswith("application/vnd.")]:
            del data[mime]  # records and JupyterLab's plotly: not for this page, which leaves some outputs empty
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if "data" not in output or any(output.data.values())]
        if "bootstrap" in tags(cell):
            cell.metadata.tags.append("hide-input")  # of no interest to who reads here
    cell = notebook.cells[0]
    title = TITLE.search(cell.source)
    if cell.cell_type != "markdown" or title is None:
        raise SiteError(f"chapter {name} does not begin with a markdown cell that has a title")
    cell.source = f"{cell.source[: title.end()]}\n\n{stamp(book, name)}\n{cell.source[title.end() :]}"
    return notebook


def stamp(book: Book, name: str) -> str:
    """Badge, downloads and provenance of a chapter, as HTML in Markdown."""
    run, file = provenance(book, name), book.chapters[name].name
    slug = urlparse(book.repository).path
    colab = f"https://colab.research.google.com/github{slug}/blob/{NOTEBOOK_BRANCH}/{name}.ipynb"
    threads = f"{run['threads']} thread{'s' if run['threads'] > 1 else ''}"
    machine = ", ".join([run["device"], threads, run["isa"], f"torch {run['torch']}", f"Python {run['python']}"])
    commit = run["commit"]
    link = (
        f'<a href="{book.repository}/commit/{esc(commit.rstrip("+"))}">{esc(commit[:12])}</a>' if commit else "unknown"
    )
    when = f"<time>{run['date'][:10]}</time> in {run['seconds']:.0f} s"
    return raw(
        [
            '<div class="tf-stamp">',
            f'<p class="tf-actions"><a class="tf-run" href="{colab}">Open in Colab</a>'
            f'<a href="{name}-work.ipynb" download>Notebook <small>to work in</small></a>'
            f'<a href="{name}.ipynb" download>Notebook <small>with solutions</small></a>'
            f'<a href="{file}" download>Source <small>.py</small></a></p>',
            f"<p>Executed on {when}, profile <code>{run['profile']}</code>, seed {run['seed']}, commit {link} "
            f"<span>({esc(machine)})</span></p></div>",
        ]
    )


def package_file(package: str, path: str) -> Path:
    """A file or folder inside an installed package."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise SiteError(f"the package {package} is not installed")
    return Path(spec.origin).parent / path


# --- Sphinx -------------------------------------------------------------------------------------------------------


def settings(book: Book) -> dict[str, Any]:
    """What _config.yml cannot know: addresses that follow from the repository's, and the commit."""
    _, owner, name = urlparse(book.repository).path.split("/")
    address = f"https://{owner}.github.io/{name}/"
    footer = (
        f'<p>Text <a href="https://creativecommons.org/licenses/by/4.0/">CC BY 4.0</a>, code MIT. '
        f'<a href="{book.repository}">Repository</a>. Built from {esc(commit(book.root))}.</p>'
    )
    return {
        "html_baseurl": address,
        "ogp_site_url": address,
        "ogp_site_name": "The Reproducible Transformer",
        "ogp_enable_meta_description": True,
        "ogp_social_cards": {"image_mini": "assets/mark.png", "line_color": "#2a78b8"},
        "bibtex_cite_id": "ref-{key}",
        "html_theme_options": {"extra_footer": footer, "repository_url": book.repository},
    }


def commit(root: Path) -> str:
    """The commit that is checked out, with its date; words where there is none."""
    git = ["git", "-C", str(root), "log", "-1", "--abbrev=12", "--format=commit %h of %cs"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError):  # no git program, no clone
        return "an unpacked archive"


def build(book: Book) -> Path:
    """Assembles the sources, runs Sphinx with warnings as errors, and puts the finished site in build/site.

    Raises:
        SiteError, PageError: the site of the last good build stays.
    """
    source, made = assemble(book), book.build / "html"
    if run_sphinx(book, source, made) != 0:
        shutil.rmtree(book.build / "doctrees")  # or the next build would not read those pages again, and not complain
        raise SiteError("Sphinx reported the warnings or errors above")
    return finish(book, made)


def run_sphinx(book: Book, source: Path, made: Path) -> int:
    """Sphinx with jupyter-book's configuration and ours; the exit status, non-zero after any warning."""
    from jupyter_book.config import get_final_config
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace, patch_docutils

    config, _ = get_final_config(
        user_yaml=book.root / "_config.yml",
        cli_config={**settings(book), "latex_individualpages": False},
        sourcedir=source,
    )
    del config["comments_config"]  # jupyter-book sets it for an extension that we do not load
    os.environ.pop("SOURCE_DATE_EPOCH", None)  # Sphinx would take it for the year of the copyright
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # the social cards' font has no bold face
    with patch_docutils(None), docutils_namespace(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.distributed.reduce_op`")  # an extension looks at all live objects
        app = Sphinx(
            source,
            confdir=None,
            outdir=made,
            doctreedir=book.build / "doctrees",
            buildername="html",
            confoverrides=config,
            status=None,
            warning=sys.stderr,
            warningiserror=True,
            keep_going=True,
        )
        app.build(force_all=True)  # reads what changed, writes all: Sphinx does not see that a style sheet changed
    return int(app.statuscode)


def finish(book: Book, made: Path) -> Path:
    """Copies Sphinx's output to build/site: with MathJax, without what no page uses."""
    new, site = book.build / "site.new", book.build / "site"
    shutil.rmtree(new, ignore_errors=True)
    shutil.copytree(
        made,
        new,
        ignore=shutil.ignore_patterns("*.map", ".buildinfo*", "objects.inv", "fontawesome.js*", "*.ttf", "locales"),
    )
    wanted = pages(book)
    for page in new.rglob("*.html"):
        if str(page.relative_to(new)) not in wanted and not str(page.relative_to(new)).startswith("_static"):
            page.unlink()  # of a page that has left the table of contents
            continue
        text = page.read_text("utf-8")
        for unused in (FONT_AWESOME, ROLES, *([] if page.name == "search.html" else [SEARCH_INDEX])):
            text = unused.sub("", text)
        page.write_text(text, "utf-8")
    mathjax = package_file("sphinx-mathjax-offline", "static/mathjax")
    for part in MATHJAX:
        copy = shutil.copytree if (mathjax / part).is_dir() else shutil.copy
        (new / "_static" / "mathjax" / part).parent.mkdir(parents=True, exist_ok=True)
        copy(mathjax / part, new / "_static" / "mathjax" / part)
    old = book.build / "site.old"
    if site.exists():
        site.rename(old)
    new.rename(site)
    shutil.rmtree(old, ignore_errors=True)
    return site


def pages(book: Book) -> list[str]:
    """The pages that the site must have: the table of contents' and Sphinx's own."""
    return [f"{entry}.html" for entry in book.entries] + ["search.html", "genindex.html"]


# --- checks -------------------------------------------------------------------------------------------------------


def check(book: Book) -> list[str]:
    """What is wrong with build/site as files: pages, links and anchors, alt text, things from elsewhere."""
    from lxml import html as parser

    site = book.build / "site"
    wanted = pages(book)
    problems = [f"{page}: missing" for page in wanted if not (site / page).exists()]
    trees = {page: parser.parse(str(site / page)).getroot() for page in wanted if (site / page).exists()}
    ids = {page: set(tree.xpath("//@id")) for page, tree in trees.items()}
    for page, tree in trees.items():
        problems += [f"{page}: {problem}" for problem in _faults(site, page, tree, ids)]
    return problems


def _faults(site: Path, page: str, tree: Any, ids: dict[str, set[str]]) -> Iterator[str]:
    for element in tree.xpath("//script[@src]|//link[@href][@rel='stylesheet' or @rel='preload' or @rel='icon']|//img"):
        address = element.get("src") or element.get("href")
        if urlparse(address).netloc:
            yield f"loads {address} from elsewhere"
        elif not address.startswith("data:") and not (site / page).parent.joinpath(urlparse(address).path).exists():
            yield f"needs {address}, which is not there"
    for image in tree.xpath("//img[not(@alt)]|//*[@role='img'][not(@aria-label)]"):
        yield f"<{image.tag} {dict(image.attrib)}> has no alt text"
    for link in tree.xpath("//main//a/@href"):
        parts = urlparse(link)
        if parts.scheme or parts.netloc:
            continue
        target = ((site / page).parent / parts.path if parts.path else site / page).resolve()
        if not target.exists():
            yield f"links to {link}, which is not there"
            continue
        there = ids.get(str(target.relative_to(site.resolve())))
        if parts.fragment and there is not None and parts.fragment not in there:
            yield f"links to {link}, but that page has no such part"
    for error in tree.xpath("//*[contains(@class, 'traceback')]"):
        yield f"shows an error: {error.text_content().strip()[:80]}"


@click.group()
def main() -> None:
    """Builds and checks the website."""


@main.command("build")
def build_command() -> None:
    """Makes build/site from the executed chapters."""
    book = Book()
    try:
        site = build(book)
    except (SiteError, PageError, NotationError, LedgerError, ProseError, ExerciseError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"site: {site / 'index.html'}", err=True)


@main.command("check")
def check_command() -> None:
    """Looks build/site over; prints what is wrong and exits with 1 if anything is."""
    book = Book()
    problems = check(book)
    for problem in problems:
        click.echo(problem, err=True)
    if problems:
        raise click.ClickException(f"{len(problems)} problems in build/site")
    click.echo(f"site: {len(pages(book))} pages, no problem found", err=True)


if __name__ == "__main__":
    main()
