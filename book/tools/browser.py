"""Opens every page of build/site in headless Chromium, without a network, and says what a reader would stumble over.

`python -m book.tools.browser` skips where there is no Chromium; with `--require` that is a failure. `--screenshots DIR`
also writes a picture of each page, desktop and phone, light and dark.
"""

import functools
import http.server
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from .layout import Book
from .serve import Quiet
from .site import package_file, pages

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page, Request, Response, ViewportSize

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MAC = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
FLAGS = (
    "--no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --hide-scrollbars"
).split()
DESKTOP: "ViewportSize" = {"width": 1280, "height": 900}
PHONE: "ViewportSize" = {"width": 390, "height": 844}
THEMES: tuple[Literal["light"], Literal["dark"]] = ("light", "dark")
RULES = {"light": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"], "dark": ["color-contrast"]}  # only that depends on it
HEAVIEST = 3_000_000  # bytes of a page with everything it loads, but for plotly and for models that live in it
ANSWERED = re.compile("found|did not match")  # what Sphinx's search says when it is done
MOST = 12  # problems printed for a page
PATIENCE = 20_000  # milliseconds until what should appear has to be there

# What WCAG A and AA ask for and axe can decide. Formulas and plots are drawn by others, inside elements with a label.
AXE = """async (runOnly) => {
  const options = {runOnly, resultTypes: ["violations"], preload: false};
  const found = await axe.run({exclude: [["mjx-container"], [".main-svg"]]}, options);
  return found.violations.flatMap(({id, nodes}) => nodes.map((node) =>
    `${id}: ${node.html.slice(0, 120)} ${(node.any[0]?.message ?? "").slice(0, 160)}`));
}"""
FORMULAS = """() => [...document.querySelectorAll("main .math")]
  .filter((e) => !e.querySelector("mjx-container") || e.querySelector("mjx-merror, [data-mjx-error]"))
  .map((e) => e.textContent.trim().slice(0, 60))"""
NAMELESS = """() =>
  [...document.querySelectorAll("main img, main figure svg:not(.main-svg), main .tf-plotly, main canvas")]
  .filter((e) => !(e.getAttribute("alt") ?? e.getAttribute("aria-label") ?? "").trim())
  .map((e) => e.outerHTML.slice(0, 100))"""
TOO_WIDE = """() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  const clipped = (e) => e && e !== document.body &&
    (["auto", "scroll", "hidden", "clip"].includes(getComputedStyle(e).overflowX) || clipped(e.parentElement));
  const wide = [...document.body.querySelectorAll("*")]
    .filter((e) => e.getBoundingClientRect().right > width + 1 && !clipped(e.parentElement))
    .slice(0, 3).map((e) => e.outerHTML.slice(0, 100));
  return wide.length ? wide : [`the page scrolls to ${document.documentElement.scrollWidth} px`];
}"""


@dataclass
class Report:
    """One page: what is wrong with it, what it holds, and how heavy it is."""

    page: str
    problems: list[str] = field(default_factory=list)
    figures: int = 0
    formulas: int = 0
    solutions: int = 0
    bytes: int = 0
    plotly: int = 0  # bytes of plotly's script, which are allowed on top

    def __str__(self) -> str:
        holds = f"{self.formulas:4d} formulas {self.figures:3d} figures {self.solutions:3d} solutions"
        shown = self.problems[:MOST] + ([f"and {len(self.problems) - MOST} more"] if len(self.problems) > MOST else [])
        line = f"{'ok  ' if not self.problems else 'FAIL'} {self.page:42s} {holds} {self.bytes / 1e6:5.2f} MB"
        return "\n".join([line, *(f"       {problem}" for problem in shown)])


def chromium() -> Path | None:
    """The browser of this machine, if it has one."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    return Path(found) if found else MAC if MAC.exists() else None


class Server(http.server.ThreadingHTTPServer):
    """A web server that says nothing when a closed page no longer wants its answer."""

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # as typeshed has it, narrower


@contextmanager
def served(site: Path) -> Iterator[str]:
    """A folder as a website on this machine; yields its address."""
    handler = functools.partial(Quiet, directory=site)
    with Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def reader(executable: Path) -> Iterator["BrowserContext"]:
    """A browser with a profile of its own, which is gone afterwards."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as profile, sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=executable,
            args=FLAGS,
            viewport=DESKTOP,
            color_scheme="light",
            reduced_motion="reduce",
            timeout=6 * PATIENCE,  # a busy machine may take long to start it
        )
        context.set_default_timeout(3 * PATIENCE)
        try:
            yield context
        finally:
            context.close()


