import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
CITED = re.compile(r"(?:arXiv:|doi:)([\w./()-]*\w)")


def test_every_paper_cited_in_the_package_or_on_a_page_is_in_the_bibliography():
    known = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    texts = {
        path: path.read_text(encoding="utf-8")
        for folder in ("labkit", "notebooks")
        for path in sources(folder)
    }
    cited = {paper: path.name for path, text in texts.items() for paper in CITED.findall(text)}
    assert len(cited) > 10
    assert {paper: name for paper, name in cited.items() if f"{{{paper}}}" not in known} == {}


def test_every_key_cited_on_a_page_is_known():
    keys = set(
        re.findall(r"^@\w+\{([^,]+),", (ROOT / "book" / "references.bib").read_text("utf-8"), re.MULTILINE)
    )
    pages = [*(ROOT / "book").glob("*.md"), *(ROOT / "notebooks").glob("*.md")]
    cited = {
        key for page in pages for key in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", page.read_text("utf-8"))
    }
    assert len(cited) > 3
    assert {part.strip() for keys_ in cited for part in keys_.split(",")} <= keys


def sources(folder):
    return [path for ending in ("py", "md") for path in (ROOT / folder).rglob(f"*.{ending}")]
