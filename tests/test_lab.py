"""The notebooks as a person opens them: `make lab` driven in Chromium, and what git sees of it."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from conftest import GENERATED, ROOT

from labkit.book import browser, pairs

pytestmark = pytest.mark.long
CHAPTER = "dual_cifar"
# JupyterLab draws only the cells in view, so these ask the notebook itself.
CELLS = "window.jupyterapp.shell.currentWidget.content.widgets.filter((cell) => cell.model.type === 'code')"
PROMPTS = f"() => {CELLS}.map((cell) => cell.prompt)"
BUSY = f"() => {CELLS}.some((cell) => cell.prompt === '*')"
OUTPUTS = f"() => JSON.stringify({CELLS}.flatMap((cell) => cell.model.outputs.toJSON()))"
# The Markdown half is opened by Open With > Jupytext Notebook, the other by a double click.
OPEN = """(path) => {
  const factory = path.endsWith('.md') ? 'Jupytext Notebook' : 'Notebook';
  window.jupyterapp.commands.execute('docmanager:open', {path, factory});
}"""
READY = """() => {
  const panel = window.jupyterapp?.shell.currentWidget;
  return panel?.sessionContext?.session?.kernel?.status === 'idle' && panel.content.widgets.length > 10;
}"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A repository of its own with the project in it, filter included."""
    place = shutil.copytree(ROOT, tmp_path_factory.mktemp("lab") / "project", ignore=GENERATED)
    for name in (".gitattributes", ".gitignore"):
        shutil.copy(ROOT / name, place)
    for half in (place / "notebooks").glob(f"{CHAPTER}.*"):  # one network: the test is about the rest
        half.write_text(re.sub(r'(models = \\?")all', r"\1fmp3", half.read_text()))
    for command in (["init", "-q"], ["add", "--all"], ["commit", "-q", "-m", "as it is"]):
        git(place, *command)
    return place


def git(place, *arguments):
    who = ["-c", "user.name=a reader", "-c", "user.email=reader@example.org"]
    shown = subprocess.run(["git", *who, *arguments], cwd=place, check=True, capture_output=True, text=True)
    return shown.stdout


@pytest.fixture(scope="module")
def address(checkout):
    """Where `make lab` serves; the server ends with the test."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = (
        f"--no-browser --ip=127.0.0.1 --port={port} --allow-root --IdentityProvider.token= "
        "--LabApp.expose_app_in_browser=True --LabApp.news_url=None"
    )
    command = ["make", "-o", f"{sys.prefix}/installed", "lab", f"VENV={sys.prefix}", f"LAB={options}"]
    environment = os.environ | {"JUPYTER_CONFIG_DIR": str(checkout.parent / "settings")}
    log = (checkout.parent / "lab.log").open("w")
    server = subprocess.Popen(
        command, cwd=checkout, env=environment, stdout=log, stderr=log, start_new_session=True
    )
    try:
        await_answer(f"http://127.0.0.1:{port}/api", Path(log.name))
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
        log.close()


def await_answer(url, log):
    for _ in range(120):
        try:
            with urlopen(url, timeout=5):
                return
        except (URLError, OSError):
            time.sleep(1)
    raise AssertionError(log.read_text())


@contextmanager
def opened(address, name):
    """A tab of JupyterLab with one notebook in it, its kernel ready."""
    if browser.chromium() is None:
        pytest.skip("Chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser.chromium(), args=["--no-sandbox"])
        tab = chromium.new_page(viewport={"width": 1400, "height": 1000})
        tab.goto(f"{address}/lab?reset")
        tab.wait_for_function("() => window.jupyterapp?.restored", timeout=90_000)
        tab.wait_for_timeout(2000)
        tab.evaluate(OPEN, name)
        tab.wait_for_function(READY, timeout=90_000)
        try:
            yield tab
        finally:
            chromium.close()


def command(tab, name):
    """Start a command of JupyterLab's; some last until the last cell has run."""
    tab.evaluate("(name) => { window.jupyterapp.commands.execute(name); }", name)


def run_all(tab, seconds=400):
    """Run every cell; give the outputs, and the lines of progress that showed meanwhile."""
    seen = set()
    command(tab, "runmenu:run-all")
    tab.wait_for_function(BUSY, timeout=30_000)
    for _ in range(seconds):
        outputs = tab.evaluate(OUTPUTS)
        seen |= set(re.findall(r"epoch \d+ of \d+", outputs))
        if not tab.evaluate(BUSY):
            return outputs, seen
        tab.wait_for_timeout(1000)
    raise AssertionError(f"the cells did not end: {tab.evaluate(PROMPTS)}")


def saved(tab, path):
    before = path.stat().st_mtime_ns
    command(tab, "docmanager:save")
    for _ in range(60):
        if path.stat().st_mtime_ns != before:
            tab.wait_for_timeout(2000)  # its pair is written next
            return
        tab.wait_for_timeout(500)
    raise AssertionError(f"{path} was not saved")


@pytest.mark.parametrize("ending", ["ipynb", "md"])
def test_run_all_and_save_leave_no_noise(address, checkout, ending):
    """Every cell runs, progress shows meanwhile, and after a save git sees no change in either half."""
    with opened(address, f"{CHAPTER}.{ending}") as tab:
        outputs, progress = run_all(tab)
        assert progress and "Traceback" not in outputs
        assert "image/svg+xml" in outputs and "text/html" in outputs
        saved(tab, checkout / "notebooks" / f"{CHAPTER}.{ending}")
    assert git(checkout, "diff") == ""
    found = pairs.differences(checkout / "notebooks" / CHAPTER)
    assert [line for line in found if "differ" in line] == []  # outputs stay for the person, git drops them


def test_an_interrupted_kernel_leaves_nothing_broken(address, checkout):
    shutil.rmtree(checkout / "_build", ignore_errors=True)
    with opened(address, f"{CHAPTER}.ipynb") as tab:
        command(tab, "runmenu:run-all")
        tab.wait_for_function(f"() => ({OUTPUTS})().includes('epoch 1 of')", timeout=200_000)
        command(tab, "notebook:interrupt-kernel")
        tab.wait_for_function(f"() => !({BUSY})()", timeout=60_000)
        assert "KeyboardInterrupt" in tab.evaluate(OUTPUTS)
        outputs, _ = run_all(tab)
        assert "KeyboardInterrupt" not in outputs
    assert git(checkout, "diff") == ""
