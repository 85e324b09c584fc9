"""The page of `pyroclast look`: its files by name, and the template of one self-contained file.

The drawing library and the bundle of the scripts (`vendor/`) are built by `make page` and by the
wheel.  A live page loads the bundle: one file instead of forty in five rounds.  Where the scripts
have changed since, it loads them as they are.  Without `vendor/` the page shows its tables, and
nothing can be exported.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroclast.errors import RequestError

FOLDER = Path(__file__).resolve().parent
NOT_BUILT = (
    "the page's drawings are not built: run `make page` in the checkout (it needs npm), or install "
    "a wheel"
)
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
_BUNDLE = "vendor/page.js"  # every script in one
_LIVE = (_BUNDLE, "vendor/d3.js", "vendor/LICENSES.txt")  # of the built files: what is served
_SCRIPT = '<script type="module" src="js/main.js"></script>'
_STYLES = ("style.css", "views.css")
_SAVED = "__SAVED__"


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file as the server sends it."""

    body: bytes
    media_type: str


def page_files() -> dict[str, PageFile]:
    """The files of the live page by name, such as "js/main.js"; "" is the page itself."""
    found = {}
    paths = [*FOLDER.glob("*.*"), *FOLDER.glob("js/*.js"), *(FOLDER / name for name in _LIVE)]
    for path in paths:
        if path.suffix in _TYPES and path.is_file():
            name = path.relative_to(FOLDER).as_posix()
            found[name] = PageFile(path.read_bytes(), _TYPES[path.suffix])
    found[""] = found.pop("index.html")
    if is_current():
        live = f'<script defer src="{_BUNDLE}"></script>'
        page = found[""].body.decode().replace(_SCRIPT, live)
        found[""] = PageFile(page.encode(), _TYPES[".html"])
    if is_built():
        found["export.html"] = PageFile(export_template().encode(), _TYPES[".html"])
    return found


def code_files() -> dict[str, PageFile]:
    """The sources that the parts link to, by their paths in the repository."""
    package = FOLDER.parent.parent  # the folder `pyroclast`
    found = {}
    for folder in ("lens", "sampling", "text", "engine", "model"):
        for path in sorted((package / folder).rglob("*.py")):
            name = f"engine/pyroclast/{path.relative_to(package).as_posix()}"
            found[name] = PageFile(path.read_bytes(), _TYPES[".txt"])
    return found


def is_built() -> bool:
    """Whether the drawing library and the bundle are there."""
    return all((FOLDER / name).is_file() for name in ("vendor/d3.js", _BUNDLE))


def is_current() -> bool:
    """Whether the bundle was made of the scripts that are there."""
    if not is_built():
        return False
    made = hashlib.sha256()
    for path in sorted(FOLDER.glob("js/*.js")):
        made.update(b"%s\0%s\0" % (path.name.encode(), path.read_bytes()))
    last_line = (FOLDER / _BUNDLE).read_bytes().rstrip().rpartition(b"\n")[2]
    return last_line == f"// made of {made.hexdigest()}".encode()


def export_template() -> str:
    """One HTML file with style and scripts inside, which loads nothing: its policy allows these by
    their hashes.  The first `__SAVED__` stands where the view's JSON belongs; see `export_html`."""
    if not is_built():
        raise RequestError(f"cannot export: {NOT_BUILT}")
    style = "".join((FOLDER / name).read_text(encoding="utf-8") for name in _STYLES)
    script = (FOLDER / _BUNDLE).read_text(encoding="utf-8").replace("</script", "<\\/script")
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    replacements = {
        '<meta name="color-scheme"': '<meta http-equiv="Content-Security-Policy" '
        f'content="{policy}">\n    <meta name="color-scheme"',
        '<link rel="icon" href="icon.svg" type="image/svg+xml">': '<link rel="icon" href="data:,">',
        '<link rel="stylesheet" href="style.css">': f"<style>{style}</style>",
        '<link rel="stylesheet" href="views.css">': "",
        _SCRIPT: "",
        "</body>": f'<script type="application/json" id="saved">{_SAVED}</script>\n'
        f"    <script>{script}</script>\n  </body>",
    }
    for old, new in replacements.items():
        assert page.count(old) == 1, old
        page = page.replace(old, new)
    return page


def export_html(
    state: Mapping[str, Any],
    meta: Mapping[str, Any],
    answers: Mapping[str, Any],
    data: Any = None,
) -> str:
    """The self-contained page of one view.

    state: what differs from the page's defaults, such as {"part": "temperature", "text": ...}.
    meta: the answer to GET meta.  answers: the answer of each endpoint the view asks, by name.
    data: what the part itself keeps."""
    listed = [{"name": name, "body": None, "answer": answer} for name, answer in answers.items()]
    saved = {"state": dict(state), "meta": dict(meta), "answers": listed, "data": data}
    # In JSON, "<" only occurs in strings: so no text can end the script element that holds it.
    text = json.dumps(saved, ensure_ascii=False).replace("<", "\\u003c")
    return export_template().replace(_SAVED, text, 1)


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
