"""The files of the page: which there are, under which headers."""

from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
from pathlib import Path

import httpx
import pytest

from pyroclast.lens import page
from pyroclast.lens.page import FOLDER, code_files, is_current, page_files
from pyroclast.server.look_files import POLICY, LookFiles, is_page_path

LINKED = re.compile(r"""(?:from|import\()\s*"(\.{1,2}/[\w./]+)"|(?:src|href)="([\w./]+)\"""")
CODE = re.compile(r'^\s*code: "([^"]+)"', re.MULTILINE)


@pytest.fixture(scope="module")
def files() -> LookFiles:
    return LookFiles()


def ask(files: LookFiles, path: str, method: str = "GET", **headers: str) -> httpx.Response:
    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(files)
        async with httpx.AsyncClient(transport=transport, base_url="http://look") as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(asked())


def test_the_page_is_sent_under_a_strict_policy(files: LookFiles) -> None:
    answer = ask(files, "/look/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    script = "vendor/page.js" if is_current() else "js/main.js"
    assert f'src="{script}"' in answer.text
    assert answer.text.count("<script") == 1


def test_a_bundle_is_loaded_only_if_it_was_made_of_the_scripts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As build.mjs names them."""
    shutil.copytree(FOLDER, tmp_path / "page", ignore=shutil.ignore_patterns("node_modules"))
    monkeypatch.setattr(page, "FOLDER", tmp_path / "page")
    folder, scripts = tmp_path / "page", {}
    for path in folder.glob("js/*.js"):
        scripts[path.name] = path.read_bytes()
    digest = hashlib.sha256(
        b"".join(b"%s\0%s\0" % (name.encode(), scripts[name]) for name in sorted(scripts))
    )
    (folder / "vendor").mkdir(exist_ok=True)
    (folder / "vendor/d3.js").touch()
    (folder / "vendor/page.js").write_text(f"start();\n// made of {digest.hexdigest()}\n")

    def script() -> str:
        body = page_files()[""].body.decode()
        return re.findall(r'<script[^>]* src="([^"]+)"></script>', body)[0]

    assert script() == "vendor/page.js"
    (folder / "js/dom.js").write_text("export {};")
    assert script() == "js/main.js"


def test_the_policy_allows_nothing_inline_and_nothing_from_elsewhere() -> None:
    assert "unsafe" not in POLICY
    assert "http" not in POLICY
    html = (FOLDER / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", html)


def test_a_client_that_has_a_file_is_not_sent_it_again(files: LookFiles) -> None:
    first = ask(files, "/look/style.css")
    again = ask(files, "/look/style.css", **{"if-none-match": f'"x", W/{first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/look", 308),
        ("GET", "/look/index.html", 404),
        ("GET", "/look/__init__.py", 404),
        ("GET", "/look/package.json", 404),
        ("GET", "/look/js/../../facts.py", 404),
        ("GET", "/look/code/engine/pyroclast/../../setup.py", 404),
        ("POST", "/look/", 405),
        ("HEAD", "/look/icon.svg", 200),
    ],
)
def test_paths(files: LookFiles, method: str, path: str, status: int) -> None:
    answer = ask(files, path, method)
    assert answer.status_code == status
    if status == 308:
        assert answer.headers["location"] == "look/"


def test_data_are_not_files() -> None:
    assert is_page_path("/look")
    assert is_page_path("/look/js/main.js")
    assert not is_page_path("/look/api/next")
    assert not is_page_path("/looking")


def test_every_file_that_a_file_asks_for_is_there() -> None:
    """All links of the page and imports of the scripts, but for what `make page` builds."""
    names = set(page_files())
    for path in [FOLDER / "index.html", *FOLDER.glob("js/*.js")]:
        for groups in LINKED.findall(path.read_text()):
            linked = (path.parent / (groups[0] or groups[1])).resolve()
            name = linked.relative_to(FOLDER).as_posix()
            assert name in names or name.startswith("vendor/"), f"{path.name} asks for {name}"


def test_every_part_links_to_code_that_is_served() -> None:
    code = code_files()
    parts = sorted(FOLDER.glob("js/part_*.js"))
    assert parts
    for path in parts:
        named = CODE.findall(path.read_text())
        assert len(named) == 1, path.name
        assert named[0] in code, f"{path.name} links to {named[0]}"
