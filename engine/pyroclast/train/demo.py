"""The recipes one after the other at a small size, with a table of before and after for each: what
`make train-demo` runs, and bench/training.py measures.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyroclast.errors import TrainingError
from pyroclast.lab.speed.result_file import write_result
from pyroclast.lab.speed.throughput_rows import environment
from pyroclast.train.curve import smoothed
from pyroclast.train.finetuning import finetune
from pyroclast.train.log import read_lines
from pyroclast.train.measure import table, told
from pyroclast.train.preference_settings import PreferSettings
from pyroclast.train.preferences import prefer
from pyroclast.train.pretraining import pretrain
from pyroclast.train.prompts import split_rows
from pyroclast.train.ratings import jsonl
from pyroclast.train.result import Result
from pyroclast.train.scripted_rater import liking, rated_pairs
from pyroclast.train.settings import FinetuneSettings, PretrainSettings
from pyroclast.train.task import examples as default_task

_TRIAL_STEPS = 12
_N_PAIRS = 384
PREFER = PreferSettings(steps=60, batch=16, learning_rate=2e-3, held_out=0.25, rank=8)
_DIGITS = 4


def standard_text(folder: Path) -> Path:
    """A file of 465 KB of English that comes with Python: the topics of its help, in one order."""
    from pydoc_data.topics import topics

    path = folder / "topics.txt"
    path.write_text("\n".join(topics[name] for name in sorted(topics)), encoding="utf-8")
    return path


def steps_for(minutes: float, texts: Sequence[Path], settings: PretrainSettings) -> int:
    """How many steps take so long here, from the median speed of a few."""
    with tempfile.TemporaryDirectory() as folder:
        few = replace(settings, steps=_TRIAL_STEPS)
        speed = float(pretrain(texts, Path(folder) / "run", few).about["tokens_per_s"])
    return max(1, round(minutes * 60 * speed / (settings.batch * settings.context)))


def run_pretrain(texts: Sequence[Path], out: Path, minutes: float) -> dict[str, Any]:
    """Pre-trains for about so many minutes; a row for the result file."""
    settings = PretrainSettings()
    settings = replace(settings, steps=steps_for(minutes, texts, settings))
    return _row("pretrain", out, lambda: pretrain(texts, out, settings), settings.as_dict())


def run_finetune(model: str, out: Path, settings: FinetuneSettings) -> dict[str, Any]:
    """Fine-tunes on the default task, which is written beside `out`; a row for the result file."""
    data = out.with_name("examples.jsonl")
    lines = [json.dumps(example) + "\n" for example in default_task()]
    data.write_text("".join(lines), encoding="utf-8")
    work = settings.as_dict() | {"model": model}
    return _row("finetune", out, lambda: finetune(model, data, out, settings), work)


def run_prefer(
    start: Path, texts: Sequence[Path], out: Path, settings: PreferSettings
) -> dict[str, Any]:
    """Has answers of a pre-trained model rated, whose run is `start`, and trains it on them; a row
    for the result file.  The reward is that of answers to held-out prompts, sampled before and
    after."""
    model = start / "final"
    if not model.is_dir():
        raise TrainingError(f"{start}: holds no pre-training that is finished")
    trained = read_lines(start / "samples.jsonl")[-1]
    data, pairs = out.with_name("pairs.jsonl"), rated_pairs(model, texts, _N_PAIRS)
    data.write_text(jsonl(pairs), encoding="utf-8")
    _, held = split_rows(pairs, settings.held_out, data)

    def run() -> Result:
        found = prefer(model, data, out, settings)
        prompts, samples = [pair["prompt"] for pair in held], []
        for step, figures in ((0, found.before), (settings.steps, found.after)):
            adapter = Path(found.final) if step else None
            figures["reward"], text = liking(model, adapter, prompts)
            samples.append({"step": step, "text": text, "reward": figures["reward"]})
        (out / "samples.jsonl").write_text(jsonl(samples), encoding="utf-8")
        found.about["pairs"] = len(pairs) - len(held)
        found.about["start"] = {name: trained[name] for name in ("step", "perplexity")}
        return found

    return _row("prefer", out, run, settings.as_dict())


def _row(recipe: str, out: Path, run: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Runs a recipe, prints its table and what the model wrote, and gives its row."""
    print(f"\n{recipe}: {settings['steps']:,} steps", flush=True)
    result: Result = run()
    samples, lines = (read_lines(out / name) for name in ("samples.jsonl", "log.jsonl"))
    print("\n".join(told(samples)))
    print("\n".join(table(result.before, result.after)))
    about = result.about
    print(f"{result.final}: {about['training_s']:.0f} s, {about['tokens_per_s']:,.0f} tokens/s")
    steps, losses = smoothed([line["step"] for line in lines], [line["loss"] for line in lines])
    curve = [[round(s, 1), round(v, _DIGITS)] for s, v in zip(steps, losses, strict=True)]
    found = {"before": result.before, "after": result.after, **about}
    return {
        "recipe": recipe,
        **found,
        "texts": samples,
        "curve": curve,
        "settings": settings,
    }


def main(description: str, words: Sequence[str] | None = None) -> None:
    """The command, with its arguments or those of the process."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--text", type=Path, action="append", help="may be repeated (default: Python's help)")
    add("--minutes", type=float, default=15.0, help="of pre-training (15)")
    add("--model", default="smollm2-135m-instruct", help="to fine-tune")
    add("--finetune-steps", type=int, default=FinetuneSettings().steps)
    add("--prefer", type=Path, metavar="RUN", help="only preferences, of a pre-training's folder")
    add("--out", type=Path, required=True, help="a new folder for the runs")
    add("--json", type=Path, help="write the figures to a file")
    args = parser.parse_args(words)
    args.out.mkdir(parents=True, exist_ok=True)
    texts = args.text or [standard_text(args.out)]
    rows = []
    if args.prefer is None:
        args.prefer = args.out / "pretrain"
        settings = FinetuneSettings(steps=args.finetune_steps)
        rows = [
            run_pretrain(texts, args.prefer, args.minutes),
            run_finetune(args.model, args.out / "finetune", settings),
        ]
    rows.append(run_prefer(args.prefer, texts, args.out / "prefer", PREFER))
    if args.json:
        names = [path.name for path in texts]
        write_result(args.json, {"made_with": environment(), "texts": names, "rows": rows})
