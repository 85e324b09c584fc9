"""Models from the Hub, against a server on this machine that is one."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO

import pytest

from pyroclast.checkpoint.find import find_model
from pyroclast.errors import ModelFileError

COMMIT = "c" * 40
MODEL = bytes(range(256)) * 40
PART_1, PART_2 = "big-00001-of-00002.gguf", "big-00002-of-00002.gguf"
REPOS = {
    "made/gguf": {"small.gguf": MODEL, "README.md": b"text"},
    "made/many": {"one.gguf": b"1", "two.gguf": b"2", PART_1: b"a", PART_2: b"b"},
    "made/parts": {PART_2: b"b", PART_1: b"a"},
    "made/folder": {
        "config.json": b"{}",
        "model.safetensors": MODEL,
        "x.bin": b"",
        "consolidated.safetensors": b"",
        "../up.json": b"",
        ".whole.json": b'["/etc/hostname.gguf"]',
    },
    "made/absolute": {"/absolute/small.gguf": MODEL},
}


@dataclass
class FakeHub:
    """cut_at: the byte of a file at which every connection breaks.  lie: other bytes than the ETag
    says.  etag: whether it names one.  requests: each request's method, path and Range."""

    address: str = ""
    cut_at: int | None = None
    lie: bool = False
    etag: bool = True
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)

    def ranges(self) -> list[str | None]:
        return [
            wanted
            for method, path, wanted in self.requests
            if (method, "/resolve/" in path) == ("GET", True)
        ]


def handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def log_message(self, *_: object) -> None:
            pass

        def answer(self) -> None:
            hub.requests.append((self.command, self.path, self.headers.get("Range")))
            owner, _, rest = self.path.strip("/").removeprefix("api/models/").partition("/")
            name, _, file = rest.partition("/")
            files = REPOS.get(f"{owner}/{name}")
            if files is None:
                return self.send({"X-Error-Code": "RepoNotFound"}, b"", 404)
            if self.path.startswith("/api/"):
                siblings = [{"rfilename": name} for name in files]
                about = {"id": f"{owner}/{name}", "sha": COMMIT, "siblings": siblings}
                return self.send({}, json.dumps(about).encode())
            content = files[file.removeprefix(f"resolve/{COMMIT}/")]
            headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
            if not hub.etag:
                del headers["ETag"]
            first = int((self.headers.get("Range") or "bytes=0-")[6:-1])
            if first:
                headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
            body = b"?" * len(content) if hub.lie else content
            return self.send(headers, body[first:], 206 if first else 200, first)

        def send(
            self, headers: dict[str, str], body: bytes, status: int = 200, first: int = 0
        ) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                is_file, cut_at = "ETag" in headers, hub.cut_at
                self.wfile.write(
                    body if cut_at is None or not is_file else body[: max(0, cut_at - first)]
                )
            self.close_connection = True

    return Handler


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    pytest.importorskip("huggingface_hub", reason="pip install 'pyroclast-lm[hub]'")
    found = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(found))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    found.address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", found.address)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100)
    monkeypatch.setattr("time.sleep", lambda _: None)  # between tries
    yield found
    server.shutdown()
    server.server_close()


def below(tmp_path: Path) -> dict[str, bytes]:
    """Every file of the cache, by its path in it."""
    folder = tmp_path / "pyroclast" / "hub"
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_file_is_downloaded_once(hub: FakeHub, tmp_path: Path) -> None:
    path, to_format = find_model("hf:made/gguf/small.gguf@q4_0")
    assert (path.read_bytes(), to_format) == (MODEL, "q4_0")
    assert below(tmp_path) == {"made/gguf/small.gguf": MODEL}
    n_requests = len(hub.requests)
    assert find_model("hf:made/gguf/small.gguf") == (path, None)
    assert len(hub.requests) == n_requests


def test_an_interrupted_download_goes_on_where_it_ended(hub: FakeHub, tmp_path: Path) -> None:
    hub.cut_at = 1000
    with pytest.raises(ModelFileError, match=r"hf:made/gguf cannot be downloaded: .*goes on where"):
        find_model("hf:made/gguf")
    [(name, begun)] = below(tmp_path).items()
    assert name.endswith(".part")
    assert begun == MODEL[:1000]
    hub.cut_at = None
    hub.requests.clear()
    assert find_model("hf:made/gguf")[0].read_bytes() == MODEL
    assert hub.ranges() == ["bytes=1000-"]


