"""Which format each tensor gets: one for all matrices, or one of llama.cpp's mixes.

Mixes spend more bits where errors cost most: on the output head, and on the values and the last
product of some layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pyroclast.errors import ModelFileError
from pyroclast_kernels.weights import formats
from pyroclast_kernels.weights.encode import encodable_formats

# Matrices that are looked up or decide what runs: no file format quantizes them.
_KEPT_EXACT = (
    "position_embd.weight", "token_types.weight", "ffn_gate_inp.weight", "shortconv.conv.weight",
    "ssm_conv1d.weight", "per_layer_model_proj.weight", "altup_router.weight",
    "altup_predict_coef.weight", "altup_correct_coef.weight",
)  # fmt: skip
# What begins and ends residual streams, and what goes by every mixer: 8 bits at least, as their
# errors reach every layer; llama.cpp's quantizer leaves them as they are.
_KEPT_FINE = ("altup_proj.weight", "altup_unembd_proj.weight", "laurel_l.weight", "laurel_r.weight")
VALUES = (".attn_v.weight", ".attn_qkv.weight")
FFN_DOWN = (".ffn_down.weight", ".ffn_down_exps.weight", ".ffn_down_shexp.weight")
# A row that is no multiple of a K format's 256 columns.
_NARROWER = {"q2_k": "q4_0", "q3_k": "q4_0", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"}
# general.file_type: llama.cpp's number of each choice.
FILE_TYPES = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q2_k": 10,
    "q3_k": 11, "q4_k": 14, "q4_k_s": 14, "q4_k_m": 15, "q5_k": 16, "q5_k_m": 17, "q6_k": 18,
    "bf16": 32,
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where a tensor stands: its name in a GGUF file, its layer (None: in no layer) of n_layers,
    and whether it is the output head, or the embedding in its place.  turn: its number among
    those of its kind, and how many these are; mixes choose by it where only some layers have such a
    tensor.  None: its layer, of n_layers."""

    name: str
    layer: int | None
    n_layers: int
    is_head: bool
    turn: tuple[int, int] | None = None

    @property
    def counted(self) -> tuple[int, int]:
        """turn, or the layer of all layers; of what is in no layer, -1."""
        return self.turn or (-1 if self.layer is None else self.layer, self.n_layers)

    @property
    def needs_bits(self) -> bool:
        """Whether it is among the first or last eighth, or every third between them."""
        if self.layer is None:
            return False
        i, n = self.counted
        first, last = n // 8, 7 * n // 8
        return i < first or i >= last or (i - first) % 3 == 2


def _q4_k_s(place: Place) -> str:
    if place.layer is None:
        return "q4_k"
    i, n = place.counted
    few = 4 if place.name.endswith(VALUES) else n // 8 if place.name.endswith(FFN_DOWN) else 0
    return "q5_k" if i < few else "q4_k"


def _medium(usual: str) -> Callable[[Place], str]:
    def choose(place: Place) -> str:
        is_one = place.name.endswith((*VALUES, *FFN_DOWN))
        return "q6_k" if is_one and place.needs_bits else usual

    return choose


_MIXES: dict[str, Callable[[Place], str]] = {
    "q4_k_s": _q4_k_s,
    "q4_k_m": _medium("q4_k"),
    "q5_k_m": _medium("q5_k"),
}


def targets() -> list[str]:
    """What a model can be converted to."""
    return [*encodable_formats(), *_MIXES]


def check_target(target: str) -> None:
    """ModelFileError, with the list, unless that is a format or a mix."""
    if target not in targets():
        raise ModelFileError(f"cannot convert to {target!r}; supported: {', '.join(targets())}")


def is_matrix(name: str, shape: Sequence[int]) -> bool:
    """Whether a tensor is one of those that a format is chosen for."""
    is_norm = name.endswith("_norm.weight")
    return (
        len(shape) >= 2
        and name.endswith(".weight")
        and name not in _KEPT_EXACT
        and not (is_norm or name.endswith(_KEPT_EXACT))
    )


def format_of(target: str, place: Place, n_cols: int) -> str:
    """The format of one matrix; a narrow one gets the nearest format that takes its columns."""
    if target in _MIXES:
        chosen = "q6_k" if place.is_head else _MIXES[target](place)
        if place.is_head and n_cols % formats.FORMATS[chosen].block_columns:
            chosen = "q8_0"
    else:
        chosen = target
    if place.name.endswith(_KEPT_FINE) and formats.FORMATS[chosen].block_columns > 1:
        chosen = "q8_0"
    if n_cols % formats.FORMATS[chosen].block_columns:
        chosen = _NARROWER.get(chosen, "f16")
    return "f16" if n_cols % formats.FORMATS[chosen].block_columns else chosen


def n_bytes_of(shape: Sequence[int], format: str) -> int:
    """Bytes of a tensor of that shape."""
    return math.prod(shape[:-1]) * formats.row_bytes(shape[-1], format)
