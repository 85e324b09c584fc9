"""What quantized rollouts do to GRPO: the same runs with exact and with quantized ones.

A small model is trained on English from random weights; then GRPO makes its texts plainer, more
letters and fewer signs.  The runs differ in the engine that samples the answers.  Results do not
depend on the machine's load, and no time is measured.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyroclast.lab.speed.result_file import without_samples, write_result
from pyroclast.lab.speed.throughput_rows import environment
from pyroclast.train.curve import smoothed
from pyroclast.train.demo import standard_text
from pyroclast.train.extra import needed
from pyroclast.train.log import read_lines
from pyroclast.train.preference_settings import RlSettings
from pyroclast.train.pretraining import pretrain
from pyroclast.train.reinforcement import rl
from pyroclast.train.rewards import texts_of
from pyroclast.train.scripted_rater import plainness
from pyroclast.train.settings import PretrainSettings

FORMATS = ("float32", "q8_0", "q4_0")
START = PretrainSettings(
    steps=200, layers=2, width=128, context=64, vocab_size=512, precision="float32"
)
LEARN = RlSettings(
    steps=60, batch=16, group=4, max_tokens=24, learning_rate=3e-4, held_out=0.25, samples=8,
    save_every=1000, warmup=0.02,
)  # fmt: skip
_N_PROMPTS, _PROMPT_CHARS = 64, 40
FIGURES = {
    "reward": "reward",
    "kl": "KL from the start",
    "rollout_kl": "KL, engine to trainer",
    "rollout_max_logprob_diff": "largest difference",
}


def plain(completions: Sequence[Any], **_: Any) -> list[float]:
    """The reward: the share of letters and spaces."""
    return [plainness(text) for text in texts_of(completions)]


def study(
    out: Path, seeds: Sequence[int], start: PretrainSettings, learn: RlSettings
) -> list[dict[str, Any]]:
    """A row for each format and seed: figures before and after on held-out prompts, and by step."""
    out.mkdir(parents=True, exist_ok=True)
    text = standard_text(out)
    model = pretrain([text], out / "start", start).final
    prompts = _prompts(text, out / "prompts.jsonl")
    rows = []
    for seed in seeds:
        for format in FORMATS:
            name = f"{format}-{seed}"
            settings = replace(learn, rollouts=format, seed=seed)
            found = rl(model, prompts, out / name, reward=plain, settings=settings)
            lines = read_lines(out / name / "log.jsonl")
            curves = {key: [_short(line[key]) for line in lines] for key in FIGURES}
            rows.append(
                {"rollouts": format, "seed": seed, "before": found.before, "after": found.after}
                | {"curves": curves}
            )
            print(_told(rows[-1]), flush=True)
    return rows


def _short(value: float) -> float:
    """With four digits: differences of exact rollouts are small numbers."""
    return float(f"{value:.4g}")


def _prompts(text: Path, path: Path) -> Path:
    """The beginnings of sentences: places at equal distances, from the next space on."""
    whole = " ".join(text.read_text(encoding="utf-8").split())
    step = len(whole) // _N_PROMPTS
    found = []
    for at in range(0, step * _N_PROMPTS, step):
        begin = whole.index(" ", at) + 1
        found.append(json.dumps({"prompt": whole[begin : begin + _PROMPT_CHARS]}) + "\n")
    path.write_text("".join(found), encoding="utf-8")
    return path


def _told(row: dict[str, Any]) -> str:
    mean = sum(row["curves"]["rollout_kl"]) / len(row["curves"]["rollout_kl"])
    return (
        f"{row['rollouts']:<8} seed {row['seed']}: reward {row['before']['reward']:.3f} -> "
        f"{row['after']['reward']:.3f}, KL from the start {row['after']['kl']:.3f}, "
        f"KL from engine to trainer {mean:.2g}, largest difference "
        f"{max(row['curves']['rollout_max_logprob_diff']):.2g}"
    )


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The lines of a Markdown table: means over the seeds, and the worst difference."""
    titles = ("reward before", "reward after", "KL from the start", "KL, engine to trainer")
    lines = [
        f"| rollouts | {' | '.join(titles)} | largest difference |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for format in FORMATS:
        some = [row for row in rows if row["rollouts"] == format]
        steps = [each for row in some for each in row["curves"]["rollout_kl"]]
        worst = max(max(row["curves"]["rollout_max_logprob_diff"]) for row in some)
        means = [
            sum(row[when][name] for row in some) / len(some)
            for when, name in (("before", "reward"), ("after", "reward"), ("after", "kl"))
        ]
        shown = " | ".join(f"{each:.3f}" for each in means)
        lines.append(f"| `{format}` | {shown} | {sum(steps) / len(steps):.1e} | {worst:.1e} |")
    return lines


def draw(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes an SVG: reward and both divergences by step, a colour for each format."""
    needed("matplotlib").use("agg")
    names = list(FIGURES)[:3]
    figure = importlib.import_module("matplotlib.figure").Figure(
        (7, 2.2 * len(names)), layout="constrained"
    )
    for axes, name in zip(figure.subplots(len(names)), names, strict=True):
        for i, format in enumerate(FORMATS):
            for j, row in enumerate(row for row in rows if row["rollouts"] == format):
                values = row["curves"][name]
                steps = list(range(1, len(values) + 1))
                label = format if j == 0 else None
                style = ("-", "--", ":")[j % 3]
                axes.plot(*smoothed(steps, values), style, color=f"C{i}", label=label, linewidth=1)
        axes.set_ylabel(FIGURES[name])
        if name == "rollout_kl":
            axes.set_yscale("symlog", linthresh=1e-9)
    figure.axes[0].legend(frameon=False)
    figure.axes[-1].set_xlabel("step")
    figure.savefig(path, metadata={"Date": None})


def main(description: str, words: Sequence[str] | None = None) -> None:
    """The command, with its arguments or those of the process."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--steps", type=int, default=LEARN.steps, help=f"of each run ({LEARN.steps})")
    add("--seeds", type=int, default=2, help="runs of each format (2)")
    add("--algorithm", default=LEARN.algorithm, help="grpo or ppo (grpo)")
    add("--out", type=Path, required=True, help="a new folder for the runs")
    add("--json", type=Path, help="write the figures to a file, and the curves beside it as SVG")
    args = parser.parse_args(words)
    learn = replace(LEARN, steps=args.steps, algorithm=args.algorithm)
    rows = study(args.out, range(args.seeds), START, learn)
    print("\n".join(table(rows)))
    if args.json:
        settings = without_samples(learn.as_dict()) | {"answers_to_measure": learn.samples}
        about = {"start": START.as_dict(), "settings": settings}
        write_result(args.json, {"made_with": environment(), **about, "rows": rows})
        draw(args.json.with_suffix(".svg"), rows)
