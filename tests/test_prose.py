import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell

from labkit.book import prose
from labkit.errors import RunError


@pytest.mark.parametrize(
    "text",
    [
        "The network reaches 83 % on test images.",
        "Its accuracy is 0.7717.",
        "The best score, .83, came late.",
        "Training gained 2.5 points.",
        "An epoch takes 12 s.",
        "It ran for 3 hours on two cores.",
        "Report 003 prints an accuracy of 0.91.",  # which it does not
        "| model | accuracy |\n|---|---|\n| `accn` | accuracy 0.75 |",
        "Text before.\n\nThen it scores 61 % in the end.",
    ],
)
def test_typed_accuracies_and_times_are_found(text):
    assert prose.typed("dual_cifar", text)


@pytest.mark.parametrize(
    "text",
    [
        "The network reaches {glue:text}`accn_accuracy` on test images.",
        "Report 003 prints an accuracy of 0.7717 for its best network.",
        "Report 003 gives 77.2 % as the score of its best network.",
        "The accuracy that report 003 prints for FMP3 is 69.7 %.",
        "An epoch took 291 s for report 003.",
        "15 % of the photos are set aside.",
        "Weights are drawn with Beta(0.25, 0.25).",
        "```python\naccuracy = 0.91  # 12 s\n```",
        "The rate is `0.015`, $p = 0.25$ for a better score.",
        "The images are 32×32, in 10 classes; the smoke profile takes seconds.",
        "See [the accuracy](https://example.org/0.93).",
    ],
)
def test_quotations_glue_code_and_other_numbers_pass(text):
    assert prose.typed("dual_cifar", text) == []


def test_only_figures_of_the_same_chapter_may_be_quoted():
    text = "Report 004 prints an accuracy of 0.6155."
    assert prose.typed("cifar100", text) == [] and prose.typed("dual_cifar", text) == [text]


def test_the_build_stops_and_shows_the_sentence():
    cells = [
        new_code_cell("# accuracy 0.91"),
        new_markdown_cell("Fine. The accuracy is 0.91 here."),
    ]
    with pytest.raises(RunError, match=r"dual_cifar holds[^$]*The accuracy is 0\.91 here\.") as caught:
        prose.check("dual_cifar", cells)
    assert "glue" in str(caught.value)
    prose.check("dual_cifar", cells[:1])


def test_captions_are_prose_too():
    cell = new_code_cell(
        "plots.history(run)", metadata={"caption": "Training, up to 83 % accuracy.", "name": "x"}
    )
    with pytest.raises(RunError, match="83 %"):
        prose.check("dual_cifar", [cell])
