"""The built book: complete, local, free of what belongs to the log; and never replaced by a broken one."""

import re
import subprocess
import sys

import pytest
import yaml
from bs4 import BeautifulSoup

from labkit import chapters
from labkit.book import pages
from labkit.errors import RunError


@pytest.fixture(scope="module")
def html(built):
    return built / "_build" / "html"


def page(html, name):
    return (html / name).read_text(encoding="utf-8")


def test_every_page_of_the_contents_is_there(built, html):
    assert pages.missing_pages(built / "_build" / "stage" / "_toc.yml", html) == []
    assert (html / "index.html").is_file()


def test_no_directive_is_shown_as_text(html):
    shown = {
        path.name: found
        for path in html.rglob("*.html")
        if (found := re.findall(r"[`~:]{3,}\{\w+\}[^<\n]*", path.read_text(encoding="utf-8")))
    }
    assert shown == {}


@pytest.mark.parametrize("chapter", chapters.CHAPTERS)
def test_a_chapters_page_shows_its_parameters_and_the_command_that_makes_it(chapter, html):
    text = page(html, f"notebooks/{chapter}.html")
    assert "This page was run with" in text
    assert re.search(rf"papermill.*notebooks/{chapter}\.ipynb", re.sub(r"<[^>]+>", "", text))
    for parameter in chapters.parameters(chapter):
        assert f">{parameter.name}<" in text
    assert "injected-parameters" not in text and "# Parameters" not in text


@pytest.mark.parametrize("chapter", chapters.CHAPTERS)
def test_a_chapters_page_holds_no_standard_error_and_no_progress_bar(chapter, html):
    text = page(html, f"notebooks/{chapter}.html")
    assert not re.search(r"oneDNN|cuda_|TF_ENABLE|\d+/\d+ \[|\x1b\[|Epoch \d+/\d+", text)
    assert 'class="output stderr' not in text


def test_a_page_says_when_it_was_executed_and_whether_that_still_holds(html):
    says = {name: page(html, f"notebooks/{name}.html") for name in chapters.CHAPTERS}
    executed = {name for name, text in says.items() if re.search(r"Executed \d\d \w+ 20\d\d in ", text)}
    assert executed == {"noisy_cifar", "animals", "dual_cifar"}
    assert {name for name, text in says.items() if "This page is stale" in text} == {"animals"}
    assert "<code" in page(html, "book/status.html") and "labkit/augment.py" in page(html, "book/status.html")


def test_a_variant_has_a_page_of_its_own_below_its_chapter(html):
    (name,) = (path.stem for path in (html / "notebooks").glob("dual_cifar-*.html"))
    text = page(html, f"notebooks/{name}.html")
    assert "Two images in one: seed 1" in text and "This page is a variant" in text
    assert f"{name}.html" in page(html, "notebooks/dual_cifar.html")
    assert (html / "notebooks" / "dual_cifar.html").stat().st_size > 10_000


def test_every_mistake_on_a_page_is_answered(html):
    answers = BeautifulSoup(page(html, "book/messages.html"), "html.parser").select(".highlight-text pre")
    assert len(answers) > 100
    for answer in answers:
        assert "Expected" in answer.text or "built again" in answer.text or "To mend it" in answer.text


def test_pages_take_scripts_styles_and_mathjax_from_the_book_itself(html):
    assert (html / "_static" / "mathjax" / "tex-svg.js").is_file()
    for path in html.rglob("*.html"):
        remote = re.findall(
            r'<(?:script|img|link rel="(?:stylesheet|preload|icon)")[^>]*(?:src|href)="(https?:[^"]+)',
            page(html, path),
        )
        assert remote == [], path.name


def test_missing_pages_are_named(tmp_path):
    contents = {"root": "book/intro", "parts": [{"chapters": [{"file": "a", "sections": [{"file": "b"}]}]}]}
    (tmp_path / "_toc.yml").write_text(yaml.safe_dump(contents))
    for name in ("index.html", "a.html"):
        (tmp_path / name).touch()
    assert pages.missing_pages(tmp_path / "_toc.yml", tmp_path) == ["book/intro.html", "b.html"]


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """A staged book whose one page links to nothing, beside a book that was built before."""
    staged = tmp_path / "_build" / "stage"
    staged.mkdir(parents=True)
    (staged / "_toc.yml").write_text("format: jb-book\nroot: page\n")
    (staged / "_config.yml").write_text("title: A book\nonly_build_toc_files: true\n")
    (staged / "page.md").write_text("# A page\n\n[](nowhere.md)\n")
    old = tmp_path / "_build" / "html"
    old.mkdir()
    (old / "index.html").write_text("the old book")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pages, "stage", lambda: staged)
    return tmp_path


def test_a_warning_fails_the_build_is_shown_and_leaves_the_old_book(broken):
    log = broken / "pages.log"
    with pytest.raises(RunError, match=r"nowhere\.md") as failure:
        pages.pages(log)
    assert str(log) in str(failure.value) and "WARNING" in log.read_text()
    assert (broken / "_build" / "html" / "index.html").read_text() == "the old book"


def test_a_complete_book_takes_the_place_of_the_old_one(broken):
    (broken / "_build" / "stage" / "page.md").write_text("# A page\n\nWith text.\n")
    index = pages.pages(broken / "pages.log")
    assert index.is_file() and "the old book" not in index.read_text()
    assert "With text." in (broken / "_build" / "html" / "page.html").read_text()
    assert not (broken / "_build" / "html.old").exists()


def test_pages_are_generated_without_loading_keras():
    code = "import sys; from labkit.book import generated; print({'keras', 'tensorflow'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"
