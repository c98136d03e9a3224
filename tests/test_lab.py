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
PROMPTS = "() => [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map((one) => one.textContent)"
BUSY = f"() => ({PROMPTS})().some((text) => text.includes('*'))"


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
        tab.goto(f"{address}/lab/tree/{name}?reset")
        tab.wait_for_selector(".jp-CodeCell .jp-InputPrompt", timeout=90_000)
        tab.wait_for_selector("[data-status='idle']", timeout=90_000)
        try:
            yield tab
        finally:
            chromium.close()


def command(tab, name):
    tab.evaluate("(name) => window.jupyterapp.commands.execute(name)", name)


def run_all(tab, seconds=400):
    """Run every cell and give the last line of progress that showed while they ran."""
    seen = ""
    command(tab, "runmenu:run-all")
    tab.wait_for_function(BUSY, timeout=30_000)
    for _ in range(seconds):
        found = re.findall(r"epoch \d+ of \d+", tab.inner_text(".jp-Notebook"))
        seen = found[0] if found else seen
        if not tab.evaluate(BUSY):
            return seen
        tab.wait_for_timeout(1000)
    raise AssertionError("the cells did not end: " + str(tab.evaluate(PROMPTS)))


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
        progress = run_all(tab)
        assert re.fullmatch(r"epoch \d+ of \d+", progress)
        assert tab.locator(".jp-OutputArea-output[data-mime-type*='error']").count() == 0
        saved(tab, checkout / "notebooks" / f"{CHAPTER}.{ending}")
    assert git(checkout, "status", "--short") == ""
    found = pairs.differences(checkout / "notebooks" / CHAPTER)
    assert [line for line in found if not line.endswith("holds an output")] == []


def test_an_interrupted_kernel_leaves_nothing_broken(address, checkout):
    shutil.rmtree(checkout / "_build", ignore_errors=True)
    with opened(address, f"{CHAPTER}.ipynb") as tab:
        command(tab, "runmenu:run-all")
        tab.wait_for_function("() => document.querySelector('.jp-Notebook').innerText.includes('epoch 1 of')")
        command(tab, "notebook:interrupt-kernel")
        tab.wait_for_function(f"() => !({BUSY})()", timeout=60_000)
        assert "KeyboardInterrupt" in tab.inner_text(".jp-Notebook")
        run_all(tab)
        assert "KeyboardInterrupt" not in tab.inner_text(".jp-Notebook")
    assert git(checkout, "status", "--short") == ""
