"""The GGUF files that every engine reads: found, made with random weights, or requantized.

Files are made once and kept in the user's cache directory, pyroclast/bench, or in a given one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pyroclast.checkpoint import dummy as shapes
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.errors import KernelError, UnsupportedModelError
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.registry import FAMILIES, config_of
from pyroclast.families.rope import inv_freq
from pyroclast.text.vocab import byte_level_alphabet
from pyroclast_kernels import cache_folder

# (source, target, format): requantizes the source.
Quantize = Callable[[Path, Path, str], None]

_BYTES = 256
_CONTROL = ["<|bos|>", "<|eos|>"]
_CONTROL_TYPE, _NORMAL_TYPE = 3, 1
_F16_FILE = 1


def cache_directory(directory: Path | None = None) -> Path:
    """Where files are kept; the folder is made if need be.  KernelError if the user's own cannot be
    used."""
    if directory is None:
        try:
            directory = cache_folder.make(cache_folder.path_of("bench"))
        except cache_folder.CacheError as error:
            raise KernelError(str(error)) from error
    directory.mkdir(parents=True, exist_ok=True)
    cache_folder.sweep(directory, "*.tmp")
    return directory


def source_of(model: str, directory: Path | None = None) -> tuple[Path, str]:
    """(The file that all others are made from, how their names begin).  That of a dummy model is
    written once, in f16."""
    if model.startswith(shapes.PREFIX):
        name, _ = shapes.parse(model)
        config, key = shapes.hyperparameters_of(name), name.replace(":", "-")
        source = cache_directory(directory) / f"{key}.f16.gguf"
        made_once(source, lambda target: write_random_gguf(target, config))
        return source, key
    with open_checkpoint(model) as checkpoint:
        source = Path(checkpoint.path)
    about = source.stat()
    key = hashlib.sha256(f"{source}{about.st_size}{about.st_mtime_ns}".encode()).hexdigest()
    return source, f"{source.stem}.{key[:8]}"


def model_file(
    model: str,
    format: str | None,
    quantize: Quantize,
    *,
    pure: bool,
    directory: Path | None = None,
) -> Path:
    """A GGUF file of the model, requantized if a format is given; made unless it exists.

    model: a GGUF file, an installed model, or "dummy:<shape>".  pure: every matrix in the format
    itself, also those that llama.cpp would keep in a finer one."""
    source, key = source_of(model, directory)
    if model.startswith(shapes.PREFIX):
        format = format or shapes.parse(model)[1]
        if format == "f16":
            return source
    elif format is None:
        return source
    found = cache_directory(directory) / f"{key}.{format}{'.pure' if pure else ''}.gguf"
    made_once(found, lambda target: quantize(source, target, format))
    return found


def made_once(path: Path, make: Callable[[Path], None]) -> None:
    """Calls make(temporary path) unless the file or folder exists; never leaves half of one."""
    if path.exists():
        return
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        make(temporary)
        temporary.replace(path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)


def write_random_gguf(path: Path, config: Hyperparameters) -> None:
    """Random weights in f16 in a model's real shape, with a vocabulary of its size."""
    import gguf

    family = FAMILIES[config.family]
    assert family.gguf_architecture is not None
    if family.is_recurrent:
        raise UnsupportedModelError(
            f"random files of {config.family} are not written for other programs; give a GGUF file"
        )
    writer = gguf.GGUFWriter(path, family.gguf_architecture)
    _add_config(writer, config)
    _add_vocabulary(writer, config)
    tensors = list(shapes.dummy_tensors(config_of(config), "f16").values())
    freqs = _rope_freqs(config)
    if freqs is not None:
        writer.add_tensor_info("rope_freqs.weight", freqs.shape, freqs.dtype, freqs.nbytes)
    for tensor in tensors:
        dtype = np.dtype(np.float32 if tensor.format == "f32" else np.float16)
        name = _gguf_name(family.gguf_tensors, tensor.name)
        writer.add_tensor_info(name, tensor.shape, dtype, tensor.n_bytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if freqs is not None:
        writer.write_tensor_data(freqs)
    for tensor in tensors:
        writer.write_tensor_data(tensor.rows())
    writer.close()


def _gguf_name(names: Mapping[str, str], canonical: str) -> str:
    first, _, rest = canonical.partition(".")
    if first != "layers":
        return names[canonical]
    layer, _, name = rest.partition(".")
    return names["layers.{i}." + name].format(i=layer)


def _add_config(writer: Any, config: Hyperparameters) -> None:
    import gguf

    writer.add_block_count(config.n_layers)
    writer.add_context_length(config.max_seq_len)
    writer.add_embedding_length(config.d_model)
    writer.add_feed_forward_length(config.d_ff)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_kv_heads)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(_F16_FILE)
    if config.head_dim * config.n_heads != config.d_model:
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    if config.sliding_window is not None:
        writer.add_sliding_window(config.sliding_window)
    scaling = config.rope_scaling
    if scaling is not None and scaling.kind == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(scaling.factor)
        writer.add_rope_scaling_orig_ctx_len(scaling.original_max_seq_len)
    if "n_experts" in config.extra:
        _add_experts(writer, config)


def _add_experts(writer: Any, config: Hyperparameters) -> None:
    writer.add_expert_count(config.extra["n_experts"])
    writer.add_expert_used_count(config.extra["n_active"])
    writer.add_expert_feed_forward_length(config.extra.get("d_expert", config.d_ff))


def _add_vocabulary(writer: Any, config: Hyperparameters) -> None:
    """Bytes, two control tokens, one merge (llama.cpp needs one), and names for all others."""
    letter_of_byte = {byte: letter for letter, byte in byte_level_alphabet().items()}
    tokens = [letter_of_byte[byte] for byte in range(_BYTES)] + _CONTROL + ["th"]
    tokens += [f"<|id_{i}|>" for i in range(len(tokens), config.vocab_size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [_CONTROL_TYPE if token in _CONTROL else _NORMAL_TYPE for token in tokens]
    )
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(_BYTES)
    writer.add_eos_token_id(_BYTES + 1)


def _rope_freqs(config: Hyperparameters) -> Any:
    """Divisors of the rotary frequencies, float32 (head_dim / 2,); None if there are none, or keys
    that say them."""
    if config.rope_scaling is None or config.rope_scaling.kind == "yarn":
        return None
    exponents = np.arange(0, config.head_dim, 2) / config.head_dim
    return (config.rope_theta**-exponents / inv_freq(config.rope, config.head_dim)).astype(
        np.float32
    )
