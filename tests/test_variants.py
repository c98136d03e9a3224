import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from labkit.book import variants


def notebook(given, **glued):
    outputs = [
        new_output("display_data", {variants.RECORD: text}, metadata={"scrapbook": {"name": name}})
        for name, text in glued.items()
    ]
    cells = [
        new_markdown_cell("(dual_cifar)=\n# Two images in one\n\nSee {numref}`curves` and [](#dual_cifar)."),
        new_code_cell("...", outputs=outputs, metadata={"name": "curves"}),
        new_markdown_cell("{ref}`the start <dual_cifar>`, {ref}`dual_cifar_2`"),
    ]
    return new_notebook(cells=cells, metadata={"papermill": {"parameters": given}})


def test_the_same_parameters_give_the_same_name():
    one, same = ({"seed": 3, "weight": 0.3}, {"weight": 0.3, "seed": 3})
    assert variants.name("dual_cifar", one) == variants.name("dual_cifar", same)
    assert variants.name("dual_cifar", one) != variants.name("dual_cifar", {"seed": 4, "weight": 0.3})


def test_a_variant_has_its_own_labels_and_a_table_of_what_differs():
    old = notebook({"profile": "smoke", "seed": 0}, accuracy="'20 %'", classes="5")
    new = notebook({"profile": "smoke", "seed": 0, "weight": 0.3}, accuracy="'24 %'", classes="5")
    page = variants.renamed(new, old, "dual_cifar-1234")
    first, code, last = page.cells
    assert first.source.startswith("(dual_cifar-1234-dual_cifar)=\n# Two images in one: weight 0.3\n")
    assert "{numref}`dual_cifar-1234-curves`" in first.source
    assert "[](#dual_cifar-1234-dual_cifar)" in first.source
    assert code.metadata["name"] == "dual_cifar-1234-curves"
    assert last.source == "{ref}`the start <dual_cifar-1234-dual_cifar>`, {ref}`dual_cifar_2`"
    assert (
        "| `weight` | `–` | `0.3` |" in first.source
        and "| `accuracy` | `'20 %'` | `'24 %'` |" in first.source
    )
    assert "`seed`" not in first.source and "`classes`" not in first.source


def test_variants_are_found_by_chapter(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert variants.present() == {}
    for chapter in ("dual_cifar", "cifar100"):
        place = variants.place(variants.name(chapter, {"seed": 1}))
        place.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook({}), place)
    assert list(variants.present()) == ["dual_cifar", "cifar100"]


@pytest.mark.parametrize("given", [{}, {"seed": 0}])
def test_what_papermill_was_given_is_read_back(given):
    assert variants.given(notebook(given)) == given
