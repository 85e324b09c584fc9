"""What the readers of both file formats do alike: find the family, check and complete values.

What a file asks for and Pyroclast does not do (another architecture, rope scaling or activation,
experts) is an UnsupportedModelError; a value of the wrong kind is a ModelFileError.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pyroclast.errors import ModelFileError, UnsupportedModelError
from pyroclast.families.family import Family
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.registry import FAMILIES

_FIELDS = frozenset(each.name for each in fields(Hyperparameters))
_FLAGS = ("tie_embeddings", "qkv_bias", "o_bias", "ffn_bias")
# Other projects' names of the activations.
_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
}


def with_extra(values: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameters' arguments: what is no field of theirs goes into `extra`."""
    extra = {name: value for name, value in values.items() if name not in _FIELDS}
    return {name: value for name, value in values.items() if name in _FIELDS} | {"extra": extra}


def find_family(table_field: str, name: object, what: str) -> Family:
    """The family whose field of that name is `name`; the error lists those that there are."""
    known = {getattr(family, table_field): family for family in FAMILIES.values()}
    known.pop(None, None)
    if not isinstance(name, str) or name not in known:
        raise UnsupportedModelError(
            f"{what} {name!r} is not supported; supported: {', '.join(sorted(known))}"
        )
    return known[name]


def fill_head_sizes(values: dict[str, Any], keys: Mapping[str, str]) -> None:
    """Check that the sizes which have no default are there, and fill in those that follow."""
    required = ("n_layers", "n_heads", "d_model", "d_ff", "vocab_size", "max_seq_len", "norm_eps")
    for field in required:
        if field not in values:
            raise ModelFileError(f"{keys[field]!r} is missing")
    values.setdefault("n_kv_heads", values["n_heads"])
    if "head_dim" not in values:
        n_heads, d_model = values["n_heads"], values["d_model"]
        for field in ("n_heads", "d_model"):
            size = values[field]
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise ModelFileError(f"{keys[field]!r} must be a whole number >= 1, got {size!r}")
        if d_model % n_heads:
            raise ModelFileError(
                f"{keys['d_model']!r} must be a multiple of {keys['n_heads']!r} = {n_heads}, "
                f"got {d_model}"
            )
        values["head_dim"] = d_model // n_heads


def activation_of(name: object, keys: Mapping[str, str]) -> str:
    """Our name of an activation; the error lists those that there are."""
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        raise UnsupportedModelError(
            f"{keys.get('activation', 'activation')} {name!r} is not supported; supported: "
            + ", ".join(map(repr, _ACTIVATIONS))
        )
    return _ACTIVATIONS[name]


def check_flags(values: Mapping[str, Any], keys: Mapping[str, str]) -> None:
    """ModelFileError for a switch that is neither true nor false."""
    for field in _FLAGS:
        if not isinstance(values.get(field, False), bool):
            raise ModelFileError(f"{keys[field]} must be true or false, got {values[field]!r}")


def read_token_ids(*values: object) -> tuple[int, ...]:
    """Each value is one id, a list of ids, or None for none; repeats count once."""
    ids: dict[int, None] = {}
    for value in values:
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, int) and not isinstance(item, bool):
                ids[item] = None
            elif item is not None:
                raise ModelFileError(f"a token id must be a whole number, got {item!r}")
    return tuple(ids)