def inspect(context: "BrowserContext", address: str, name: str, screenshots: Path | None = None) -> Report:
    """Reads one page as a person would: scrolls, opens solutions, moves sliders, changes theme, takes a phone."""
    report = Report(name)
    page = context.new_page()
    try:
        _listen(page, address, report)
        page.set_viewport_size(DESKTOP)
        page.emulate_media(color_scheme="light")
        page.goto(address + name, wait_until="load")
        page.evaluate("() => window.MathJax?.startup?.promise")
        _formulas(page, report)
        _solutions(page, report)
        _figures(page, report)
        report.problems += [f"no alt text: {element}" for element in page.evaluate(NAMELESS)]
        page.evaluate(_axe())
        for theme in THEMES:
            page.emulate_media(color_scheme=theme)
            page.wait_for_function(f"() => (document.documentElement.dataset.theme ?? '{theme}') === '{theme}'")
            report.problems += [f"{theme}: {violation}" for violation in page.evaluate(AXE, RULES[theme])]
            _picture(page, name, f"desktop-{theme}", screenshots)
        page.set_viewport_size(PHONE)
        report.problems += [f"wider than a phone: {element}" for element in _too_wide(page)]
        for theme in THEMES[::-1] if screenshots else ():
            page.emulate_media(color_scheme=theme)
            _picture(page, name, f"phone-{theme}", screenshots)
    finally:
        page.close()
    if report.bytes > HEAVIEST:
        report.problems.append(
            f"weighs {report.bytes / 1e6:.1f} MB without plotly and live models, more than {HEAVIEST / 1e6:.0f}"
        )
    report.problems = list(dict.fromkeys(report.problems))
    return report


def _listen(page: "Page", address: str, report: Report) -> None:
    """Lets nothing out but requests to the site, and writes down what goes wrong."""

    def route(route: Any) -> None:
        url = route.request.url
        if url.startswith((address, "data:", "blob:")):
            route.continue_()
        else:
            report.problems.append(f"asks {url}, which is not this site")
            route.abort()

    def failed(request: "Request") -> None:
        if request.url.startswith(address):
            report.problems.append(f"request failed: {request.url.removeprefix(address)}")

    def answered(response: "Response") -> None:
        url = response.url.removeprefix(address)
        if response.status >= 400:
            report.problems.append(f"HTTP {response.status}: {url}")
        elif size := int(response.headers.get("content-length", 0)):
            if "plotly.min.js" in url:
                report.plotly += size
            elif not url.endswith(".bin"):  # a live model, at most 600 KB, loaded when it comes near the screen
                report.bytes += size

    page.route("**/*", route)
    page.on("requestfailed", failed)
    page.on("response", answered)
    page.on("pageerror", lambda error: report.problems.append(f"script error: {str(error)[:200]}"))
    page.on(
        "console",
        lambda said: report.problems.append(f"console: {said.text[:200]}") if said.type == "error" else None,
    )


def _formulas(page: "Page", report: Report) -> None:
    report.formulas = page.locator("main .math").count()
    report.problems += [f"formula not typeset: {formula}" for formula in page.evaluate(FORMULAS)]


def _solutions(page: "Page", report: Report) -> None:
    solutions = page.locator("main .solution.dropdown")
    report.solutions = solutions.count()
    for i in range(report.solutions):
        solution = solutions.nth(i)
        content = solution.locator(":scope > *:not(.admonition-title):not(button)").first
        if content.is_visible():
            report.problems.append(f"solution {i + 1} is open from the start")
            continue
        solution.locator("button").first.click()
        try:
            content.wait_for(state="visible", timeout=2000)
        except _timeout():
            report.problems.append(f"solution {i + 1} does not open when asked")


