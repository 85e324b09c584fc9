"""python -m torture [--kind NAME] [--seconds N] [--seed N] [--json FILE] [--replay FILE]"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from torture.campaign import Kind, Outcome, replay, show, torture
from torture.guided import why_not
from torture.kinds import KINDS
from torture.record import Finding
from torture.results import merge, table


def arguments(kinds: list[Kind]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="torture", description=sys.modules["torture"].__doc__)
    names = [kind.name for kind in kinds]
    parser.add_argument("--kind", action="append", choices=names, help="only these; repeat it")
    parser.add_argument("--seconds", type=float, default=1200, help="of all kinds together")
    parser.add_argument("--seed", type=int, help="of the first child; default: the time")
    parser.add_argument("--json", type=Path, help="add the counts to those in this file")
    parser.add_argument("--replay", type=Path, help="run the case of a saved finding again")
    parser.add_argument("--findings", type=Path, default=Path("build/torture"), help="saved there")
    return parser


def main(argv: list[str], kinds: list[Kind]) -> int:
    """The exit code: 1 if there is a finding."""
    options = arguments(kinds).parse_args(argv)
    if options.replay:
        return _replay(Finding.load(options.replay), kinds)
    seed = int(time.time()) * 1000 if options.seed is None else options.seed
    chosen = [kind for kind in kinds if not options.kind or kind.name in options.kind]
    show(f"seed {seed}, {options.seconds:g} s, kinds: {', '.join(k.name for k in chosen)}")
    if reason := why_not():
        show(f"the guided kinds are left out: {reason}")
    outcomes = campaign(chosen, seed, options.seconds, options.json)
    show(table(outcomes))
    found = [finding for outcome in outcomes.values() for finding in outcome.findings]
    for finding in found:
        path = finding.save(options.findings)
        show(f'FOUND {finding.what}\n  make torture TORTURE_ARGS="--replay {path}"')
    return bool(found)


def _replay(finding: Finding, kinds: list[Kind]) -> int:
    """Says what becomes of a finding now."""
    found = replay(finding, next(kind for kind in kinds if kind.name == finding.kind)).findings
    for each in found:
        show(f"{each.what}\n{each.detail}")
    show(f"{finding.kind}, {finding.what!r}: {'found again' if found else 'no fault any more'}")
    return bool(found)


def campaign(
    kinds: list[Kind], seed: int, seconds: float, path: Path | None = None
) -> dict[str, Outcome]:
    """Every kind in turn, for its share of the time; each adds its counts to the file `path`."""
    share = seconds / sum(kind.weight for kind in kinds)
    outcomes = {}
    for kind in kinds:
        outcomes[kind.name] = torture(kind, seed, share * kind.weight, _progress(kind, seconds))
        if path:
            merge(path, {kind.name: outcomes[kind.name]})
    if sys.stderr.isatty():
        sys.stderr.write("\n")
    return outcomes


def _progress(kind: Kind, seconds: float) -> Callable[[Outcome], None]:
    """Shows on a terminal how far it is."""
    begin = time.monotonic()

    def tick(outcome: Outcome) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(
                f"\r{kind.name:<20} {outcome.cases:>9} cases {len(outcome.findings):>3} findings "
                f"{time.monotonic() - begin:>5.0f} of {seconds:.0f} s"
            )

    return tick


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], KINDS))
