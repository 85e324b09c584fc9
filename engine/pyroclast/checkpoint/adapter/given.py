"""Other values for a loaded adapter, handed over as arrays."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from pyroclast.checkpoint.adapter.open import Products
from pyroclast.checkpoint.adapter.pairs import StoredPair, match_pairs
from pyroclast.checkpoint.convert.keys import written_family
from pyroclast.checkpoint.given import stored
from pyroclast.checkpoint.match import Naming
from pyroclast.checkpoint.parts import StoredTensor
from pyroclast.errors import ModelFileError, RequestError
from pyroclast.families.config import ModelConfig
from pyroclast.families.hf_names import table_names
from pyroclast.families.registry import FAMILIES

_PREFIX = "base_model.model."


def given_products(config: ModelConfig, scales: Mapping[str, float], arrays: Any) -> Products:
    """The products of an adapter of a model of that config, of tensors by peft's names or GGUF's.
    scales: canonical name -> the scale that the adapter was loaded with there.  RequestError for
    tensors that do not fit, and unless they change the same weights as the loaded adapter."""
    if not isinstance(arrays, Mapping) or not all(isinstance(name, str) for name in arrays):
        raise RequestError(
            'tensors must be {"name": array, ...}, such as get_peft_model_state_dict(), got '
            f"{type(arrays).__name__}"
        )
    family = FAMILIES[config.family]
    sides: dict[str, dict[str, StoredTensor]] = {}
    for name, value in arrays.items():
        key, side = _split(name)
        sides.setdefault(key, {})[side] = stored(name, value)
    pairs = {}
    for key, found in sides.items():
        if len(found) < 2:
            [there] = found.values()
            raise RequestError(f"tensor {there.name!r} has no partner: give both A and B")
        pairs[key] = StoredPair(found["a"], found["b"], 1.0)
    naming = Naming.of_folder(family)
    if any(name.endswith((".lora_a", ".lora_b")) for name in arrays):
        naming = Naming.of_gguf(written_family(family))
    else:
        pairs = {table: pairs[name] for name, table in table_names(family, pairs).items()}
    try:
        matched = match_pairs(config, naming, pairs)
        _check_same(matched, scales)
        return {name: replace(pair, scale=scales[name]).read() for name, pair in matched.items()}
    except ModelFileError as error:
        raise RequestError(f"{error}; the adapter was not changed") from error


def _check_same(matched: Collection[str], scales: Collection[str]) -> None:
    """ModelFileError unless both have the same weights."""
    for odd in sorted(set(matched) ^ set(scales)):
        raise ModelFileError(
            "the given tensors must change the same weights as the loaded adapter; they "
            f"{'do not change' if odd in scales else 'also change'} {odd!r}"
        )


def _split(name: str) -> tuple[str, str]:
    """("model.layers.0.self_attn.q_proj.weight", "a") of a name as peft's files and models have it;
    likewise of a GGUF file's."""
    for side in ("a", "b"):
        if name.endswith(f".lora_{side}"):
            return name.removesuffix(f".lora_{side}"), side
        module, found, rest = name.rpartition(f".lora_{side.upper()}.")
        # In a model the adapter's own name stands before `weight`.
        if found and rest.rpartition(".")[2] == "weight":
            return f"{module.removeprefix(_PREFIX)}.weight", side
    raise RequestError(
        f"tensor {name!r} is no matrix of plain LoRA; names end in .lora_A.weight and "
        ".lora_B.weight (peft) or in .lora_a and .lora_b (GGUF)"
    )