def _figures(page: "Page", report: Report) -> None:
    plots = page.locator("main .tf-plotly")
    report.figures = page.locator("main figure").count()
    for i in range(plots.count()):
        plot = plots.nth(i)
        name = plot.get_attribute("id") or ""
        plot.scroll_into_view_if_needed()
        try:
            plot.locator(".main-svg").first.wait_for(state="attached", timeout=PATIENCE)
        except _timeout():
            report.problems.append(f"figure {name} is not drawn")
            continue
        slider = page.locator(f"[id='{name}-range']")
        if slider.count():
            slider.focus()
            if not _moves(page, name, steps=int(slider.get_attribute("max") or 1)):
                report.problems.append(f"the slider of figure {name} changes nothing")
            page.keyboard.press("Home")
            slider.blur()


def _moves(page: "Page", name: str, steps: int) -> bool:
    """Whether a figure changes somewhere on its slider's way; two neighboring positions may show the same."""
    before = page.locator(f"[id='{name}']").inner_html()
    changed = "([id, before]) => document.getElementById(id).innerHTML !== before"
    for step in range(steps):
        page.keyboard.press("ArrowRight")
        try:
            page.wait_for_function(changed, arg=[name, before], timeout=2000 if step < steps - 1 else 5000)
            return True
        except _timeout():
            pass
    return False


def _too_wide(page: "Page") -> list[str]:
    """What sticks out of the window; plots follow the window's size a little later than the rest."""
    for _ in range(20):
        if not (elements := page.evaluate(TOO_WIDE)):
            return []
        page.wait_for_timeout(100)
    return list(elements)


def _timeout() -> type[Exception]:
    from playwright.sync_api import TimeoutError

    return TimeoutError


@functools.cache
def _axe() -> str:
    return package_file("axe_playwright_python", "axe.min.js").read_text("utf-8")


def _picture(page: "Page", name: str, kind: str, folder: Path | None) -> None:
    if folder is not None:
        page.evaluate("() => scrollTo(0, 0)")
        page.wait_for_timeout(200)
        page.screenshot(path=folder / f"{name.removesuffix('.html').replace('/', '-')}-{kind}.png", full_page=True)


def search(context: "BrowserContext", address: str, phrase: str, expected: str) -> list[str]:
    """Asks the site's search for a phrase; the page that has it must be among the answers."""
    page = context.new_page()
    try:
        page.goto(f"{address}search.html?q={phrase}")
        try:
            page.locator("#search-results .search-summary").filter(has_text=ANSWERED).wait_for(timeout=PATIENCE)
        except _timeout():
            return [f"search for {phrase!r} does not come to an end"]
        found = page.locator(f"#search-results a[href*='{expected}']").count()
        return [] if found else [f"search for {phrase!r} does not find {expected}"]
    finally:
        page.close()


@click.command()
@click.option("--require", is_flag=True, help="Fail where there is no Chromium.")
@click.option(
    "--screenshots", type=click.Path(file_okay=False, path_type=Path), help="Write pictures of all pages here."
)
@click.argument("only", nargs=-1)
def main(require: bool, screenshots: Path | None, only: tuple[str, ...]) -> None:
    """Opens every page of build/site (or those named) in headless Chromium."""
    book, executable, start = Book(), chromium(), time.perf_counter()
    if executable is None:
        click.echo(f"browser check skipped: no Chromium (looked for {', '.join(NAMES)})")
        sys.exit(1 if require else 0)
    if screenshots:
        screenshots.mkdir(parents=True, exist_ok=True)
    names = [name for name in pages(book) if not only or any(part in name for part in only)]
    with served(book.build / "site") as address, reader(executable) as context:
        reports = []
        for name in names:
            reports.append(inspect(context, address, name, screenshots))
            click.echo(str(reports[-1]))
        problems = [problem for report in reports for problem in report.problems]
        if not only:
            chapter = next(iter(book.chapters.values())).relative_to(book.root).with_suffix(".html")
            title = (book.build / "site" / chapter).read_text("utf-8").partition("<title>")[2].partition(" &#8212;")[0]
            problems += search(context, address, title.partition(". ")[2] or title, str(chapter))
    seconds = time.perf_counter() - start
    click.echo(f"browser check: {len(names)} pages, {len(problems)} problems, {seconds:.0f} s")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
