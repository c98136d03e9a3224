"""The built book in Chromium without a network: what loads, what is broken, who can read it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup

from labkit.errors import RunError

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
GRAVE = ("serious", "critical")
READY = "() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))"
BROKEN = "() => [...document.images].filter((i) => i.complete && !i.naturalWidth).map((i) => i.src)"
SILENT = "() => [...document.images].filter((i) => !i.hasAttribute('alt')).map((i) => i.src)"
PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0"
WIDER = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
PAGES = "span[id^='document-'] + section { break-before: page; }"  # where the book's pages were joined
FOOT = '<p style="font-size: 8px; width: 100%; text-align: center" class="pageNumber"></p>'
STILL = "* { transition: none !important; animation: none !important; }"
OPTIONS = "preload: false, resultTypes: ['violations']"
SHOWN = """({violations}) => violations.map((found) =>
  [found.impact, found.id, found.nodes.slice(0, 3).map((node) => node.target.join(' ')).join('; ')])"""
RULES = f"() => axe.run({{{OPTIONS}, rules: {{'color-contrast': {{enabled: false}}}}}}).then({SHOWN})"
# Contrast takes longer than all other rules, and is one where letters and ground are: three places of each.
CONTRAST = f"""() => {{
  const ground = (node) => {{
    const style = getComputedStyle(node);
    const solid = !/, 0\\)$|transparent/.test(style.backgroundColor);
    const own = [style.backgroundColor, style.backgroundImage, style.opacity].join();
    return own + (solid || !node.parentElement ? '' : ground(node.parentElement));
  }};
  const places = {{}};
  for (const node of document.querySelectorAll('body *')) {{
    const speaks = [...node.childNodes].some((part) => part.nodeType === Node.TEXT_NODE && part.data.trim());
    if (!speaks || !node.checkVisibility()) continue;
    const style = getComputedStyle(node);
    const kind = [style.color, style.fontSize, style.fontWeight, ground(node)].join();
    (places[kind] ??= []).push(node);
  }}
  const include = Object.values(places).flatMap((nodes) => nodes.slice(0, 3));
  return axe.run({{include}}, {{{OPTIONS}, runOnly: ['color-contrast']}}).then({SHOWN});
}}"""
DARK = "() => { document.documentElement.dataset.theme = 'dark'; }"


@dataclass(frozen=True)
class Visit:
    """What was found on one page."""

    page: str
    requests: int
    failed: tuple[str, ...]  # requests that failed, or that left the book
    errors: tuple[str, ...]  # of the console and of scripts
    pictures: tuple[str, ...]  # broken, or without alt text
    axe: tuple[str, ...]  # serious and critical findings, on light and dark pages
    wider: int  # pixels that a phone would have to scroll sideways
    kilobytes: int  # the page and its pictures
    picture_kilobytes: int  # the largest of them
    paint: int  # milliseconds to the first paint

    @property
    def findings(self) -> tuple[tuple[str, ...], ...]:
        """Everything that should be empty."""
        return self.failed, self.errors, self.pictures, self.axe


def chromium() -> str | None:
    """Where Chromium is, if it is installed."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def pages(html: Path) -> list[Path]:
    """Every page of the built book but redirects."""
    found = sorted(html.rglob("*.html"))
    return [page for page in found if "_static" not in page.parts and page.name != "index.html"]


def visit_all(html: Path) -> list[Visit]:
    """Open every page, as on a desk, as on a phone, and in the dark."""
    with _context() as context:
        return [_visit(context, page, html) for page in pages(html)]


def report(html: Path) -> str:
    """A table of what every page asks for and weighs, and under it everything that is wrong."""
    visits = visit_all(html)
    if not visits:
        raise RunError("there is no book to visit yet.", mend="make book")
    widths = f"{max(len(visit.page) for visit in visits)}"
    lines = [f"{'page':{widths}}  requests  failed  errors  pictures  axe  wider  kB  largest kB  paint ms"]
    for visit in visits:
        counts = (visit.requests, *(len(found) for found in visit.findings), visit.wider)
        weights = (visit.kilobytes, visit.picture_kilobytes, visit.paint)
        lines.append(f"{visit.page:{widths}}  " + "  ".join(map(str, (*counts, *weights))))
    wrong = [f"{visit.page}: {line}" for visit in visits for found in visit.findings for line in found]
    return "\n".join([*lines, *wrong, *(f"dead link {link}" for link in dead_links(html))])


