"""The commands of the kernel lab: bench kernels, kernels check, kernels new."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyroclast.cli.flags import add_own_folder
from pyroclast.cli.terminal import colour, counted, fail, tell, warn, write
from pyroclast.errors import KernelError
from pyroclast.lab.speed.workload_flags import numbers
from pyroclast.progress import progress_bar

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator

    from pyroclast.lab.speed.rows import Results
    from pyroclast.lab.speed.run import Settings

_QUICK_S, _USUAL_S = 0.02, 0.08  # for one timing
_SHOWN = 5  # failures that are printed in full


def add_arguments(command: ArgumentParser, name: str) -> None:
    """Adds the arguments of the command `name`."""
    if name == "bench kernels":
        _add_bench(command)
    else:
        _add_kernels(command, name)
    if name != "kernels new":
        text = "seconds per kernel and case (default: 300)"
        command.add_argument("--timeout", type=float, default=300.0, metavar="S", help=text)
    add_own_folder(command)


def _add_bench(command: ArgumentParser) -> None:
    for flag, text in (
        ("op", "ops"),
        ("format", "weight or cache formats"),
        ("variant", "variants; patterns such as cpp-* work"),
        ("case", "cases, by name; patterns such as 1x* work"),
    ):
        help_text = f"only these {text} (default: all)"
        command.add_argument(f"--{flag}", type=_words, metavar="NAME,...", help=help_text)
    command.add_argument(
        "--threads", "-t", type=numbers, metavar="N,...", help="default: 1, and all cores"
    )
    command.add_argument(
        "--quick", action="store_true", help="time each kernel more briefly, with more noise"
    )
    command.add_argument(
        "--every-case", action="store_true", help="also time the small cases that check rounding"
    )
    command.add_argument("--out", metavar="FILE", help="write all rows to FILE as JSON")


def _add_kernels(command: ArgumentParser, name: str) -> None:
    command.add_argument(
        "op", metavar="OP", help="such as norm or matmul; `pyroclast kernels` lists them"
    )
    command.add_argument("name", metavar="NAME", help="name of the variant")
    if name == "kernels check":
        text = "only cases whose name contains TEXT"
        command.add_argument("--case", metavar="TEXT", help=text)
        command.add_argument("--no-time", action="store_true", help="check without timing")
    else:
        text = "numba, cython, cpp or triton"
        command.add_argument("--tech", required=True, metavar="TECH", help=text)


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


@contextmanager
def _library_errors(folder: str | None) -> Iterator[None]:
    """Turns the kernel library's errors into ours; `folder` joins the search path of variants."""
    from pyroclast_kernels.errors import KernelError as KernelLibraryError
    from pyroclast_kernels.user_variants import add_folder

    try:
        if folder is not None:
            add_folder(folder)
        yield
    except KernelError:
        raise
    except KernelLibraryError as error:
        raise KernelError(str(error)) from error


# ---- bench kernels -----------------------------------------------------------------------------


def bench_kernels(args: Namespace) -> None:
    """Checks and times every variant on every case; prints a table, or one JSON object per row."""
    from pyroclast.lab.speed.rows import BROKEN
    from pyroclast.lab.speed.run import Settings
    from pyroclast_kernels import features

    threads = args.threads or sorted({1, features.n_cpus()})
    if 0 in threads:
        fail("--threads must be at least 1, got 0", code=2)
    with _library_errors(args.dir):
        settings = Settings(
            ops=args.op,
            formats=args.format,
            variants=args.variant,
            cases=args.case,
            threads=threads,
            seconds=_QUICK_S if args.quick else _USUAL_S,
            timeout_s=args.timeout,
            every_case=args.every_case,
        )
        results = run(settings, args.out, as_json=args.json)
    if any(row.status in BROKEN for row in results.rows):
        raise SystemExit(1)


def run(settings: Settings, out: str | None, as_json: bool) -> Results:
    """Measures, prints each case when it is done, and writes all rows to the file `out`."""
    from pyroclast.lab.speed.kernel_file import save
    from pyroclast.lab.speed.row_lines import case_lines, summary_lines
    from pyroclast.lab.speed.rows import CACHES, as_dict
    from pyroclast.lab.speed.run import Run, plan

    if out is not None and not Path(out).absolute().parent.is_dir():
        raise KernelError(f"--out {out}: the folder {Path(out).absolute().parent} does not exist")
    jobs = plan(settings)
    measured = Run(settings, jobs)
    minutes = round(len(jobs) * len(CACHES) * settings.seconds / 60)
    if minutes:
        what = counted(len(jobs), "kernel")
        tell(f"{what} to check and time: at least {counted(minutes, 'minute')}")
    if measured.measures_ceilings():
        tell("measuring the limits of this machine first, in about half a minute")
    try:
        with progress_bar(len(jobs), "job") as show:
            for rows in measured.measure(show):
                for line in [] if as_json else case_lines(rows):
                    write(line)
    except KeyboardInterrupt:
        if out is not None:
            done = measured.results()
            save(out, done)
            warn(f"interrupted: {out} has the {counted(len(done.rows), 'row')} measured so far")
        raise
    results = measured.results()
    if out is not None:
        save(out, results)
    # Shares and drift are known only when all rows are measured.
    for line in (
        [json.dumps(as_dict(row, results.environment)) for row in results.rows] if as_json else []
    ):
        write(line)
    for line in [] if as_json else summary_lines(results):
        write(line)
    return results


