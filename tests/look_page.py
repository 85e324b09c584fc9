"""The page `look` in a browser, for its tests: what it shows, and what it must never do."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyroclast.lens.page import FOLDER, is_built

WAIT_MS = 60_000
AXE = FOLDER / "node_modules/axe-core/axe.min.js"
_PART = re.compile(r'{ id: "(\w+)"')


def parts() -> list[str]:
    """The ids of all parts, as the page lists them."""
    return _PART.findall((FOLDER / "js/parts.js").read_text())


def chromium() -> str:
    """The browser's path; skips where a browser, its driver or the bundle is missing, but fails in
    CI."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    missing = [
        reason
        for reason, is_there in (
            ("Chromium (Debian: apt-get install chromium)", path is not None),
            ("the drawings and axe-core (`make page`)", is_built() and AXE.is_file()),
        )
        if not is_there
    ]
    try:
        import playwright.sync_api  # noqa: F401
    except ModuleNotFoundError:
        missing.append("playwright (`.[browser]`)")
    if missing:
        reason = f"the page's tests need {', '.join(missing)}; `make browser` brings them"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    assert path is not None
    return path


@contextmanager
def launched() -> Iterator[Any]:
    """A browser without a window."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        # Its sandbox needs rights that containers lack; it only sees pages of ours.
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def new_context(browser: Any, **options: Any) -> Any:
    """A window of 1400 px with a cache and settings of its own."""
    context = browser.new_context(**{"viewport": {"width": 1400, "height": 900}, **options})
    context.set_default_timeout(WAIT_MS)
    return context


class Watched:
    """One page of a browser, which records what it must not do."""

    def __init__(self, browser: Any, url: str, *, shared: Any = None, **options: Any) -> None:
        """shared: a context whose cache the page uses, instead of one of its own."""
        self._own = new_context(browser, **options) if shared is None else None
        self.url, self.page = url, (shared or self._own).new_page()
        self.faults: list[str] = []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("request", self._request)

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(f"console: {message.text}")

    def _request(self, request: Any) -> None:
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.faults.append(f"request to elsewhere: {request.url}")

    def open(self, fragment: str) -> Any:
        """The page of a fragment such as "#part=words", when its part is complete."""
        self.page.goto(f"{self.url}{fragment}")
        self.page.wait_for_selector("html[data-ready] [data-open]")
        return self.page

    def serious(self, *rules: str) -> list[str]:
        """Accessibility faults that axe calls serious or critical; rules: only these."""
        if not self.page.evaluate("'axe' in window"):
            self.page.evaluate(AXE.read_text(encoding="utf-8"))
        options: dict[str, Any] = {"resultTypes": ["violations"]}
        if rules:
            options["runOnly"] = list(rules)
        found = self.page.evaluate("options => axe.run(document, options)", options)
        return [
            f"{each['id']}: {node['target']} {node['failureSummary']}"
            for each in found["violations"]
            if each["impact"] in ("serious", "critical")
            for node in each["nodes"]
        ]

    def close(self) -> None:
        """Ends it; fails if the page did what it must not."""
        (self._own or self.page).close()
        assert self.faults == []


def until(page: Any, expression: str) -> None:
    """Waits for an expression of JavaScript.  The page's policy forbids Playwright's own way, which
    evaluates text inside the page."""
    deadline = time.monotonic() + WAIT_MS / 1000
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, f"never came true: {expression}"
        time.sleep(0.02)


def percent(p: float) -> str:
    """As the page writes a probability."""
    if p == 0:
        return "0\u00a0%"
    if p < 1e-6:
        return "<\u00a00.0001\u00a0%"
    x = 100 * p
    if abs(x - 100) < 0.05:
        return ">\u00a099.9\u00a0%" if x < 100 - 1e-9 else "100\u00a0%"
    if x < 0.1:
        return f"{x:.4f}\u00a0%"
    n_whole = len(str(int(x))) if x >= 1 else 0
    return f"{x:.{max(0, 3 - n_whole)}f}\u00a0%"


def visible(text: str) -> str:
    """As the page writes a token."""
    for found, shown in ((" ", "·"), ("\u00a0", "⍽"), ("\n", "⏎"), ("\t", "⇥"), ("\r", "␍")):
        text = text.replace(found, shown)
    return text or "∅"


def bars(page: Any, selector: str = ".bars") -> list[tuple[str, str]]:
    """The tokens of a table of bars, with the last number of their rows."""
    rows = page.locator(f"{selector} >> nth=0").locator("tbody tr")
    texts: list[list[str]] = rows.evaluate_all(
        "rows => rows.map(row => [row.querySelector('th').textContent, "
        "row.querySelector('.bar-value').textContent])"
    )
    return [(token, value) for token, value in texts]


def saved_page(page: Any, folder: Path) -> Path:
    """The file that Export gives."""
    with page.expect_download() as download:
        page.click("#export")
    path = folder / "saved.html"
    download.value.save_as(path)
    return path