def dead_links(html: Path) -> list[str]:
    """Links within the book that lead to no file or to no place in it."""
    return [
        f"{page.relative_to(html)}: {link}"
        for page in pages(html)
        for link in sorted(_links(page))
        if _is_dead(page, link)
    ]


def print_pdf(page: Path, target: Path) -> Path:
    """Print one page as a PDF with an outline."""
    with _context() as context:
        tab = context.new_page()
        tab.goto(page.resolve().as_uri())
        tab.add_style_tag(content=STILL + PAGES)
        tab.evaluate("() => document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        tab.evaluate(READY)
        target.parent.mkdir(parents=True, exist_ok=True)
        margin = {"top": "18mm", "bottom": "18mm", "left": "16mm", "right": "16mm"}
        shape = {"format": "A4", "margin": margin, "outline": True, "tagged": True}
        tab.pdf(
            path=str(target), display_header_footer=True, footer_template=FOOT, header_template=" ", **shape
        )
    return target


@contextmanager
def _context() -> Iterator["BrowserContext"]:
    from playwright.sync_api import sync_playwright

    path = chromium()
    if path is None:
        raise RunError(
            "Chromium was not found.", mend="install it: on Debian and Ubuntu, apt install chromium"
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser.new_context(offline=True, viewport=DESKTOP, color_scheme="light")
        browser.close()


def _visit(context: "BrowserContext", page: Path, html: Path) -> Visit:
    tab = context.new_page()
    asked, failed, errors = [], [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("requestfailed", lambda request: failed.append(request.url))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    tab.goto(page.resolve().as_uri())
    tab.evaluate(READY)
    remote = [url for url in asked if urlsplit(url).scheme not in ("file", "data", "blob")]
    pictures = [*tab.evaluate(BROKEN), *tab.evaluate(SILENT)]
    paint = round(tab.evaluate(PAINT))
    axe = _axe(tab)
    tab.set_viewport_size(PHONE)
    tab.evaluate(READY)
    wider = tab.evaluate(WIDER)
    tab.close()
    own = [Path(unquote(urlsplit(url).path)) for url in asked if "/_images/" in url]
    sizes = [path.stat().st_size for path in set(own) if path.exists()]
    return Visit(
        page=str(page.relative_to(html)),
        requests=len(asked),
        failed=tuple(failed + remote),
        errors=tuple(errors),
        pictures=tuple(pictures),
        axe=tuple(axe),
        wider=wider,
        kilobytes=round((page.stat().st_size + sum(sizes)) / 1000),
        picture_kilobytes=round(max(sizes, default=0) / 1000),
        paint=paint,
    )


def _axe(tab: "Page") -> list[str]:
    tab.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
    tab.add_style_tag(content=STILL)
    found = [("light", *finding) for rules in (RULES, CONTRAST) for finding in tab.evaluate(rules)]
    tab.evaluate(DARK)
    tab.evaluate(READY)
    found += [("dark", *finding) for finding in tab.evaluate(CONTRAST)]
    return [f"{page}: {rule} ({where})" for page, impact, rule, where in found if impact in GRAVE]


@cache
def _parsed(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


def _links(page: Path) -> set[str]:
    found = {anchor["href"] for anchor in _parsed(page).find_all("a", href=True)}
    return {link for link in found if not urlsplit(link).scheme and link != "#"}


def _is_dead(page: Path, link: str) -> bool:
    parts = urlsplit(link)
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not target.exists():
        return True
    if not parts.fragment or target.suffix != ".html":
        return False
    return _parsed(target).find(id=unquote(parts.fragment)) is None