# ---- kernels check -----------------------------------------------------------------------------


def kernels_check(args: Namespace) -> None:
    """Checks one variant on all cases of its op, then times it beside the other variants."""
    with _library_errors(args.dir):
        variant = find_variant(args.op, args.name)
        found = _check(args, variant)
        if not args.json:
            n, bad = found["n_cases"], found["failures"]
            for failure in bad[:_SHOWN]:
                write(colour("wrong  ", "31") + failure)
            if len(bad) > _SHOWN:
                write(f"... and {len(bad) - _SHOWN} more (--json lists all of them)")
            verdict = counted(len(bad), "failure") if bad else "all match the reference"
            cases = f"{counted(n, 'case')}, " if n else ""  # a crash leaves them uncounted
            write(f"{args.op}={variant}: {cases}{verdict}")
        results = None if found["failures"] or args.no_time else _time(args, variant)
    rows = results.rows if results else ()
    if args.json:
        from pyroclast.lab.speed.rows import as_dict

        made = results.environment if results else {}
        write(json.dumps({**found, "rows": [as_dict(row, made) for row in rows]}))
    if found["failures"] or any(r.variant == variant and not r.passed for r in rows):
        raise SystemExit(1)


def find_variant(op: str, name: str) -> str:
    """The variant's full name; `rows` finds numba-rows if no other ends like it."""
    from pyroclast_kernels.selection import all_variants

    known = all_variants(op)
    endings = [each for each in known if each == name] or [
        each for each in known if each.endswith(f"-{name}")
    ]
    if len(endings) != 1:
        among = endings or known
        why = "fits several variants" if endings else "is not a variant"
        raise KernelError(f"{name!r} {why} of {op}; the variants are {', '.join(among)}")
    if known[endings[0]].unavailable:
        raise KernelError(f"{op}={endings[0]} cannot run here: {known[endings[0]].unavailable}")
    return endings[0]


def _check(args: Namespace, variant: str) -> dict[str, Any]:
    """{"op", "variant", "n_cases", "failures"}; a crash or a hang counts as a failure."""
    from pyroclast.lab.speed.child import Child, ChildError

    found: dict[str, Any] = {"op": args.op, "variant": variant, "n_cases": 0, "failures": []}
    job = {"do": "check", "op": args.op, "variant": variant, "pattern": args.case}
    with Child(1) as child:
        try:
            found |= child.ask(job, args.timeout)
        except ChildError as error:
            found["failures"] = [f"{error.at or args.op}: {error.kind}: {error}"]
    if not found["n_cases"] and not found["failures"]:
        raise KernelError(f"{args.op}={variant}: no case name contains {args.case!r}")
    return found


def _time(args: Namespace, variant: str) -> Results | None:
    """Times the first two cases of each format, six at most, under every variant."""
    from pyroclast.lab.speed.run import Settings
    from pyroclast_kernels.cases import bench_cases
    from pyroclast_kernels.selection import all_variants

    formats = all_variants(args.op)[variant].formats
    cases = [case for case in bench_cases(args.op) if case.format in formats]
    firsts = [c for f in formats for c in [c for c in cases if c.format == f][:2]][:6]
    if not firsts:
        return None
    settings = Settings(
        ops=[args.op],
        formats=list(dict.fromkeys(case.format for case in firsts)),
        cases=list(dict.fromkeys(case.name for case in firsts)),
        seconds=_QUICK_S,
        timeout_s=args.timeout,
        keeps_ceilings=True,
    )
    if not args.json:
        return run(settings, None, as_json=False)
    from pyroclast.lab.speed.run import Run, plan

    measured = Run(settings, plan(settings))
    for _ in measured.measure():
        pass
    return measured.results()


# ---- kernels new -------------------------------------------------------------------------------


def kernels_new(args: Namespace) -> None:
    """Writes the file of a new variant and prints the next command."""
    from pyroclast.lab.scaffold.scaffold import new_variant

    with _library_errors(None):
        written = new_variant(args.op, args.name, args.tech, args.dir)
    if args.json:
        write(json.dumps(written))
        return
    write(f"wrote {written['path']}")
    if written["note"]:
        write(written["note"])
    write(f"next:  pyroclast kernels check {args.op} {written['variant']}{written['options']}")
