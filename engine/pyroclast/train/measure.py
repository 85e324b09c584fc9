"""What Pyroclast makes of a model that was just written: figures by pyroclast.lab.evaluate, a text,
and the table of before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyroclast.lab.evaluate.run import Result, evaluate, figures
from pyroclast.lab.evaluate.tasks import Item
from pyroclast.llm import LLM
from pyroclast.sampling.params import SamplingParams

_TITLES = {
    "perplexity": "held-out perplexity",
    "bits_per_byte": "held-out bits per byte",
    "exact_match": "held-out exact answers",
    "accuracy": "held-out pairs in the right order",
    "margin": "held-out margin, nats",
    "reward": "held-out reward",
    "kl": "KL from the start, nats a token",
}
_SHARES = ("exact_match", "accuracy")
_SHORT = {"perplexity": "perplexity", "exact_match": "exact answers", "reward": "reward"}
_MAX_CHARS = 200  # of a text that is told


def load(model: str | Path, adapter: Path | None = None) -> LLM:
    """The model as recipes measure it: in float32, where it equals what was trained."""
    adapters = {} if adapter is None else {"trained": adapter}
    return LLM(model, compute="float32", device="cpu", adapters=adapters, speculation="off")


def measure(
    llm: LLM, items: Sequence[Item], max_tokens: int
) -> tuple[dict[str, float], list[Result]]:
    """(name -> value of the figures, a result for each item), answered greedily, with the adapter
    if there is one."""
    greedy = SamplingParams(temperature=0, max_tokens=max_tokens)
    adapter = llm.adapters[0] if llm.adapters else None
    results = evaluate(llm, items, greedy, lambda _: None, adapter=adapter)
    return {name: float(each["value"]) for name, each in figures(results).items()}, results


def text_items(texts: Sequence[str]) -> list[Item]:
    """Texts whose perplexity is measured."""
    return [Item(str(i), "text", text=text) for i, text in enumerate(texts)]


def table(before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    """The lines of a Markdown table: each figure before and after."""
    rows = [("", "before", "after")]
    for name, title in _TITLES.items():
        if name in before and name in after:
            rows.append((title, _shown(name, before[name]), _shown(name, after[name])))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = [
        f"| {row[0]:<{widths[0]}} | {row[1]:>{widths[1]}} | {row[2]:>{widths[2]}} |" for row in rows
    ]
    rule = f"|{'-' * (widths[0] + 2)}|{'-' * (widths[1] + 1)}:|{'-' * (widths[2] + 1)}:|"
    return [lines[0], rule, *lines[1:]]


def _shown(name: str, value: float) -> str:
    return f"{value:.1%}" if name in _SHARES else f"{value:,.2f}"


def told(samples: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each line of samples.jsonl: the step, what was measured, and the text on one line.
    What cannot be printed shows as a replacement character."""
    lines = []
    for sample in samples:
        found = [
            f"{_SHORT[name]} {_shown(name, sample[name])}" for name in _SHORT if name in sample
        ]
        text = " ".join(str(sample["text"]).split()).replace("`", "'")
        text = "".join(char if char.isprintable() else "\ufffd" for char in text)
        lines.append(f"step {sample['step']:,}, {', '.join(found)}: {text[:_MAX_CHARS]}")
    return lines
