"""The options of every comparison: the model, its formats, the peers, and how to run them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pyroclast_kernels import features


@dataclass(frozen=True)
class CompareOptions:
    """peers: peer -> its Python.  missing: peer -> why there is none.

    formats: what the model is requantized to, None for the file as it is; pure: every matrix in
    that format itself.  cache: where files are made and kept.  kernels, compute and kv_dtype are
    Pyroclast's own."""

    model: str
    formats: tuple[str | None, ...] = (None,)
    pure: bool = False
    peers: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    cache: Path | None = None
    repetitions: int = 5
    threads: int = field(default_factory=features.n_cpus)
    kernels: str | None = None
    compute: str = "auto"
    kv_dtype: str = "auto"
