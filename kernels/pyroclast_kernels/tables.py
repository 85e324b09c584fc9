"""Tuned tables: which variant runs on this machine where `pyroclast tune` found a faster one.

One JSON file for each CPU and build of the kernels, `<cpu>-<build>.json`, in pyroclast/tune of the
user's cache directory (see cache_folder.py).  The shipped default is the fixed order, PREFERENCE of
selection.py; nothing here writes into the package.  A file that is cut, of another schema, or
made for another CPU or build is not used, and `current` says why.

A choice is made per op, weight or cache format, shape class and token class:
    shape class   what of a call's shape is fixed when it is recorded: rows x columns of a weight,
                  each rounded up to a power of two; head_dim and group size of attention; head_dim
                  of rope; the rounded width of a row for most others, "any" for the rest
    token class   "few" up to FEW_TOKENS tokens in the call, else "many".  One recorded step serves
                  both: a call then carries two kernels, and the executor takes one by the call's
                  own count.  Both must be of one bit group, so that the number of tokens in a step
                  never decides the bits of a result.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pyroclast_kernels import cache_folder, features
from pyroclast_kernels.table_files import TableError, read_file, write_file

SCHEMA = 1
KIND = "pyroclast tuned table"
DEFAULTS = "defaults"  # the name of having no table
FROZEN_NOTE = "frozen: tuned tables are left out"
# Steps of at most this many tokens are bound by reading the weights, and attention splits one
# token's positions among threads up to here; above, arithmetic decides.
FEW_TOKENS = 16
TokenClass = Literal["few", "many"]
TOKEN_CLASSES: tuple[TokenClass, TokenClass] = ("few", "many")
_HERE = Path(__file__).parent
# What decides how fast a kernel is.  The number of CPUs is part of it, as threads share caches and
# memory; the clock governor is not: it slows every variant alike.
_CPU_FACTS = ("vendor_id", "cpu family", "model", "model name", "stepping", "microcode")

_KERNEL_FILES = (
    "_*.so", "*/_*.so", "numba/*.py", "*/numba/*.py", "*/numba_*.py", "*/*.pyx", "*/*.cc",
)  # fmt: skip
_OWN_FILES = ("*.py", "*.pyx", "*.cc")

# What a class of an op is made of: names of arguments; rounded up, but for attention's.
_WIDTHS = {
    "gate_up": ("d_ff", "n_cols"),
    "embed": ("n_cols",),
    "norm": ("d_model",),
    "residual": ("d_model",),
    "qk_norm": ("n_heads", "head_dim"),
    "matmul": ("n_rows", "n_cols"),
    "quantize": ("n_cols",),
    "glu": ("d_ff",),
    "low_rank": ("n_rows", "n_cols"),
    "gather_rows": ("n_cols",),
    "rope_table": ("half_dim",),
    "scale_logits": ("n_cols",),
    "sample": ("vocab_size",),
    "route": ("n_experts",),
    "group": ("n_experts",),
    "expert_gate_up": ("d_ff", "n_cols"),
    "expert_down": ("n_rows", "n_cols"),
    "combine": ("n_cols",),
    "conv1d": ("n_channels",),
    "l2_norm": ("n_heads", "head_dim"),
    "delta_rule": ("n_v_heads", "k_dim", "v_dim"),
    "gated_norm": ("n_groups", "width"),
    "ssm": ("n_heads", "head_dim", "d_state"),
    "sigmoid_gate": ("n_cols",),
    "layer_input": ("width",),
    "altup_predict": ("n_streams", "d_model"),
    "altup_correct": ("n_streams", "d_model"),
    "match_rms": ("d_model",),
    "sparse_gate": ("d_ff",),
}


@dataclass(frozen=True)
class Entry:
    """One choice.  ratio: time of `variant` over that of `default`, below 1 where it is faster;
    1 where the default stayed."""

    op: str
    format: str
    shape: str
    tokens: TokenClass
    variant: str
    default: str
    ratio: float

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.op, self.format, self.shape, self.tokens


@dataclass(frozen=True)
class TunedTable:
    """The choices for one CPU and build.  any_bits: they may leave the default's bit group."""

    cpu: str
    build: str
    entries: tuple[Entry, ...]
    any_bits: bool = False
    made: Mapping[str, Any] = field(default_factory=dict)  # where and how, for people

    def __post_init__(self) -> None:
        choices = {entry.key: entry.variant for entry in self.entries}
        if len(choices) != len(self.entries):
            raise TableError("it has two entries for one op, format, shape and token class")
        object.__setattr__(self, "_choices", choices)

    @property
    def name(self) -> str:
        """What results call it: a hash of what it chooses, not of how fast that was."""
        changed = sorted([*e.key, e.variant] for e in self.entries if e.variant != e.default)
        digest = hashlib.sha256(json.dumps(changed).encode()).hexdigest()[:12]
        return f"tuned-{digest}" + "-any-bits" * self.any_bits

    def variant(self, op: str, format: str, shape: str, tokens: str) -> str | None:
        """The chosen variant's name, or None where nothing was chosen."""
        choices: dict[tuple[str, str, str, str], str] = self._choices  # type: ignore[attr-defined]
        return choices.get((op, format, shape, tokens))


def shape_class(op: str, arguments: Mapping[str, Any]) -> str:
    """The class of a recorded call, "1024x2048" say; "any" where the shape is no matter."""
    if op == "attention":
        return f"d{arguments['head_dim']}g{arguments['n_heads'] // arguments['n_kv_heads']}"
    if op == "rope":
        return f"d{arguments['head_dim']}"
    names = [name for name in _WIDTHS.get(op, ()) if name in arguments]
    return "x".join(str(_round_up(int(arguments[name]))) for name in names) or "any"


