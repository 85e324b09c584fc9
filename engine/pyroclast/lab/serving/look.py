"""The page `look` in a browser: how long its first view, a slider and a fork take.

Every time is taken inside the page, and ends with the frame that shows the result:
  first view    navigation of a browser without a cache, until the first figure of the part shows
                what the model gave
  whole view    the same, until all figures of the part do
  slider        an input event of the temperature slider, until figures, bars and ruler are new
  fork          the click on another token, until the first token that the model adds
A result is the median of its repetitions, with the quartiles and the slowest; goal_ms is what the
page promises for it on the demo model.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyroclast.lab.speed.process import inherited_path, python_command
from pyroclast.lab.speed.result_file import write_result
from pyroclast.lab.speed.throughput_rows import environment

FIRST_VIEWS = ("words", "meaning", "attention", "layers", "next", "temperature", "loop", "compare")
GOALS_MS = {"first view": 1000.0, "slider": 50.0, "fork": 150.0}  # a whole view has none
WAIT_MS = 60_000

# Notes when these were there first, counted from the navigation, with the next frame: a row, arc or
# text that the model gave, and all of the part.
NOTE_VIEWS = """
  window.drawnMs = {};
  const figure = ":is(tr[data-id], tr[data-layer], th .token, .arc, .running-text > :not(.faint))";
  for (const [name, selector] of Object.entries({ first: figure, whole: "[data-open]" }))
    new MutationObserver((_, observer) => {
      if (!document.querySelector(`#part-root ${selector}`)) return;
      observer.disconnect();
      requestAnimationFrame(() => { window.drawnMs[name] = performance.now(); });
    }).observe(document, { subtree: true, childList: true, attributes: true });
"""
MOVE_SLIDER = """(value) => new Promise((resolve) => {
  const slider = document.getElementById("set-temperature");
  const before = document.querySelector(".stages");
  const start = performance.now();
  new MutationObserver((_, observer) => {
    if (document.querySelector(".stages") === before) return; // only the slider's own number
    observer.disconnect();
    requestAnimationFrame(() => resolve(performance.now() - start));
  }).observe(document.getElementById("part-root"), { subtree: true, childList: true });
  slider.value = String(value);
  slider.dispatchEvent(new Event("input", { bubbles: true }));
})"""
FORK = """([at, alternative]) => new Promise((resolve) => {
  const text = document.querySelector(".running-text");
  text.children[at].click();
  const rows = [...document.querySelectorAll(".bars button")];
  const others = rows.filter((each) => !each.closest("tr").classList.contains("is-chosen"));
  const start = performance.now();
  new MutationObserver((_, observer) => {
    if (text.children.length !== at + 2) return;
    observer.disconnect();
    requestAnimationFrame(() => resolve(performance.now() - start));
  }).observe(text, { childList: true });
  others[alternative].click();
})"""


@contextmanager
def served(model: str, threads: int | None) -> Iterator[str]:
    """The address of a page of its own process."""
    flags = ["look", model, "--no-browser", "--port", "0", "--json"]
    flags += [] if threads is None else ["--threads", str(threads)]
    process = subprocess.Popen(
        python_command("-m", "pyroclast", *flags),
        env=dict(inherited_path()),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"`pyroclast look {model}` ended with {process.wait()}")
        yield json.loads(line)["look"]
    finally:
        process.terminate()
        process.wait(30)


def opened(browser: Any, url: str) -> Any:
    """A page in a context of its own, when its part is complete."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    context.set_default_timeout(WAIT_MS)
    context.add_init_script(NOTE_VIEWS)
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("html[data-ready] [data-open]")
    return page


def views_ms(browser: Any, url: str) -> tuple[float, float]:
    """Of the first view and of the whole one.  A part that shows nothing of the model until it is
    asked, as the loop, is whole when it can be."""
    page = opened(browser, url)
    page.wait_for_function("window.drawnMs.whole")
    found = page.evaluate("window.drawnMs")
    page.context.close()
    whole = float(found["whole"])
    return min(whole, float(found.get("first", whole))), whole


