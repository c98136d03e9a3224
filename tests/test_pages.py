"""Every page of the built book as a reader meets it: in Chromium, from disk, without a network."""

import nbformat
import pytest
from bs4 import BeautifulSoup

from labkit import chapters
from labkit.book import browser, furniture

KILOBYTES, PICTURE_KILOBYTES = 2000, 400


@pytest.fixture(scope="module")
def html(built):
    return built / "_build" / "html"


@pytest.fixture(scope="module")
def visits(html):
    if browser.chromium() is None:
        pytest.skip("Chromium is not installed")
    pytest.importorskip("axe_playwright_python", reason="axe is not installed")
    return browser.visit_all(html)


def test_every_page_was_visited(visits, html):
    assert {visit.page for visit in visits} >= {"book/intro.html", "book/scoreboard.html", "search.html"}
    assert len(visits) == len(browser.pages(html)) > 20


@pytest.mark.parametrize("finding", ["failed", "errors", "pictures", "axe"])
def test_no_page_has_a(finding, visits):
    assert {visit.page: found for visit in visits if (found := getattr(visit, finding))} == {}


def test_no_page_is_wider_than_a_phone(visits):
    assert {visit.page: visit.wider for visit in visits if visit.wider > 0} == {}


def test_pages_and_pictures_are_small(visits):
    assert [visit.page for visit in visits if visit.kilobytes > KILOBYTES] == []
    assert [visit.page for visit in visits if visit.picture_kilobytes > PICTURE_KILOBYTES] == []


@pytest.mark.parametrize("chapter", chapters.CHAPTERS)
def test_every_picture_of_a_chapter_is_a_numbered_figure(chapter, built, html):
    executed = nbformat.read(built / "_build" / "executed" / f"{chapter}.ipynb", as_version=4)
    page = BeautifulSoup((html / "notebooks" / f"{chapter}.html").read_text(), "html.parser")
    numbers = [number.text for number in page.select("figcaption .caption-number")]
    place = 1 + list(chapters.CHAPTERS).index(chapter)
    assert numbers == [f"Fig. {place}.{1 + k} " for k in range(sum(map(furniture.pictures, executed.cells)))]
    assert numbers


def test_no_link_within_the_book_is_dead(html):
    assert browser.dead_links(html) == []


def test_a_dead_link_a_dead_anchor_and_a_good_one(tmp_path):
    (tmp_path / "a.html").write_text('<a href="b.html">.</a><a href="c.html">.</a><a href="b.html#x">.</a>')
    (tmp_path / "b.html").write_text('<p id="y"><a href="#y">.</a><a href="https://example.org">.</a></p>')
    assert browser.dead_links(tmp_path) == ["a.html: b.html#x", "a.html: c.html"]


def test_a_broken_page_is_seen(tmp_path):
    if browser.chromium() is None:
        pytest.skip("Chromium is not installed")
    pytest.importorskip("axe_playwright_python", reason="axe is not installed")
    (tmp_path / "page.html").write_text(
        '<html lang="en"><title>A</title><style>[data-theme=dark] i { color: #222; background: #000 }</style>'
        '<body><img src="gone.png"><p style="width: 900px">wide</p><b style="color: #ddd">pale</b><i>dim</i>'
        '<script src="http://127.0.0.1:9/x.js"></script><script>undefinedName()</script></body></html>'
    )
    (visit,) = browser.visit_all(tmp_path)
    told = browser.report(tmp_path)
    assert told.splitlines()[1].startswith("page.html ") and f"page.html: {visit.errors[0]}" in told
    assert any("gone.png" in url for url in visit.failed) and any("x.js" in url for url in visit.failed)
    assert any("undefinedName" in error for error in visit.errors)
    assert visit.pictures and visit.wider > 0
    assert any("image-alt" in finding for finding in visit.axe)
    contrast = [finding for finding in visit.axe if "color-contrast" in finding]
    assert [finding.split(":")[0] for finding in contrast] == ["light", "dark"]
    assert "(b)" in contrast[0] and "b; i" in contrast[1]
