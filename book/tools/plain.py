"""Notebooks for Colab and for download: MyST's directives and roles become Markdown that any viewer shows.

Admonitions become quotations, exercises and solutions paragraphs with a bold title, citations names and years, and
glued values the values of the run that the notebook holds.
"""

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nbformat import NotebookNode

from .notebooks import records

FENCE = re.compile(r"^\s*(?P<fence>`{3,}|:{3,}|~{3,})(?:\{(?P<name>[\w:-]+)\}\s*(?P<title>.*)|(?P<language>[^`]*))\s*$")
LABEL = re.compile(r"^\((?P<label>[\w:.-]+)\)=\s*$")
OPTION = re.compile(r"^:(?P<name>[\w-]+):\s*(?P<value>.*)$")
ROLE = re.compile(r"\{(?P<role>[\w:.-]+)\}`(?P<text>[^`]+)`")
TARGET = re.compile(r"^(?P<title>.+?)\s*<(?P<label>[^>]+)>$", re.DOTALL)
INNER_LINK = re.compile(r"(?<!!)\[(?P<title>[^\]]*)\]\((?P<target>#[^)]+|(?!https?:)[^)\s]+\.(?:md|ipynb)[^)]*)\)")
PARAGRAPHS = {"exercise": "Exercise", "solution": "Solution", "solution-start": "Solution"}
QUOTATIONS = {"admonition", "note", "tip", "hint", "important", "warning", "caution", "seealso", "dropdown", "margin"}
VERBATIM = {"code", "code-block", "code-cell", "sourcecode"}
NOTHING = {"bibliography", "solution-end", "exercise-end", "contents", "tableofcontents"}


@dataclass(frozen=True)
class Citation:
    """One entry of the bibliography, as prose names it."""

    authors: str
    year: str
    title: str
    url: str


@dataclass
class Context:
    """What roles refer to: the bibliography, the values a run glued, the titles of labels."""

    cited: dict[str, Citation]
    values: dict[str, str] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)


def citations(bibliography: Path) -> dict[str, Citation]:
    """The entries of a BibTeX file by key."""
    from pybtex.database import parse_file
    from pybtex.richtext import Text

    def text(latex: str) -> str:
        return str(Text.from_latex(latex))

    found = {}
    for key, entry in parse_file(str(bibliography)).entries.items():
        names = [text(" ".join(person.last_names)) for person in entry.persons.get("author", [])]
        authors = " and ".join(names) if len(names) < 3 else f"{names[0]} et al."
        fields = entry.fields
        arxiv = f"https://arxiv.org/abs/{fields['eprint']}" if "eprint" in fields else ""
        doi = f"https://doi.org/{fields['doi']}" if "doi" in fields else ""
        title = text(fields.get("title", key))
        found[key] = Citation(authors or key, fields.get("year", "n.d."), title, fields.get("url") or arxiv or doi)
    return found


def plain(notebook: NotebookNode, cited: dict[str, Citation]) -> NotebookNode:
    """A copy whose Markdown cells need no Sphinx."""
    notebook = copy.deepcopy(notebook)
    prose = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    values = {record["name"]: record["text"] for record in records(notebook) if record["kind"] == "glue"}
    context = Context(cited, values, dict(_titles("\n\n".join(cell.source for cell in prose).splitlines())))
    used = [key for cell in prose for key in _cited_keys(cell.source)]
    for cell in prose:
        cell.source = plain_markdown(cell.source, context)
    notebook.cells = [cell for cell in notebook.cells if cell.cell_type != "markdown" or cell.source]
    if references := [_reference(cited[key]) for key in dict.fromkeys(used) if key in cited]:
        last = copy.deepcopy(prose[-1])
        last.id, last.source = f"{last.id}-references", "## References\n\n" + "\n".join(references)
        notebook.cells.append(last)
    return notebook


def plain_markdown(text: str, context: Context) -> str:
    """One cell's MyST as Markdown.

    Raises:
        KeyError: a citation that the bibliography lacks.
    """
    lines = "\n".join(_lines(text.splitlines(), context))
    return re.sub(r"\n{3,}", "\n\n", lines).strip()


