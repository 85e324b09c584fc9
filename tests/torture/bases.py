"""Sound tiny models of every family, which mutations begin with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import tiny
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.errors import PyroclastError
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.registry import FAMILIES
from pyroclast.families.rope import RopeScaling
from pyroclast.model.write_packed import write_packed
from torture.gguf_image import Image, typed
from vocabularies import CONTROL, USER_DEFINED, sentencepiece

SMALL = replace(
    tiny.BASE, n_layers=1, n_heads=2, n_kv_heads=1, d_model=32, d_ff=32, vocab_size=280,
    max_seq_len=64,
)  # fmt: skip
# Rows of 256 values, as K-quants need them.
WIDE = replace(SMALL, d_model=256, d_ff=256)
ROPES: tuple[dict[str, Any], ...] = (
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "dynamic", "factor": 4.0, "original_max_position_embeddings": 64},
    {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    {
        "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64,
        "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
        "attention_factor": 1.0, "truncate": False,
    },
    {
        "rope_type": "longrope", "factor": 2.0, "short_factor": [1.0] * 8, "long_factor": [2.0] * 8,
        "original_max_position_embeddings": 32,
    },
    {
        "full_attention": {"rope_type": "default", "rope_theta": 1e4},
        "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
    },
)  # fmt: skip


# Keys whose value is no number that everything takes.
_SPECIAL = {
    "layer_types": ["full_attention"],
    "no_rope_layers": [1],
    "num_local_experts": 0,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
}


def gguf_images(folder: Path) -> list[Image]:
    """Of every family that a plain list of keys describes, with both kinds of vocabulary."""
    images, path = [], folder / "base.gguf"
    for name in FAMILIES:
        config = replace(SMALL, family=name)
        with contextlib.suppress(PyroclastError):  # it needs more keys than these
            tiny.write_gguf(path, config, tiny.random_weights(config), "Q8_0")
            open_checkpoint(path).close()
            images.append(Image.read(path))
    tiny.write_gguf(path, WIDE, tiny.random_weights(WIDE), "Q4_0")
    images += [Image.read(path)]
    scaled = replace(SMALL, rope_scaling=RopeScaling("llama3", 8.0, 1.0, 4.0, 64))
    tiny.write_gguf(path, scaled, tiny.random_weights(scaled), "F16")
    images.append(Image.read(path))
    pieces = _with_pieces(images[0])
    # Half go without their vocabulary: it is most of a tiny file, and has a kind of its own.
    bare = [image if i % 2 == 0 else without_tokenizer(image) for i, image in enumerate(images)]
    return [*bare, pieces]


def packed_files(folder: Path) -> Iterator[Path]:
    """Packed files of several formats."""
    bases = [(SMALL, "Q8_0"), (SMALL, "F16"), (SMALL, "F32"), (WIDE, "Q4_0"), (WIDE, "Q6_K")]
    for i, (config, quant) in enumerate(bases):
        source, target = folder / "source.gguf", folder / f"base-{i}.pyro"
        tiny.write_gguf(source, config, tiny.random_weights(config), "F32")
        write_packed(str(source), str(target), quant.lower(), threads=1)
        yield target


def without_tokenizer(image: Image) -> Image:
    """The same model without a vocabulary."""
    keys = [pair for pair in image.keys if not pair[0].startswith(b"tokenizer.")]
    values = {k: v for k, v in image.values.items() if not k.startswith(b"tokenizer.")}
    return replace(image, keys=keys, values=values)


def _with_pieces(image: Image) -> Image:
    """The same model with a SentencePiece vocabulary."""
    pieces = ["▁", "▁the", "t", "h", "e", "th", "a", "n", "an", "c", "at", "▁c", "i", "in"]
    others = [("<|eos|>", CONTROL), ("<user>", USER_DEFINED), ("<pad>", CONTROL)]
    found = sentencepiece(
        pieces, others, add_space_prefix=True, bos_token_id=1, eos_token_id=2, add_bos_token=True,
        chat_template="{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}",
    )  # fmt: skip
    dice, bare = Random(0), without_tokenizer(image)
    new = {key.encode(): typed(dice, value) for key, value in found.items()}
    values = bare.values | {key.encode(): value for key, value in found.items()}
    return replace(bare, keys=[*bare.keys, *new.items()], values=values)


def parts_of(image: Image, n_parts: int) -> list[Image]:
    """The model in parts, as llama.cpp's splitter writes them."""
    dice, parts = Random(0), []
    for number in range(n_parts):
        numbers = {"no": number, "count": n_parts, "tensors.count": len(image.tensors)}
        own = {b"split." + k.encode(): v for k, v in numbers.items()}
        keys = [(key, typed(dice, value, 4)) for key, value in own.items()]
        part = replace(image, keys=keys, values=dict(own), tensors=image.tensors[number::n_parts])
        if number == 0:
            part = replace(part, keys=[*image.keys, *keys], values=image.values | own)
        parts.append(part)
    return parts


def configs() -> list[dict[str, Any]]:
    """A config.json of every family, with every kind of rotary scaling."""
    found: list[dict[str, Any]] = []
    for name in FAMILIES:
        base = hf_config(replace(SMALL, family=name))
        found += [base, *({**base, "rope_parameters": rope} for rope in ROPES)]
    nested = {"model_type": "gemma3", "text_config": found[0] | {"model_type": "gemma3_text"}}
    return [*found, nested]


def hf_config(config: Hyperparameters) -> dict[str, Any]:
    """config.json under the family's own keys."""
    family = FAMILIES[config.family]
    known = {
        key: getattr(config, field)
        for field, key in family.hf_keys.items()
        if getattr(config, field, None) is not None
    }
    other = {
        key: _SPECIAL.get(key, 1)
        for field, key in family.hf_keys.items()
        if not hasattr(config, field)
    }
    fixed = {"model_type": family.hf_model_type, "torch_dtype": "float32", "bos_token_id": 256}
    allowed = {key: values[0] for key, values in family.hf_allowed.items()}
    return fixed | {"eos_token_id": [257], "head_dim": 16} | other | known | allowed


def family_folders() -> Iterator[Path]:
    """A folder with weights for every family that a plain list of keys describes."""
    for name in FAMILIES:
        config, folder = replace(SMALL, family=name), Path(f"of-{name}")
        with contextlib.suppress(PyroclastError):
            tiny.write_folder(folder, config, tiny.random_weights(config))
            open_checkpoint(folder).close()
            yield folder


def write_folder(folder: Path) -> Path:
    """A sound Hugging Face folder with one safetensors file."""
    return tiny.write_folder(folder, SMALL, tiny.random_weights(SMALL))
