"""Compares rows with ceilings, each other and their targets, and prints the short table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pyroclast.lab.gpu.parts import Target

Row = dict[str, Any]

_NOTE = 72  # characters of a remark, so that a line fits a narrow terminal
_TARGET_BATCH, _TARGET_PEER, _BETWEEN_US = 20.0, 2.0, 50.0


def held(row: Row, share_of: str, ceilings: dict[str, float], target: Target | None) -> Row:
    """The row with its share of a ceiling measured in the same run, and whether it met its target.

    share_of "cold": the ceiling that is nearest to the kernel's speed, whichever that is."""
    done = dict(row)
    rates: dict[str, Any] = {"copy": row.get("gb_s"), "matmul": row.get("gop_s")}
    kinds = ["copy", "matmul"] if share_of == "cold" else [share_of]
    shares = {k: rates[k] / ceilings[k] for k in kinds if rates.get(k) and ceilings.get(k)}
    if shares:
        done["share_of"] = max(shares, key=lambda kind: shares[kind])
        done["share"] = shares[done["share_of"]]
    if target is not None:
        done |= {"target": str(target), "met": target.met(done)}
    return done


def compared(rows: Sequence[Row], most: int) -> Iterator[Row]:
    """Ratios of rows: the large batch over one sequence, and ours over the peer's.  Also the time
    between the forward passes of a single sequence."""
    found = {row["test"]: row["value"] for row in rows if row.get("value")}
    for row in list(rows):
        name = row["test"]
        label, is_decode, rest = name.partition(" decode b1")
        if not is_decode or rest or name not in found or label.startswith("transformers"):
            continue
        between: Row = {"part": label, "test": f"{label} outside of forward(), a step"}
        between |= {"value": row["between_us"], "unit": "us"}
        yield held(between, "", {}, Target("value", _BETWEEN_US, at_least=False))
        size = label.partition(" ")[0]
        wide, peer = f"{label} decode b{most}", f"transformers {size} BF16 decode b1"
        for what, ratio, bound in (
            (f"b{most} over b1", _ratio(found, wide, name), _TARGET_BATCH),
            ("over transformers", _ratio(found, name, peer), _TARGET_PEER),
        ):
            if ratio is not None:
                quotient: Row = {"part": "ratios", "test": f"{label} {what}", "value": ratio}
                aimed = label == "8B BF16" or (label, bound) == ("1B BF16", _TARGET_PEER)
                goal = Target("value", bound) if aimed else None
                yield held({**quotient, "unit": "times"}, "", {}, goal)


def _ratio(found: dict[str, float], above: str, below: str) -> float | None:
    return found[above] / found[below] if above in found and below in found else None


def table(result: dict[str, Any]) -> str:
    """All rows in a screen or two, those with a target first."""
    rows = result["rows"]
    aimed = [row for row in rows if "target" in row]
    others = [row for row in rows if "target" not in row and row["part"] != "suite"]
    lines = [_line("with a target", "measured", "share", "target", ""), *_lines(aimed)]
    lines += ["", _line("the rest", "measured", "share", "", ""), *_lines(others)]
    suite = [row for row in rows if row["part"] == "suite"]
    timed = [row for row in suite if row.get("share")]
    if suite:
        slow = sorted(timed, key=lambda row: row["share"])[:10]
        lines += [
            "",
            f"suite: {len(timed)} of {len(suite)} cases timed; smallest shares of a ceiling:",
        ]
        lines += _lines(slow)
        lines += list(_lines(row for row in suite if row.get("reason")))[:10]
    lines += ["", *_made(result)]
    return "\n".join(lines)


def _lines(rows: Iterable[Row]) -> Iterator[str]:
    """A line for each row; a repeated reason is written once."""
    told: set[str] = set()
    for row in rows:
        reason = row.get("reason", "")
        yield _row_line({**row, "reason": "the same" if reason in told else reason})
        told |= {reason} - {""}


def _row_line(row: Row) -> str:
    value = row.get("value")
    if value is None:
        return _line(row["test"], "-", "", row.get("target", ""), row.get("reason", ""))
    measured = f"{value:.4g} {row.get('unit', '')}"
    share = f"{row['share']:.0%} {row['share_of']}" if row.get("share") else ""
    verdict = {True: "met", False: "MISSED", None: ""}[row.get("met")]
    notes = [verdict, row.get("reason", "")]
    if "between_us" in row:
        notes.append(f"{row['step_us']:.0f} us a step, {row['between_us']:.0f} outside")
    if "cold_us" in row:
        notes.append(f"cold {row['cold_us']:.1f} us")
    if "cpu_kl" in row:
        notes.append(f"the CPU's usual mode {row['cpu_kl']:.2g}, same top {row['same_top']:.0%}")
    if "ops_us" in row:
        notes.append(", ".join(f"{op} {us:.0f}" for op, us in list(row["ops_us"].items())[:4]))
    if row.get("failures"):
        notes.append(row["failures"][0])
    return _line(
        row["test"], measured, share, row.get("target", ""), ", ".join(filter(None, notes))
    )


def _line(test: str, measured: str, share: str, target: str, note: str) -> str:
    return f"{test[:44]:<44} {measured:>16} {share:>11} {target:>7}  {note[:_NOTE]}".rstrip()


def _made(result: dict[str, Any]) -> list[str]:
    made, gpu = result["made_with"], result["made_with"].get("gpu", {})
    device, torch, triton = (gpu.get(key, "-") for key in ("name", "torch", "triton"))
    commit, date = made["commit"], made["date"]
    lines = [f"{device}, torch {torch}, Triton {triton}, Pyroclast {commit}, {date}"]
    for name, part in result["parts"].items():
        reason = f": {part['reason']}" if part.get("reason") else ""
        lines.append(f"{name}: {part['state']}, {part['seconds']:.0f} s{reason[:_NOTE]}")
    return lines