def slider_ms(browser: Any, url: str, n: int) -> list[float]:
    page = opened(browser, f"{url}#part=temperature&top_p=0.95")
    page.wait_for_timeout(1000)  # the names of the tokens come after the view
    values = [0.2 + 1.8 * i / max(1, n + 1) for i in range(n + 2)]
    found = []
    for value in values:
        found.append(float(page.evaluate(MOVE_SLIDER, value)))
        page.wait_for_timeout(100)
    page.context.close()
    return found[2:]  # the first ones are compiled


def fork_ms(browser: Any, url: str, n: int) -> list[float]:
    """Forks at another token each time, behind a context of several cached blocks.  A bias keeps
    the model from ending the text."""
    context = browser.new_context()
    ends = context.request.get(f"{url}api/meta").json()["eos_token_ids"]
    context.close()
    bias = ",".join(f"{token_id}:-100" for token_id in ends)
    text = "+".join(["The", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog."] * 8)
    page = opened(browser, f"{url}#part=loop&text={text}&t=0.8&bias={bias}")
    play = page.get_by_role("button", name="Play", exact=True)
    found = []
    for i in range(n + 1):
        play.wait_for()
        found.append(float(page.evaluate(FORK, [2 + i % 8, i // 8 % 8])))
        play.wait_for()
    page.context.close()
    return found[1:]


def row(test: str, times_ms: Sequence[float], **more: Any) -> dict[str, Any]:
    """A line of the result, which is printed as well."""
    quartiles = statistics.quantiles(times_ms, n=4)[::2]
    found = {"test": test, **more, "median_ms": statistics.median(times_ms)}
    found |= {"quartiles_ms": quartiles, "max_ms": max(times_ms), "n": len(times_ms)}
    name = " ".join([test, *map(str, more.values())])
    verdict = ""
    if (goal_ms := GOALS_MS.get(test)) is not None:
        found |= {"goal_ms": goal_ms}
        told = "met" if found["median_ms"] <= goal_ms else "MISSED"
        verdict = f"  goal {goal_ms:g} ms: {told}"
    print(
        f"{name:<24} {found['median_ms']:8.1f} ms  ({quartiles[0]:.1f} to {quartiles[1]:.1f}, at "
        f"most {max(times_ms):.1f}){verdict}",
        flush=True,
    )
    return found


def main(description: str, words: Sequence[str] | None = None) -> None:
    """The command, with its arguments or those of the process."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("-t", "--threads", type=int)
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="the browser")
    parser.add_argument("--part", action="append", help="time these first views only; repeat")
    parser.add_argument("--repeat", type=int, default=9, help="of each view; at least 2 (9)")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(words)
    if args.chromium is None or args.repeat < 2:
        parser.error("give --chromium PATH, and a --repeat of at least 2")
    from playwright.sync_api import sync_playwright

    rows = []
    with served(args.model, args.threads) as url, sync_playwright() as driver:
        # Chromium's sandbox needs rights that containers lack; it only sees pages of ours.
        flags = ["--no-sandbox"]
        browser = driver.chromium.launch(executable_path=args.chromium, args=flags)
        views_ms(browser, url)  # touches the model's memory and the browser's code
        for part in args.part or FIRST_VIEWS:
            views = [views_ms(browser, f"{url}#part={part}") for _ in range(args.repeat)]
            for test, times_ms in zip(
                ("first view", "whole view"), zip(*views, strict=True), strict=True
            ):
                rows.append(row(test, times_ms, part=part))
        rows.append(row("slider", slider_ms(browser, url, 4 * args.repeat)))
        rows.append(row("fork", fork_ms(browser, url, 2 * args.repeat)))
        made_with = environment() | {"chromium": browser.version}
        browser.close()
    if args.json:
        write_result(args.json, {"made_with": made_with, "model": args.model, "rows": rows})