def _lines(lines: list[str], context: Context) -> Iterator[str]:
    lines, prose = list(lines), list[str]()
    while lines:
        line = lines.pop(0)
        if not (match := FENCE.match(line)):
            if not (LABEL.match(line) or line.startswith("% ")):
                prose.append(line)
            continue
        yield _inline("\n".join(prose), context)  # at once, for a role may go over a line's end
        prose = []
        fence, body = match["fence"], []
        while lines and not re.fullmatch(rf"\s*{re.escape(fence[0])}{{{len(fence)},}}\s*", lines[0]):
            body.append(lines.pop(0))
        closing = lines.pop(0) if lines else fence
        if match["name"]:
            yield from ("", *_directive(match["name"], match["title"].strip(), body, context), "")
        else:
            yield from (line, *body, closing)
    yield _inline("\n".join(prose), context)


def _directive(name: str, title: str, body: list[str], context: Context) -> Iterator[str]:
    while body and (OPTION.match(body[0]) or not body[0].strip()):
        body = body[1:]
    if name in NOTHING:
        return
    if name == "math":
        yield from ("$$", *body, "$$")
    elif name in VERBATIM:
        yield from (f"```{title}", *body, "```")
    elif name in QUOTATIONS:
        yield f"> **{_inline(title, context) or name.capitalize()}**"
        yield ">"
        yield from (f"> {line}".rstrip() for line in plain_markdown("\n".join(body), context).splitlines())
    else:
        kind = PARAGRAPHS.get(name) or name.removeprefix("prf:").capitalize()
        about = context.titles.get(title, title) if kind == "Solution" else title
        yield f"**{kind}{': ' if about else ''}{_inline(about, context)}**"
        yield ""
        yield from _lines(body, context)


def _inline(text: str, context: Context) -> str:
    text = re.sub(r"\$\$[ \t]*\([\w:.-]+\)[ \t]*$", "$$", text, flags=re.MULTILINE)  # the label of an equation
    text = ROLE.sub(lambda match: _role(match["role"], " ".join(match["text"].split()), context), text)
    return INNER_LINK.sub(lambda match: match["title"] or _title(match["target"].lstrip("#"), context), text)


def _role(role: str, text: str, context: Context) -> str:
    if role.startswith("cite"):
        entries = [context.cited[key.strip()] for key in text.split(",")]
        if role == "cite:t":
            return ", ".join(f"{entry.authors} ({entry.year})" for entry in entries)
        return "(" + "; ".join(f"{entry.authors}, {entry.year}" for entry in entries) + ")"
    if role.startswith("glue"):
        return context.values.get(text.partition(":")[0], "…")  # before a run there is nothing to show
    if role == "math":
        return f"${text}$"
    if role in ("sub", "sup"):
        return f"<{role}>{text}</{role}>"
    if match := TARGET.match(text):
        return match["title"]
    return _title(text, context) if role in ("ref", "numref", "doc", "prf:ref", "eq") else text


def _title(label: str, context: Context) -> str:
    return context.titles.get(label) or label.rpartition("/")[2].partition(".")[0].replace("-", " ").replace("_", " ")


def _titles(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Labels with the heading that follows them, or with the title of the directive that they are an option of."""
    for i, line in enumerate(lines):
        following = next((text for text in lines[i + 1 :] if text.strip()), "")
        if (match := LABEL.match(line)) and following.startswith("#"):
            yield match["label"], following.lstrip("# ")
            continue
        fence, option = FENCE.match(line), OPTION.match(following)
        if fence and fence["name"] and option and option["name"] in ("label", "name"):
            yield option["value"], fence["title"].strip()


def _cited_keys(text: str) -> list[str]:
    roles = (match["text"] for match in ROLE.finditer(text) if match["role"].startswith("cite"))
    return [key.strip() for keys in roles for key in keys.split(",")]


def _reference(entry: Citation) -> str:
    link = f" <{entry.url}>" if entry.url else ""
    return f"- {entry.authors} ({entry.year}): *{entry.title}*.{link}"
