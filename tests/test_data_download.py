import errno
import hashlib
import http.client
import http.server
import os
import ssl
import threading

import pytest

from labkit import data
from labkit.book import mistakes
from labkit.data import __main__ as fetch_all
from labkit.data import download, sets
from labkit.errors import DataError


class Mirror:
    """A server on the loopback that hands out one file, well or badly."""

    def __init__(self, content, *, ranges=True, status=200, stop_after=None, wrong=False):
        self.content, self.ranges, self.status = content, ranges, status
        self.stop_after, self.wrong, self.asked = stop_after, wrong, []
        mirror = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                mirror.answer(self)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request):
        span = request.headers.get("Range")
        self.asked.append(span)
        if self.status != 200:
            request.send_error(self.status)
            return
        start = int(span.removeprefix("bytes=").removesuffix("-")) if span and self.ranges else 0
        body = (b"x" * len(self.content) if self.wrong else self.content)[start:]
        request.send_response(206 if start else 200)
        if start:
            end = len(self.content)
            request.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body if self.stop_after is None else body[: self.stop_after])


@pytest.fixture
def serve():
    mirrors = []

    def start(content, **how):
        mirrors.append(Mirror(content, **how))
        return mirrors[-1]

    yield start
    for mirror in mirrors:
        mirror.server.shutdown()
        mirror.server.server_close()


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LABKIT_MIRROR", raising=False)
    return tmp_path / "cache/downloads"


CONTENT = bytes(range(256)) * 40


def published(*mirrors, content=CONTENT):
    return download.Published(
        "set.tar.gz",
        len(content),
        hashlib.sha256(content).hexdigest(),
        tuple(mirror.url for mirror in mirrors),
    )


def test_an_archive_is_downloaded_once(serve, place):
    mirror = serve(CONTENT)
    archive = published(mirror)
    for _ in range(3):
        assert download.fetch(archive) == place / "set.tar.gz"
    assert (place / "set.tar.gz").read_bytes() == CONTENT
    assert mirror.asked == [None]
    assert not (place / "set.tar.gz.part").exists()


def test_a_download_goes_on_where_it_stopped(serve, place):
    place.mkdir(parents=True)
    (place / "set.tar.gz.part").write_bytes(CONTENT[:1000])
    mirror = serve(CONTENT)
    assert download.fetch(published(mirror)).read_bytes() == CONTENT
    assert mirror.asked == ["bytes=1000-"]


def test_a_connection_that_breaks_is_taken_up_again(serve):
    mirror = serve(CONTENT, stop_after=4000)
    assert download.fetch(published(mirror)).read_bytes() == CONTENT
    assert mirror.asked == [None, "bytes=4000-", "bytes=8000-"]


@pytest.fixture
def breaking(monkeypatch):
    """Let the first reading of an answer end in an error."""

    def start(error):
        errors, read = [error], http.client.HTTPResponse.read

        def broken(answer, *size):
            if errors:
                raise errors.pop()
            return read(answer, *size)

        monkeypatch.setattr(http.client.HTTPResponse, "read", broken)

    return start


@pytest.mark.parametrize(
    "error", [OSError(errno.EHOSTUNREACH, "No route to host"), ssl.SSLError("bad record"), TimeoutError()]
)
def test_whatever_breaks_a_connection_it_is_taken_up_again(serve, breaking, error):
    mirror = serve(CONTENT)
    breaking(error)
    assert download.fetch(published(mirror)).read_bytes() == CONTENT
    assert len(mirror.asked) == 2


def test_what_broke_a_connection_is_said(serve, monkeypatch, breaking):
    monkeypatch.setattr(download, "_TRIES", 1)
    breaking(OSError(errno.EHOSTUNREACH, "No route to host"))
    with pytest.raises(DataError, match=r"the connection broke \(No route to host\)"):
        download.fetch(published(serve(CONTENT)))


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX limits")
def test_a_disk_that_fills_up_is_no_fault_of_a_mirror(serve):
    import resource

    mirror, limits = serve(CONTENT), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(DataError, match="no space left while writing"):
            download.fetch(published(mirror))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(mirror.asked) == 1


def test_a_server_that_cannot_resume_starts_again(serve, place):
    place.mkdir(parents=True)
    (place / "set.tar.gz.part").write_bytes(b"y" * 1000)
    mirror = serve(CONTENT, ranges=False)
    assert download.fetch(published(mirror)).read_bytes() == CONTENT


@pytest.mark.parametrize("left", [b"y" * 1000, CONTENT + b"more", b"z" * len(CONTENT)])
def test_what_a_wrong_part_left_behind_is_not_trusted(serve, place, left):
    place.mkdir(parents=True)
    (place / "set.tar.gz.part").write_bytes(left)
    assert download.fetch(published(serve(CONTENT))).read_bytes() == CONTENT


