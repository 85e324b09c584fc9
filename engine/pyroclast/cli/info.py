"""The command info: what a model file or folder holds, and what loading it takes.

Only headers are read, so a file that was cut short among its weights will do.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pyroclast.cli.flags import add_model
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
    add_model(command, "; only headers are read: weights may be cut short")
    command.add_argument(
        "--check",
        action="store_true",
        help="read a packed file's weights, too, and compare their checksums",
    )


def info(args: Namespace) -> None:
    """A model's family, sizes, formats, template, and the memory that it needs."""
    from pyroclast.checkpoint.open import open_checkpoint

    with open_checkpoint(args.model, complete=args.check) as checkpoint:
        found = describe(checkpoint)
        if args.check:
            _check(checkpoint)
            found["packed"]["checked"] = True
    if args.json:
        write(json.dumps(found))
        return
    for name, text in _lines(found):
        write(f"{name:<14}{text}")


def _check(checkpoint: Checkpoint) -> None:
    """Compares the checksums, with a bar at a terminal; ModelFileError where one differs."""
    from pyroclast.errors import ModelFileError
    from pyroclast.progress import progress_bar

    packed = checkpoint.packed
    if packed is None:
        raise ModelFileError(f"{checkpoint.path}: has no checksums; only packed files have")
    with progress_bar(len(packed.file.entries), "tensor") as show:
        packed.file.check_digests(show)


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
        **sizes(checkpoint.config),
        "file_bytes": checkpoint.file_bytes,
        "missing_bytes": checkpoint.missing_bytes,
        "packed": _packed(checkpoint),
        "formats": formats,
        "bits_per_weight": 8 * sum(each["n_bytes"] for each in formats.values()) / n_parameters,
        "converted_at_load": checkpoint.conversion_line() or None,
        **_text(checkpoint),
        **_memory(checkpoint),
    }


def _packed(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """What a packed file says of itself; None for any other."""
    from pyroclast_kernels.weights.packing import LAYOUT_VERSION

    packed = checkpoint.packed
    if packed is None:
        return None
    fingerprint = packed.file.fingerprint
    return {"layout": LAYOUT_VERSION, "fingerprint": fingerprint, "checked": False}


def sizes(config: ModelConfig) -> dict[str, Any]:
    """Of the layers, the heads of the first with attention (0 where there is none) and the first
    one's widths; windows of those that have one, and the experts and width of the first that has
    some."""
    ffns = [spec.ffn for spec in config.layers if spec.ffn is not None]
    ffn = next((each for each in ffns if each.experts is not None), ffns[0] if ffns else None)
    experts = None if ffn is None else ffn.experts
    attentions = list(config.attentions.values())
    first_heads = attentions[0] if attentions else None
    windows = {attention.window for attention in attentions} - {None}
    return {
        "n_layers": config.n_layers,
        "n_attention_layers": len(attentions),
        "n_recurrent_layers": sum(spec.recurrent is not None for spec in config.layers),
        **{name: getattr(first_heads, name, 0) for name in ("n_heads", "n_kv_heads", "head_dim")},
        "d_model": config.d_model,
        "d_ff": 0 if ffn is None else ffn.d_ff,
        "n_experts": experts.n_experts if experts else 0,
        "n_active_experts": experts.n_active if experts else 0,
        "d_ff_shared": experts.shared_d_ff if experts else 0,
        "vocab_size": config.vocab_size,
        "max_seq_len": config.max_seq_len,
        "windows": sorted(window for window in windows if window is not None),
        "tie_embeddings": config.tie_embeddings,
    }


def _formats(tensors: Iterable[Tensor]) -> dict[str, dict[str, int]]:
    """How many tensors, and bytes, a model of the file has in each format; the one with most bytes
    first."""
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
    from pyroclast.model.state_cache import state_bytes
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
                "kv_bytes_per_1000_tokens": None, "state_bytes": None}  # fmt: skip
    per_token = block_bytes(checkpoint.config, dtype) // BLOCK_SIZE
    return {
        "cannot_run": None,
        "weight_bytes": memory.n_bytes,
        "kv_dtype": dtype,
        "kv_bytes_per_1000_tokens": _TOKENS * per_token,
        "state_bytes": state_bytes(checkpoint.config),
    }


def _lines(found: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """The same for a reader: (what, text)."""
    yield "model", f"{found['model']} ({found['path']})"
    yield "family", found["family"]
    yield "parameters", f"{found['n_parameters']:,}"
    heads = f"{found['n_heads']} heads ({found['n_kv_heads']} for keys and values)"
    widths = f"d_model {found['d_model']}, d_ff {found['d_ff']}"
    if found["n_experts"]:
        widths += f" of {found['n_experts']} experts, {found['n_active_experts']} for each token"
    yield "layers", f"{found['n_layers']} of {heads} of {found['head_dim']}, {widths}"
    if found["n_recurrent_layers"]:
        yield "", f"{found['n_recurrent_layers']} of them recurrent, with a state and no heads"
    if alone := found["n_layers"] - found["n_attention_layers"] - found["n_recurrent_layers"]:
        yield "", f"{alone} of them a feed-forward alone, without heads"
    tied = ", output head tied to the embedding" if found["tie_embeddings"] else ""
    yield "vocabulary", f"{counted(found['vocab_size'], 'token')}{tied}"
    windows = "".join(f", windows of {window:,}" for window in found["windows"])
    yield "context", f"{counted(found['max_seq_len'], 'token')}{windows}"
    for name, row in found["formats"].items():
        yield "weights", f"{name}: {counted(row['tensors'], 'tensor')}, {_size(row['n_bytes'])}"
    yield "", f"{found['bits_per_weight']:.2f} bits a weight; {_size(found['file_bytes'])} on disk"
    if packed := found["packed"]:
        checked = "; all checksums are right" if packed["checked"] else ""
        text = f"layout {packed['layout']}, fingerprint {packed['fingerprint'][:16]}{checked}"
        yield "packed", text
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
    if found["state_bytes"]:
        yield "", f"{_size(found['state_bytes'])} for each state of a text in the recurrent layers"


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
