"""The command profile: where the time of a generation goes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyroclast.cli.flags import add_frozen, add_model, add_threads
from pyroclast.cli.terminal import colour, counted, fail, read_text, write
from pyroclast.errors import ContextOverflowError
from pyroclast.progress import progress_bar

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from pyroclast.lab.profile.record import ProfiledLLM

Rows = list[tuple[str, ...]]
_BAR = 24  # cells of a share bar
_FEW_LAYERS = 4  # a model with more is summarized
_PARTS = {
    "tokenizer": "tokenizer (text to ids)",
    "detokenizer": "detokenizer (ids to text)",
    "python": "Python between steps",
    "entry": "Python around each step",
    "ops": "ops",
    "sampling": "sampling (the op `sample`)",
    "between": "between calls (barriers)",
    "return_": "return from each step",
}


def add_arguments(command: ArgumentParser, name: str) -> None:
    """The flags of the command `name`, which is profile."""
    del name  # one command only
    add_model(command)
    command.add_argument("--prompt", metavar="TEXT", help="the prompt; - reads standard input")
    command.add_argument(
        "-p", type=int, metavar="N", help="a prompt of N arbitrary tokens (default: 128)"
    )
    command.add_argument(
        "-n", type=int, default=32, metavar="N", help="tokens to generate (default: 32)"
    )
    add_threads(command)
    command.add_argument("--compute", default="auto", metavar="HOW", help="auto or float32")
    command.add_argument(
        "--kv-dtype", default="auto", metavar="TYPE", help="auto, f32, f16, bf16 or q8_0"
    )
    command.add_argument("--kernels", metavar="RULES", help="for example matmul.q8_0=cpp-avx2")
    add_frozen(command)
    command.add_argument(
        "--trace", metavar="FILE", help="write a Chrome trace; open it at ui.perfetto.dev"
    )
    command.add_argument("--layers", action="store_true", help="show every layer")
    command.add_argument(
        "--no-replay", action="store_true", help="do not time each op alone under every variant"
    )


def profile(args: Namespace) -> None:
    """Records a generation and shows where its time went."""
    from pyroclast.lab.profile import profile as lab
    from pyroclast.lab.profile.chrome_trace import write_trace
    from pyroclast.lab.profile.record import ProfiledLLM

    if args.n < 1 or (args.p is not None and args.p < 1):
        given = f"-n {args.n}" + (f", -p {args.p}" if args.p is not None else "")
        fail(f"-n and -p must be at least 1, got {given}", code=2)
    if args.prompt is not None and args.p is not None:
        fail("give either --prompt TEXT or -p N, not both", code=2)
    options = {"kernels": args.kernels, "threads": args.threads, "compute": args.compute}
    with ProfiledLLM(args.model, kv_dtype=args.kv_dtype, **options) as llm:
        prompt = _prompt(args, llm)
        found, recorded = lab.profile(
            llm, prompt, args.n, replays=not args.no_replay, progress=progress_bar
        )
        if args.trace:
            keys = ("model", "table", "kernels", "cpu", "commit", "date")
            about = {key: found[key] for key in keys}
            found["trace"] = args.trace
            found["trace_events"] = write_trace(recorded, Path(args.trace), about)
    if args.json:
        write(json.dumps(found))
    else:
        ProfileTables(found, args.layers).show()


def _prompt(args: Namespace, llm: ProfiledLLM) -> str | list[int]:
    from pyroclast.lab.profile.profile import prompt_of

    if args.prompt is not None:
        return read_text(args.prompt)
    n_tokens = 128 if args.p is None else args.p
    if n_tokens + args.n > llm.llm.max_seq_len:
        raise ContextOverflowError(
            f"-p {n_tokens} and -n {args.n} need {n_tokens + args.n} positions, but the context of "
            f"{llm.llm.name} holds {llm.llm.max_seq_len}"
        )
    return prompt_of(n_tokens, llm.llm.tokenizer.vocab_size)


class ProfileTables:
    """Tables: Markdown on a pipe, with bars and colours on a terminal."""

    def __init__(self, found: dict[str, Any], all_layers: bool) -> None:
        self.found, self._all_layers = found, all_layers
        self._bars = sys.stdout.isatty()

    def show(self) -> None:
        """Prints all of it."""
        found = self.found
        read, written = counted(found["n_prompt"], "prompt token"), counted(found["n_gen"], "token")
        took = f"{found['wall_us'] / 1000:.1f} ms on {counted(found['n_threads'], 'thread')}"
        write(f"{found['model']}: {read}, {written} generated, {took}")
        parts = [
            (_PARTS[name], us) for name, us in found["parts_us"].items() if us or name == "python"
        ]
        self._shares("The caller's time", parts, found["wall_us"])
        for phase in found["phases"]:
            if phase["n_steps"]:
                self._phase(phase)
        if not any(
            each["roofline_limit"] for phase in found["phases"] for each in phase["products"]
        ):
            write()
            n = found["n_threads"]
            write(f"The limits of {counted(n, 'thread')} are not known. To measure and keep them:")
            write(f"pyroclast bench kernels --op norm --variant numpy --quick --threads {n}")
        self._threads()
        if "replay" in found:
            self._replay()
        write()
        kernels = ", ".join(f"{op}={v}" for op, v in sorted(found["kernels"].items()))
        for line in (
            f"{found['cpu']}, Python {found['python']}, pyroclast {found['commit']}",
            f"kernels: {kernels} (table: {found['table']})",
        ):
            write(colour(line, "2"))
        if "trace" in found:
            write(f"{found['trace_events']} events in {found['trace']}: open at ui.perfetto.dev")

    def _phase(self, phase: dict[str, Any]) -> None:
        per = phase["n_tokens"]
        counts = f"{counted(phase['n_steps'], 'step')}, {counted(per, 'token')}"
        rows: Rows = []
        for op in phase["ops"]:
            waiting = op["wait_us"] / max(op["wait_us"] + op["busy_us"], 1e-9)
            times = (f"{op['wall_us'] / per:.1f}", f"{op['fastest_us'] / per:.1f}")
            shares = (f"{op['share']:.1%}", f"{waiting:.1%}")
            variants = "+".join(op["variants"])
            rows.append((op["name"], *times, *shares, variants, self._bar(op["share"])))
        heads = ("op", "us/token", "at its fastest", "share", "waiting", "variant", "")
        self._table(f"{phase['phase']}: {counts}", heads, rows)
        self._products(phase)
        rows = [
            (name, f"{us / per:.1f}", f"{us / phase['steps_us']:.1%}")
            for name, us in self._layers(phase["layers"])
        ]
        self._table(f"{phase['phase']} by layer", ("layer", "us/token", "share"), rows)

    def _products(self, phase: dict[str, Any]) -> None:
        """The products apart, where there are any."""
        rows: Rows = []
        for each in phase["products"]:
            share = each["roofline_share"]
            limit = "" if share is None else f"{share:.0%} of {each['roofline_limit']}"
            speeds = (f"{each['gb_s']:.1f}", f"{each['gflop_s']:.0f}")
            name = f"{each['name']} ({each['format']})"
            rows.append((name, f"{each['wall_us'] / phase['n_tokens']:.1f}", *speeds, limit))
        if not rows:
            return
        heads = ("weights", "us/token", "GB/s", "GFLOP/s", "of limit")
        self._table(f"{phase['phase']}: products", heads, rows)

    def _layers(self, layers: list[dict[str, Any]]) -> list[tuple[str, float]]:
        """All layers if asked for, else the decoder layers in three rows."""
        inner = [layer for layer in layers if layer["name"].startswith("layer ")]
        if self._all_layers or len(inner) <= _FEW_LAYERS:
            return [(layer["name"], layer["wall_us"]) for layer in layers]
        ordered = sorted(inner, key=lambda layer: layer["wall_us"])
        median, slowest = ordered[len(ordered) // 2], ordered[-1]
        total = sum(layer["wall_us"] for layer in inner)
        short = [
            (f"{len(inner)} layers", total),
            (f"the median layer ({median['name']})", median["wall_us"]),
            (f"the slowest layer ({slowest['name']})", slowest["wall_us"]),
        ]
        rest = [(layer["name"], layer["wall_us"]) for layer in layers if layer not in inner]
        return [*rest[:1], *short, *rest[1:]]

    def _threads(self) -> None:
        rows: Rows = [
            (
                str(thread["thread"]),
                str(thread["n_parts"]),
                f"{thread['busy_us'] / 1000:.1f}",
                f"{thread['wait_us'] / 1000:.1f}",
                f"{thread['longest_wait_us'] / 1000:.2f}",
            )
            for thread in self.found["threads"]
        ]
        heads = ("thread", "parts", "busy ms", "at barriers ms", "longest wait ms")
        self._table("Threads during the steps", heads, rows)

    def _replay(self) -> None:
        replay = self.found["replay"]
        rows: Rows = []
        for each in replay["ops"]:
            us = "" if each["alone_us"] is None else f"{each['alone_us']:.1f}"
            scaled = f"scaled up from {counted(each['n_calls'], 'call')}"
            inside = "" if each["in_step_us"] is None else f"{each['in_step_us']:.1f}"
            mark = "chosen" if each["chosen"] else each["reason"]
            if each["scaled"]:
                mark += f"; {scaled}" if mark else scaled
            rows.append((each["op"], each["variant"], us, inside, mark))
        heads = ("op", "variant", "us alone", "us in the step", "")
        title = f"Each op alone, from a step of {counted(replay['n_tokens'], 'token')}"
        self._table(title, heads, rows)
        chain, total, rows = replay["explained"], 0.0, []
        for link in chain:
            total += link["us"]
            rows.append((link["what"], f"{link['us']:+.1f}", f"{total:.1f}"))
        whole = "token" if len(chain) > 4 else "step"
        self._table(f"What makes up one {whole}", ("part", "us", "sum"), rows)

    def _shares(self, title: str, parts: list[tuple[str, float]], whole: float) -> None:
        rows: Rows = [
            (name, f"{us / 1000:.2f}", f"{us / whole:.1%}", self._bar(us / whole))
            for name, us in parts
        ]
        rows.append(("sum", f"{sum(us for _, us in parts) / 1000:.2f}", "", ""))
        self._table(title, ("part", "ms", "share", ""), rows)

    def _bar(self, share: float) -> str:
        return "█" * round(share * _BAR) if self._bars else ""

    def _table(self, title: str, heads: tuple[str, ...], rows: Rows) -> None:
        """Prints text aligned left and numbers aligned right; leaves out empty columns."""
        kept = [i for i in range(len(heads)) if heads[i] or any(row[i] for row in rows)]
        widths = {i: max(len(row[i]) for row in [heads, *rows]) for i in kept}
        numeric = {i for i in kept if rows and all(_is_number(row[i]) for row in rows)}
        write()
        write(colour(title, "1"))
        write()

        def line(row: tuple[str, ...]) -> str:
            cells = (f"{row[i]:{'>' if i in numeric else '<'}{widths[i]}}" for i in kept)
            return "| " + " | ".join(cells) + " |"

        write(line(heads))
        marks = ("-" * (widths[i] + 1) + (":" if i in numeric else "-") for i in kept)
        write("|" + "|".join(marks) + "|")
        for row in rows:
            write(line(row))


def _is_number(text: str) -> bool:
    return not text or text.rstrip("%").lstrip("+-").replace(".", "", 1).isdecimal()
