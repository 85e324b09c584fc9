"""The command info: what a model file or folder holds, and what loading it takes.

Only headers are read, so a file that was cut short among its weights will do.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pyroclast.cli.flags import DEFAULT_MODEL
from pyroclast.cli.terminal import counted, write

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from pyroclast.checkpoint.open import Checkpoint
    from pyroclast.checkpoint.tensor import Tensor
    from pyroclast.families.config import ModelConfig

_TOKENS = 1000  # the memory of the cache is told for so many


def add_arguments(command: ArgumentParser, name: str) -> None:
    """The model, by position as in `profile`."""
    del name
    command.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        default=DEFAULT_MODEL,
        help=f"file, folder or name ({DEFAULT_MODEL}); weights that were cut off are not missed",
    )


def info(args: Namespace) -> None:
    """A model's family, sizes, formats, template, and the memory that it needs."""
    from pyroclast.checkpoint.open import open_checkpoint

    with open_checkpoint(args.model, complete=False) as checkpoint:
        found = describe(checkpoint)
    if args.json:
        write(json.dumps(found))
        return
    for name, text in _lines(found):
        write(f"{name:<14}{text}")


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """All that the command tells, ready for JSON; sizes in bytes."""
    tensors = checkpoint.tensors.values()
    n_parameters = sum(math.prod(tensor.shape) for tensor in tensors)
    formats = _formats(tensors)
    return {
        "model": checkpoint.name,
        "path": checkpoint.path,
        "family": checkpoint.config.family,
        "n_parameters": n_parameters,
        **_sizes(checkpoint.config),
        "file_bytes": checkpoint.file_bytes,
        "missing_bytes": checkpoint.missing_bytes,
        "formats": formats,
        "bits_per_weight": 8 * sum(each["n_bytes"] for each in formats.values()) / n_parameters,
        "converted_at_load": checkpoint.conversion_line() or None,
        **_text(checkpoint),
        **_memory(checkpoint),
    }


def _sizes(config: ModelConfig) -> dict[str, Any]:
    """Of the layers, the first one's heads and widths; windows of those that have one."""
    first = config.layers[0]
    windows = {spec.attention.window for spec in config.layers} - {None}
    return {
        "n_layers": config.n_layers,
        "n_heads": first.attention.n_heads,
        "n_kv_heads": first.attention.n_kv_heads,
        "head_dim": first.attention.head_dim,
        "d_model": config.d_model,
        "d_ff": first.ffn.d_ff,
        "vocab_size": config.vocab_size,
        "max_seq_len": config.max_seq_len,
        "windows": sorted(window for window in windows if window is not None),
        "tie_embeddings": config.tie_embeddings,
    }


def _formats(tensors: Iterable[Tensor]) -> dict[str, dict[str, int]]:
    """How many tensors, and bytes, the file has in each format; the one with most bytes first."""
    from pyroclast_kernels.weights import formats

    found: dict[str, dict[str, int]] = {}
    for tensor in tensors:
        name = tensor.stored_format or tensor.format
        row = found.setdefault(name, {"tensors": 0, "n_bytes": 0})
        row["tensors"] += 1
        row["n_bytes"] += math.prod(tensor.shape[:-1]) * formats.row_bytes(tensor.shape[-1], name)
    return dict(sorted(found.items(), key=lambda item: -item[1]["n_bytes"]))


def _text(checkpoint: Checkpoint) -> dict[str, Any]:
    """What is known of the tokenizer and the chat templates; an error is told, not raised."""
    from pyroclast.errors import TokenizerError

    try:
        tokenizer = checkpoint.tokenizer()
    except TokenizerError as error:
        return {"tokenizer_error": str(error), "chat_templates": [], "takes_tools": False}
    templates = tokenizer.chat_templates
    takes_tools = any(re.search(r"\btools\b", source) for source in templates.values())
    return {
        "tokenizer_error": None,
        "chat_templates": sorted(templates),
        "takes_tools": takes_tools,
    }


def _memory(checkpoint: Checkpoint) -> dict[str, Any]:
    """Bytes of the weights as kernels want them, and of the cache; or why the model cannot run."""
    from pyroclast.errors import PyroclastError
    from pyroclast.model.kv_cache import BLOCK_SIZE, block_bytes
    from pyroclast.model.load_plan import automatic_kv_dtype
    from pyroclast.model.supported import check_supported
    from pyroclast.model.weights import load_weights
    from pyroclast_kernels.memory import CountingMemory
    from pyroclast_kernels.selection import Selection

    try:
        check_supported(checkpoint.config)
        memory = CountingMemory(on_gpu=False)
        load_weights(checkpoint, memory, float32=False)
        dtype = automatic_kv_dtype(checkpoint, Selection(None))
    except PyroclastError as error:
        return {"cannot_run": str(error), "weight_bytes": None, "kv_dtype": None,
                "kv_bytes_per_1000_tokens": None}  # fmt: skip
    per_token = block_bytes(checkpoint.config, dtype) // BLOCK_SIZE
    return {
        "cannot_run": None,
        "weight_bytes": memory.n_bytes,
        "kv_dtype": dtype,
        "kv_bytes_per_1000_tokens": _TOKENS * per_token,
    }


def _lines(found: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """The same for a reader: (what, text)."""
    yield "model", f"{found['model']} ({found['path']})"
    yield "family", found["family"]
    yield "parameters", f"{found['n_parameters']:,}"
    heads = f"{found['n_heads']} heads ({found['n_kv_heads']} for keys and values)"
    widths = f"d_model {found['d_model']}, d_ff {found['d_ff']}"
    yield "layers", f"{found['n_layers']} of {heads} of {found['head_dim']}, {widths}"
    tied = ", output head tied to the embedding" if found["tie_embeddings"] else ""
    yield "vocabulary", f"{counted(found['vocab_size'], 'token')}{tied}"
    windows = "".join(f", windows of {window:,}" for window in found["windows"])
    yield "context", f"{counted(found['max_seq_len'], 'token')}{windows}"
    for name, row in found["formats"].items():
        yield "weights", f"{name}: {counted(row['tensors'], 'tensor')}, {_size(row['n_bytes'])}"
    yield "", f"{found['bits_per_weight']:.2f} bits a weight; {_size(found['file_bytes'])} on disk"
    if found["missing_bytes"]:
        yield "cut short", f"{_size(found['missing_bytes'])} of the weights are missing"
    if found["converted_at_load"]:
        yield "at load", found["converted_at_load"]
    yield "chat template", _template_line(found)
    if found["tokenizer_error"]:
        yield "tokenizer", found["tokenizer_error"]
    if found["cannot_run"]:
        yield "cannot run", found["cannot_run"]
        return
    cache = f"{_size(found['kv_bytes_per_1000_tokens'])} of cache ({found['kv_dtype']})"
    weights = f"{_size(found['weight_bytes'])} of weights"
    yield "memory", f"{weights}, and {cache} for each {_TOKENS:,} tokens of context"


def _template_line(found: dict[str, Any]) -> str:
    if not found["chat_templates"]:
        return "none"
    return f"{', '.join(found['chat_templates'])}; {'with' if found['takes_tools'] else 'no'} tools"


def _size(n_bytes: int) -> str:
    """Bytes in the unit that leaves one to four digits."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.2f} {unit}"
    return f"{n_bytes} bytes"