def test_the_next_mirror_is_tried(serve):
    bad = [serve(CONTENT, status=404), serve(CONTENT, wrong=True), serve(CONTENT, stop_after=0)]
    good = serve(CONTENT)
    assert download.fetch(published(*bad, good)).read_bytes() == CONTENT
    assert all(mirror.asked for mirror in bad) and len(good.asked) == 1


def test_the_users_own_mirror_comes_first(serve, monkeypatch):
    own, other = serve(CONTENT), serve(CONTENT)
    monkeypatch.setenv("LABKIT_MIRROR", own.url.rstrip("/"))
    download.fetch(published(other))
    assert len(own.asked) == 1 and not other.asked


def test_every_mirror_and_its_fault_is_named_when_all_fail(serve, place):
    mirrors = serve(CONTENT, status=503), serve(CONTENT, wrong=True), serve(CONTENT, stop_after=10)
    with pytest.raises(DataError) as caught:
        download.fetch(published(*mirrors))
    for mirror, fault in zip(mirrors, ("503", "wrong checksum", "after 10 of 10,240 bytes"), strict=True):
        assert mirror.url in str(caught.value) and fault in str(caught.value)
    assert "give its path" in str(caught.value)
    assert not (place / "set.tar.gz").exists()
    # What came of it is kept, so that the next attempt goes on from there.
    assert (place / "set.tar.gz.part").read_bytes() == CONTENT[:30]


def test_an_archive_damaged_in_the_cache_is_fetched_again(serve, place):
    mirror = serve(CONTENT)
    download.fetch(published(mirror))
    (place / "set.tar.gz").write_bytes(CONTENT[:-1] + b"\0")
    assert download.fetch(published(mirror)).read_bytes() == CONTENT
    assert len(mirror.asked) == 2


@pytest.mark.parametrize(
    ("kind", "write"), [("CIFAR10", mistakes.cifar10_folder), ("CIFAR100", mistakes.cifar100_folder)]
)
def test_a_set_is_loaded_from_its_download(kind, write, serve, tmp_path, monkeypatch):
    packed = mistakes.archive_of(write(tmp_path)).read_bytes()
    monkeypatch.setattr(download, kind, published(serve(packed), content=packed))
    load = data.cifar10 if kind == "CIFAR10" else data.cifar100
    train, test = load("download")
    kept = load(write(tmp_path / "unpacked"))
    assert [train.fingerprint(), test.fingerprint()] == [part.fingerprint() for part in kept]
    assert train.source.startswith("download (")


def test_noise_is_drawn_into_the_downloaded_set(serve, tmp_path, monkeypatch):
    packed = mistakes.archive_of(mistakes.cifar10_folder(tmp_path, n=100)).read_bytes()
    monkeypatch.setattr(download, "CIFAR10", published(serve(packed), content=packed))
    noisy = data.noisy_cifar("download", seed=1)
    clean = data.cifar10("download")[0]
    assert (noisy.labels != clean.labels).mean() == pytest.approx(0.606, abs=0.09)
    assert (noisy.true_labels[:100] == clean.labels[:100]).all() and (noisy.true_labels[100:] == -1).all()
    assert "60.6% symmetric noise, seed 1" in noisy.source
    assert len(data.noisy_cifar_test("download")) == 100
    assert data.noisy_cifar("download", seed=1).fingerprint() == noisy.fingerprint()


def test_the_published_archives_are_described_in_full():
    for archive in (download.CIFAR10, download.CIFAR100):
        assert len(archive.sha256) == 64 and archive.size > 160_000_000
        assert len(archive.mirrors) >= 2
        assert all(mirror.startswith("https://") and mirror.endswith("/") for mirror in archive.mirrors)


def test_animals_have_no_download():
    with pytest.raises(DataError, match="cannot be downloaded"):
        sets.animals("download")


def test_make_data_says_what_is_there_and_fails_in_one_message(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["labkit.data"])
    for name in ("cifar10", "cifar100"):
        monkeypatch.setattr(data, name, lambda source, name=name: (f"{name} {source}", "test"))
    assert fetch_all.main() == 0
    assert capsys.readouterr().out.splitlines() == ["cifar10 download", "test", "cifar100 download", "test"]

    def broken(source):
        raise DataError("no connection to any mirror")

    monkeypatch.setattr(data, "cifar100", broken)
    assert fetch_all.main() == 1
    assert capsys.readouterr().err.startswith("no connection to any mirror")