def tokens_of(count: Any) -> TokenClass:
    """The class of a call whose number of tokens is in count, int64 (1,), or that has none."""
    return "many" if count is not None and int(count[0]) > FEW_TOKENS else "few"


def _round_up(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


# ---- whose table it is ---------------------------------------------------------------------


@cache
def machine() -> dict[str, Any]:
    """The facts that a table depends on: the CPU's own and the number of CPUs to run on."""
    facts: dict[str, Any] = {"model name": features.cpu_name()}
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    for line in text.partition("\n\n")[0].splitlines():
        name, _, value = line.partition(":")
        if name.strip() in _CPU_FACTS:
            facts[name.strip()] = value.strip()
    flags = " ".join(sorted(features.cpu_flags()))
    return facts | {
        "flags": hashlib.sha256(flags.encode()).hexdigest()[:12],
        "cpus": features.n_cpus(),
    }


def fingerprint() -> str:
    """12 hexadecimal digits that stand for `machine()`."""
    return hashlib.sha256(json.dumps(machine(), sort_keys=True).encode()).hexdigest()[:12]


def build_id() -> str:
    """12 hexadecimal digits that change with any compiled kernel or source of one, those of a
    user's own (PYROCLAST_KERNEL_PATH) included."""
    found = [path for pattern in _KERNEL_FILES for path in _HERE.glob(pattern)]
    for folder in filter(None, os.environ.get("PYROCLAST_KERNEL_PATH", "").split(os.pathsep)):
        found += [path for ending in _OWN_FILES for path in Path(folder).rglob(ending)]
    stats = [(path, path.stat()) for path in sorted(set(found))]
    return _hash_files(tuple((str(p), s.st_size, s.st_mtime_ns) for p, s in stats))


@cache
def _hash_files(files: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for name, _, _ in files:
        digest.update(Path(name).name.encode())
        digest.update(Path(name).read_bytes())
    return digest.hexdigest()[:12]


def directory() -> Path:
    """Where the user's tables are."""
    return cache_folder.path_of("tune")


def path_for(cpu: str, build: str) -> Path:
    """The file of a CPU and build."""
    return directory() / f"{cpu}-{build}.json"


# ---- reading and writing -------------------------------------------------------------------


def current() -> tuple[TunedTable | None, str]:
    """(the table of this machine and build, "") or (None, why there is none)."""
    reason = cache_folder.why_folder_refused(directory())
    if reason:
        return None, f"tuned tables are left out: {reason}"
    try:
        names = [path.name for path in directory().glob("*.json")]
    except OSError as error:
        return None, f"{directory()} cannot be read: {error.strerror}"
    if not names:  # before the kernels are hashed, which takes some milliseconds
        return None, "this machine has not been tuned (`pyroclast tune`)"
    cpu = fingerprint()
    if not any(name.startswith(f"{cpu}-") for name in names):
        return None, f"only other machines' tables are in {directory()}; this one is {cpu}"
    build = build_id()
    if f"{cpu}-{build}.json" not in names:
        return None, "this machine was tuned for other kernels than these; run `pyroclast tune`"
    path = path_for(cpu, build)
    try:
        return load(path, cpu, build), ""
    except TableError as error:
        return None, f"{path} is not used: {error}"


def load(path: Path, cpu: str, build: str) -> TunedTable:
    """The table in a file; TableError if it is not one for this CPU and build."""
    raw = read_file(path, KIND, SCHEMA, cpu=cpu, build=build)
    entries, any_bits, made = raw.get("entries"), raw.get("any_bits"), raw.get("made", {})
    if not isinstance(entries, list) or not isinstance(any_bits, bool):
        raise TableError('it needs a list "entries" and true or false as "any_bits"')
    if not isinstance(made, dict):
        raise TableError('its "made" is no object')
    read = tuple(_entry(each, i) for i, each in enumerate(entries))
    return TunedTable(cpu, build, read, any_bits, made)


def _entry(raw: Any, i: int) -> Entry:
    names = tuple(Entry.__dataclass_fields__)
    if not isinstance(raw, dict) or set(raw) != set(names):
        raise TableError(f"entry {i} needs exactly {', '.join(names)}")
    ratio = raw["ratio"]
    texts = [raw[name] for name in names if name != "ratio"]
    if not all(isinstance(text, str) and 0 < len(text) <= 64 for text in texts):
        raise TableError(f"entry {i} has a name that is no text of 1 to 64 characters")
    if raw["tokens"] not in TOKEN_CLASSES:
        raise TableError(f"entry {i} has tokens {raw['tokens']!r}, not few or many")
    if isinstance(ratio, bool) or not isinstance(ratio, int | float):
        raise TableError(f"entry {i} has a ratio that is no number")
    if not (math.isfinite(ratio) and ratio > 0):
        raise TableError(f"entry {i} has ratio {ratio}, which no two times have")
    return Entry(**raw)


def save(table: TunedTable) -> Path:
    """Writes a table where `current` finds it, whole or not at all; KernelError if that fails."""
    path = path_for(table.cpu, table.build)
    raw = {
        "kind": KIND,
        "schema": SCHEMA,
        "cpu": table.cpu,
        "build": table.build,
        "any_bits": table.any_bits,
        "made": dict(table.made),
        "entries": [asdict(entry) for entry in table.entries],
    }
    write_file(path, raw)
    return path
