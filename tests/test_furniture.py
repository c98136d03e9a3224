import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from labkit import chapters
from labkit.book import furniture, markdown
from labkit.book.furniture import Repository
from labkit.errors import RunError

PUBLISHED = Repository("https://github.com/somebody/image-labs", "main")


def test_without_an_address_a_page_offers_what_works_without_one():
    text = furniture.top("animals", "animals", None, Repository("", "main"))
    assert "JupyterLab" in text and "../downloads/animals.md" in text
    assert "colab" not in text.lower() and "binder" not in text.lower()


def test_colab_and_binder_follow_from_the_one_address():
    text = furniture.top("animals", "animals", None, PUBLISHED)
    assert "colab.research.google.com/github/somebody/image-labs/blob/main/notebooks/animals.ipynb" in text
    assert "mybinder.org/v2/gh/somebody/image-labs/main?urlpath=lab/tree/notebooks/animals.ipynb" in text


@pytest.mark.parametrize("chapter", chapters.CHAPTERS)
def test_the_parameter_table_has_every_parameter_and_the_value_given(chapter):
    text = furniture.run_with(chapter, {"seed": 7})
    for parameter in chapters.parameters(chapter):
        assert f"| `{parameter.name}` | {parameter.type} |" in text
    assert "| `seed` | integer | `0` | `7` |" in text
    assert f"papermill notebooks/{chapter}.ipynb {chapter}.out.ipynb -p seed 7" in text


def test_long_code_is_folded_unless_the_chapter_decides():
    long, short = "\n".join(["x = 1"] * 20), "x = 1"
    assert furniture.fold(new_code_cell(long)) == {"hide-input"}
    assert furniture.fold(new_code_cell(short)) == set()
    assert furniture.fold(new_code_cell(long, metadata={"tags": ["remove-cell"]})) == set()


@pytest.fixture
def picture():
    figure = {"caption": "Photos for training.", "name": "animals-photos"}
    shown = new_output("display_data", {"image/png": ""})
    metadata = {"mystnb": {"image": {"alt": "Twelve animals."}, "figure": figure}}
    return new_code_cell("plots.images(train)", outputs=[shown], metadata=metadata)


@pytest.mark.parametrize("part", ["image", "figure"])
def test_a_picture_without_alt_text_or_caption_stops_the_build(picture, part):
    page = new_notebook(cells=[picture])
    furniture.check_pictures("animals", page)
    del picture.metadata["mystnb"][part]
    with pytest.raises(RunError, match=r"plots\.images\(train\)"):
        furniture.check_pictures("animals", page)


def test_two_pictures_cannot_share_a_number(picture):
    picture.outputs *= 2
    with pytest.raises(RunError, match="one picture a cell"):
        furniture.check_pictures("animals", new_notebook(cells=[picture]))


def test_a_table_keeps_bars_and_line_breaks_inside_its_cells():
    text = markdown.table(("a", "b"), [("x | y", "one\ntwo")], classes="sortable")
    assert text == "{.sortable}\n| a | b |\n|---|---|\n| x \\| y | one two |\n"
    assert markdown.cell("0.5\xa0±\xa00.1  (3\xa0seeds)\n") == "0.5\xa0±\xa00.1 (3\xa0seeds)"
