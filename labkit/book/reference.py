"""The API reference: one page a module, which Sphinx fills from the docstrings."""

from pathlib import Path

MODULES = {
    "data": "Image sets, where they come from, and pairs of images.",
    "labels": "Wrong labels: drawn, measured, doubted and corrected.",
    "augment": "Changing images and labels while training, and the feeder of batches.",
    "models": "Every architecture of the reports by name.",
    "recipes": "How a model is trained, as data; one recipe for each run of the reports.",
    "training": "Training as a build step: the same inputs, the same trained model.",
    "tuning": "Searching for good options with Keras Tuner.",
    "runs": "Records of runs and the table of results.",
    "evaluation": "Predictions of a model.",
    "predictions": "Numbers from class probabilities.",
    "saliency": "Where in an image a network looks.",
    "reasons": "Why an image may have been mistaken.",
    "plots": "Figures, each with its alt text.",
    "protocols": "Which images may do what.",
    "experiments": "Every experiment of the book by name.",
    "scoreboard": "Published figures beside recorded ones.",
    "costs": "What training costs, from models' cards and records.",
    "sweeps": "Grids of runs through Snakemake.",
    "chapters": "Parameters of the chapters.",
    "errors": "What is raised when something is wrong.",
}


def write(folder: Path) -> None:
    """Write the overview's list and the module pages."""
    (folder / "api").mkdir()
    for module in present():
        page = f"# labkit.{module}\n\n```{{eval-rst}}\n.. automodule:: labkit.{module}\n   :members:\n```\n"
        (folder / "api" / f"{module}.md").write_text(page, encoding="utf-8")


def overview() -> str:
    """The list of modules."""
    return "\n".join(f"[labkit.{module}](api/{module}.md)\n: {MODULES[module]}\n" for module in present())


def present() -> list[str]:
    """The modules that the package has."""
    package = Path("labkit")
    return [
        name
        for name in MODULES
        if list(package.glob(f"{name}.py")) or (package / name / "__init__.py").exists()
    ]