def test_other_content_is_refused_and_leaves_nothing(hub: FakeHub, tmp_path: Path) -> None:
    hub.lie = True
    with pytest.raises(ModelFileError, match="SHA-256"):
        find_model("hf:made/gguf/small.gguf")
    assert below(tmp_path) == {}


def test_a_folder_is_what_a_model_needs(hub: FakeHub, tmp_path: Path) -> None:
    folder, _ = find_model("hf:made/folder")
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "model.safetensors", ".whole.json"
    }  # fmt: skip
    n_requests = len(hub.requests)
    assert find_model("hf:made/folder")[0] == folder
    assert len(hub.requests) == n_requests
    (folder / "config.json").unlink()
    find_model("hf:made/folder")
    assert (folder / "config.json").exists()


def test_a_damaged_list_of_files_is_made_again(hub: FakeHub) -> None:
    folder, _ = find_model("hf:made/folder")
    for damaged in ("", "{", "3", '["/etc/passwd"]', '["../folder/config.json"]', "[]"):
        (folder / ".whole.json").write_text(damaged)
        hub.requests.clear()
        assert find_model("hf:made/folder")[0] == folder
        assert hub.requests
        assert len(json.loads((folder / ".whole.json").read_text())) == 2


def test_too_long_a_part_is_loaded_anew(hub: FakeHub, tmp_path: Path) -> None:
    hub.cut_at = 1000
    with pytest.raises(ModelFileError):
        find_model("hf:made/gguf")
    hub.cut_at = None
    [part] = (tmp_path / "pyroclast/hub/made/gguf").iterdir()
    part.write_bytes(MODEL + b"more")
    assert find_model("hf:made/gguf")[0].read_bytes() == MODEL


@pytest.mark.parametrize("finished", [True, False])
def test_whoever_waits_for_a_file_finds_what_the_other_has_made(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    def flock(file: BinaryIO, operation: int) -> None:
        """Between our opening the file and our lock, another process finishes or removes it."""
        monkeypatch.setattr("fcntl.flock", lambda *_: None)
        [part] = path.parent.iterdir()
        if finished:
            part.rename(path)
        else:
            part.unlink()

    path = tmp_path / "pyroclast/hub/made/gguf/small.gguf"
    monkeypatch.setattr("fcntl.flock", flock)
    assert find_model("hf:made/gguf/small.gguf")[0] == path
    assert list(path.parent.iterdir()) == [path]


def test_a_file_without_an_etag_is_an_error(hub: FakeHub) -> None:
    hub.etag = False
    with pytest.raises(ModelFileError, match=r"made/gguf cannot be downloaded: .*no ETag"):
        find_model("hf:made/gguf")


@pytest.mark.parametrize(
    "model", ["hf:made/parts", f"hf:made/many/{PART_2}", f"hf:made/many/{PART_1}"]
)
def test_parts_come_together(hub: FakeHub, model: str) -> None:
    path, _ = find_model(model)
    assert {each.name for each in path.parent.glob("*.gguf")} == {PART_1, PART_2}
    n_requests = len(hub.requests)
    assert find_model(model)[0] == path
    assert len(hub.requests) == n_requests


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("hf:made/many", f"it has {PART_1}, one.gguf, two.gguf: name one"),
        ("hf:made/gguf/absent.gguf", "no file 'absent.gguf'; it has: small.gguf, README.md"),
        ("hf:made/absolute", "it has none"),
        ("hf:made/absent", "no such model on the Hub"),
        ("hf:made", "is hf:ORG/REPO or"),
        ("hf:made/../x", "is hf:ORG/REPO or"),
        ("hf:made/folder/x.bin", "is hf:ORG/REPO or hf:ORG/REPO/FILE.gguf"),
        ("hf:made/gguf/", "is hf:ORG/REPO or"),
    ],
)
def test_what_cannot_be_downloaded_is_said(hub: FakeHub, model: str, words: str) -> None:
    with pytest.raises(ModelFileError) as raised:
        find_model(model)
    assert words in str(raised.value)


def test_no_hub_within_reach(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelFileError, match="hf:made/gguf cannot be downloaded: "):
        find_model("hf:made/gguf")
