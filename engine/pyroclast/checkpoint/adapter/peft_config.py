"""adapter_config.json of a peft folder: what it may say, and the rank and scale of each module.

The file is hostile input, and peft reads patterns in it as regular expressions.  None is run here:
names are compared as they are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pyroclast.checkpoint.adapter.pairs import MAX_RANK
from pyroclast.errors import ModelFileError, UnsupportedModelError

# Fields that say how the adapter was trained, or whose effect shows in the tensors themselves.
_NO_EFFECT = frozenset({
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "corda_config", "eva_config",
    "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights",
    "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout",
    "lora_ga_config", "megatron_core", "peft_type", "peft_version", "qalora_group_size", "r",
    "rank_pattern", "revision", "runtime_config", "target_modules", "task_type", "use_rslora",
    "bias",
})  # fmt: skip
# Ways to begin that leave the base's weights alone; others train against a changed base.
_KEEPS_BASE = (None, True, False, "gaussian", "eva", "orthogonal")
_MAX_PARTS = 16
_PLAIN_NAME = re.compile(r"[\w.-]+", re.ASCII)


# A value of a pattern, and its place there: of several names that fit, the first counts.
Placed = tuple[int, float]


@dataclass(frozen=True)
class PeftConfig:
    """targets: the names that modules of the base end in.  layers: those that are changed, None
    for all.  excludes: some modules with these names may be left out."""

    rank: int
    alpha: float
    targets: frozenset[str]
    rank_pattern: Mapping[str, Placed]
    alpha_pattern: Mapping[str, Placed]
    by_square_root: bool
    layers: frozenset[int] | None
    excludes: bool

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> PeftConfig:
        """The object in adapter_config.json.  UnsupportedModelError names the field that asks for
        something else than plain LoRA, ModelFileError the one that is wrong."""
        if config.get("peft_type") != "LORA":
            raise UnsupportedModelError(
                f"peft_type must be 'LORA', got {config.get('peft_type')!r:.100}"
            )
        _check_plain(config)
        ranks, alphas = (_pattern(config, f"{name}_pattern") for name in ("rank", "alpha"))
        return cls(
            rank=_rank("r", config.get("r")),
            alpha=_number("lora_alpha", config.get("lora_alpha")),
            targets=_targets(config.get("target_modules")),
            rank_pattern={
                key: (i, _rank(f"rank_pattern[{key!r:.100}]", n))
                for i, (key, n) in enumerate(ranks.items())
            },
            alpha_pattern={
                key: (i, _number(f"alpha_pattern[{key!r:.100}]", n))
                for i, (key, n) in enumerate(alphas.items())
            },
            by_square_root=_flag(config, "use_rslora"),
            layers=_layers(config.get("layers_to_transform")),
            excludes=bool(config.get("exclude_modules")),
        )

    def targets_it(self, module: str) -> bool:
        """Whether target_modules names it."""
        return not self.targets.isdisjoint(endings(module))

    def rank_of(self, module: str) -> int:
        """The rank that a module has."""
        rank: int | None = _first(self.rank_pattern, module)
        return self.rank if rank is None else rank

    def scale_of(self, module: str) -> float:
        """The factor before B @ A."""
        rank = self.rank_of(module)
        found: float | None = _first(self.alpha_pattern, module)
        alpha = self.alpha if found is None else found
        return alpha / (math.sqrt(rank) if self.by_square_root else rank)


def _check_plain(config: Mapping[str, Any]) -> None:
    """UnsupportedModelError for a field that changes more than products by B @ A."""
    for field, value in config.items():
        if field not in _NO_EFFECT and value not in (None, False, [], {}):
            raise UnsupportedModelError(
                f"{field!r:.100} is {value!r:.100}: not supported, an adapter must be plain LoRA"
            )
    if config.get("bias", "none") != "none":
        raise UnsupportedModelError(
            f"bias must be 'none', got {config['bias']!r:.100}: trained biases are not supported"
        )
    begun = config.get("init_lora_weights")
    if not any(begun is each or begun == each for each in _KEEPS_BASE):
        raise UnsupportedModelError(
            f"init_lora_weights {begun!r:.100} is not supported: it changes the base's weights; "
            "convert the adapter to plain LoRA with peft's path_initial_model_for_weight_conversion"
        )


def _targets(value: Any) -> frozenset[str]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise ModelFileError(f"target_modules must be a list of names, got {value!r:.200}")
    for name in names:
        if not _PLAIN_NAME.fullmatch(name):
            raise UnsupportedModelError(
                f"target_modules {name!r:.200} is a regular expression, which is not supported; "
                'list the names of the modules instead, as in ["q_proj", "v_proj"]'
            )
    return frozenset(names)


def _layers(value: Any) -> frozenset[int] | None:
    layers = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(layer) is int for layer in layers):
        raise ModelFileError(f"layers_to_transform must list layers by number, got {value!r:.200}")
    return frozenset(layers) or None


def _pattern(config: Mapping[str, Any], field: str) -> dict[str, Any]:
    """{name: value}; peft marks a whole name by a leading ^."""
    value = config.get(field)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ModelFileError(f"{field} must be an object, got {value!r:.200}")
    for key in value:
        if not _PLAIN_NAME.fullmatch(key.removeprefix("^")):
            raise UnsupportedModelError(
                f"{field} has the regular expression {key!r:.200}, which is not supported; name "
                'the modules instead, as in {"q_proj": 16}'
            )
    return value


def _rank(field: str, value: Any) -> int:
    if type(value) is not int or not 1 <= value <= MAX_RANK:
        raise ModelFileError(f"{field} must be a whole number in 1..{MAX_RANK}, got {value!r:.100}")
    return value


def _number(field: str, value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) < 1e30:
        raise ModelFileError(f"{field} must be a finite number, got {value!r:.100}")
    return float(value)


def _flag(config: Mapping[str, Any], field: str) -> bool:
    value = config.get(field, False)
    if not isinstance(value, bool):
        raise ModelFileError(f"{field} must be true or false, got {value!r:.100}")
    return value


def endings(module: str) -> Iterator[str]:
    """The names that peft counts a module as: what it ends in, and itself.  The shortest first;
    only the last parts of a name that has very many."""
    parts = module.rsplit(".", _MAX_PARTS)
    yield from (".".join(parts[i:]) for i in range(len(parts) - 1, 0, -1))
    yield module


def _first(pattern: Mapping[str, Placed], module: str) -> Any:
    """The value of the first name in the pattern that a module ends in; None if it is none."""
    found = [pattern[key] for key in (*endings(module), f"^{module}") if key in pattern]
    return min(found)[1] if found else None
