"""What a chapter's page keeps of its outputs, and how."""

import pandas as pd
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_output

from labkit.book import stage


@pytest.fixture
def scores():
    return pd.DataFrame({"precision": [0.5, 0.25], "recall": [1.0, 0.75]}, ["cat", "dog"]).rename_axis(
        "class"
    )


def shown(*outputs):
    (cell,) = stage._laid_out_cell("dual_cifar", new_code_cell("...", outputs=list(outputs)), {})
    return cell.outputs


def headers(table):
    (output,) = shown(new_output("display_data", {"text/html": table}))
    rows = BeautifulSoup(output.data["text/html"], "html.parser").find_all("tr")
    return [[cell.get_text(strip=True) for cell in row.find_all(["th", "td"])] for row in rows[:2]]


def test_the_name_of_an_index_stands_beside_the_names_of_the_columns(scores):
    for table in (scores.to_html(), scores.style.format("{:.1f}").to_html()):
        header, first = headers(table)
        assert header == ["class", "precision", "recall"] and first[:1] == ["cat"]


def test_other_tables_stay_as_they_are(scores):
    for table in (scores.rename_axis(None), scores.reset_index(), scores.T.rename_axis(None)):
        html = table.to_html()
        (output,) = shown(new_output("display_data", {"text/html": html}))
        assert output.data["text/html"] == html


def test_progress_and_standard_error_are_not_shown():
    kept = new_output("stream", name="stdout", text="a result")
    progress = new_output("display_data", {"text/plain": "epoch 3"}, metadata={"labkit": "progress"})
    noise = new_output("stream", name="stderr", text="noise")
    assert shown(progress, kept, noise) == [kept]


def test_a_caption_makes_a_figure_of_a_picture_and_nothing_where_there_is_none():
    named = {"caption": "Photos.", "name": "animals-photos"}
    picture = new_output(
        "display_data", {"image/svg+xml": "<svg/>"}, metadata={"image/svg+xml": {"alt": "Two."}}
    )
    text = new_output("stream", name="stdout", text="nothing to show")
    for output, figure in ((picture, named), (text, None)):
        source = new_code_cell("...", outputs=[output], metadata=dict(named))
        (cell,) = stage._laid_out_cell("dual_cifar", source, {})
        assert cell.metadata.get("mystnb", {}).get("figure") == figure
        assert not set(named) & set(cell.metadata)


def test_a_table_beside_a_picture_is_no_part_of_the_figure():
    picture = new_output(
        "display_data", {"image/svg+xml": "<svg/>"}, metadata={"image/svg+xml": {"alt": "Two."}}
    )
    table = new_output("display_data", {"text/html": "<table></table>"})
    metadata = {"caption": "Photos.", "name": "animals-photos", "tags": ["hide-input"]}
    source = new_code_cell("...", outputs=[table, picture], metadata=metadata)
    cell, figure = stage._laid_out_cell("dual_cifar", source, {})
    assert (cell.outputs, figure.outputs) == ([table], [picture]) and figure.source
    assert cell.metadata == {"tags": ["hide-input"]} and figure.metadata.tags == ["remove-input"]
    assert figure.metadata.mystnb == {
        "figure": {"caption": "Photos.", "name": "animals-photos"}, "image": {"alt": "Two."},
    }  # fmt: skip
