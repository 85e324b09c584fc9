"""A second engine of a loaded model's files that differs in one thing: to see what it changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyroclast.checkpoint.dummy import PREFIX
from pyroclast.checkpoint.find import find_model
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.errors import MemoryBudgetError, RequestError
from pyroclast.lens.inside import model_of
from pyroclast.llm import LLM
from pyroclast.model.host_memory import available_bytes, resource_errors
from pyroclast.model.kv_cache import DTYPES
from pyroclast.model.load_plan import plan
from pyroclast.model.options import LoadOptions
from pyroclast_kernels.weights.formats import quantizable_formats

if TYPE_CHECKING:
    from pathlib import Path

COMPUTE = ("auto", "float32")
KV_DTYPES = ("auto", *DTYPES)


@dataclass(frozen=True, slots=True)
class Variant:
    """What is different; None stays as the model has it.  weights: the format that every matrix is
    converted to at load, such as "q4_0".  kv_dtype, compute and kernels: as `LLM` takes them."""

    weights: str | None = None
    kv_dtype: str | None = None
    compute: str | None = None
    kernels: str | None = None

    def check(self) -> None:
        """RequestError for a value that is none of those there are."""
        known = {"weights": quantizable_formats(), "kv_dtype": KV_DTYPES, "compute": COMPUTE}
        for name, allowed in known.items():
            given = getattr(self, name)
            if given is not None and given not in allowed:
                raise RequestError(f"{name} must be one of {', '.join(allowed)}, got {given!r:.40}")
        if all(getattr(self, name) is None for name in self.__slots__):
            raise RequestError(f"a variant must differ in one of {', '.join(self.__slots__)}")


def choices(llm: LLM) -> dict[str, list[str]]:
    """What `weights`, `kv_dtype` and `compute` of a variant may be; nothing for a model that was
    made of parts."""
    if llm._source is None:  # noqa: SLF001 - the lens is a face of the LLM
        return {}
    lists = quantizable_formats(), KV_DTYPES, COMPUTE
    return {
        name: [each for each in known if each != "auto"]
        for name, known in zip(("weights", "kv_dtype", "compute"), lists, strict=True)
    }


def is_updated(llm: LLM) -> bool:
    """Whether weights or adapters have changed since they were loaded."""
    return bool(model_of(llm).n_updates or llm._has_changed_adapters)  # noqa: SLF001


def variant(llm: LLM, change: Variant, *, threads: int | None = None) -> LLM:
    """A second LLM of the files that `llm` was loaded from, for one sequence at a time; close it in
    the end.

        with lens.variant(llm, lens.Variant(weights="q4_0")) as coarse:
            found = lens.compare(lens.Setting(llm), lens.Setting(coarse), "Once upon a time")

    threads None: as many as `llm` has; the numbers do not depend on them.  RequestError for a model
    that was not loaded from files, or whose weights were updated since; MemoryBudgetError, before
    anything is loaded, where both do not fit beside the cache that `llm` may still fill."""
    change.check()
    model = model_of(llm)
    source = llm._source  # noqa: SLF001 - the lens is a face of the LLM
    if source is None or is_updated(llm):
        raise RequestError(
            f"a variant is loaded from a model's files, but {llm.name!r} was "
            + ("made of parts" if source is None else "updated since it was loaded")
        )
    path, options = source[0], dict(source[1])
    own = (("kv_dtype", change.kv_dtype), ("compute", change.compute))
    options |= {name: given for name, given in own if given is not None}
    if change.kernels is not None:  # what is said later wins
        rules = model.plan.selection.rules  # those of the environment, too
        options["kernels"] = ",".join(filter(None, (rules, change.kernels)))
    on_cpu = llm.device == "cpu"
    options |= {
        # Of one context, as long as that of the model: rope scaling may depend on its length.
        "n_blocks": -(-llm.max_seq_len // model.block_size),
        "max_batch_tokens": model.max_batch_tokens,
        "max_seqs": 1,
        "threads": (threads or llm.n_threads) if on_cpu else None,
    }
    converted = path if change.weights is None else _converted(path, change.weights)
    if on_cpu:
        _check_memory(llm, converted, options)
    return LLM(converted, device=llm.device, speculation="off", **options)


def _converted(path: str | Path, weights: str) -> str:
    """The same files under another format than that behind an "@", if there is one."""
    text = str(path)
    base = text.partition("@")[0] if text.startswith(PREFIX) else find_model(text)[0]
    return f"{base}@{weights}"


def _check_memory(llm: LLM, path: str | Path, options: dict[str, Any]) -> None:
    known = {name: value for name, value in options.items() if name != "adapters"}
    with resource_errors(), open_checkpoint(path) as checkpoint:
        needed = sum(plan(checkpoint, "cpu", LoadOptions(**known)).n_bytes.values())
    kept = model_of(llm).cache.unfilled_bytes  # what is filled counts as taken already
    room = available_bytes(promised=kept)
    if needed > room:
        raise MemoryBudgetError(
            f"a second engine of {llm.name!r} needs {needed >> 20} MiB, but {room >> 20} MiB are "
            f"left beside the {kept >> 20} MiB of cache that the first may still fill; choose a "
            "smaller format, or load the first with fewer n_blocks"
        )
