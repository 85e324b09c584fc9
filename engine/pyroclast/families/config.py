"""What the forward pass must know of a model: sizes, rotary frequencies, special token ids.

A ModelConfig checks itself when it is made, because its numbers come from files that may lie:
every error is a ModelFileError that names the field, what it got, and what is allowed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pyroclast.errors import ModelFileError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Upper limits far above any published model; they keep a lying file from asking for absurd work
# (a cos/sin table of 2**60 rows) before its tensors have been compared with the file's size.
_LIMITS = {
    "n_layers": 4096,
    "n_heads": 4096,
    "n_kv_heads": 4096,
    "head_dim": 4096,
    "d_model": 1 << 20,
    "d_ff": 1 << 22,
    "vocab_size": 1 << 24,
    "max_seq_len": 1 << 28,
}

# Well inside float32, so that converting a constant cannot overflow.
_SMALLEST, _LARGEST = 1e-30, 1e30


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched beyond the trained context.

    linear: every frequency divided by `factor`.  llama3: wavelengths above
    original_max_seq_len / low_freq_factor divided by `factor`, those below
    original_max_seq_len / high_freq_factor kept, and those between blended.
    """

    kind: Literal["linear", "llama3"]
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_seq_len: int = 8192

    def __post_init__(self) -> None:
        for field in ("factor", "low_freq_factor", "high_freq_factor"):
            _check_positive(f"rope scaling {field}", getattr(self, field))
        _check_size("rope scaling original_max_seq_len", self.original_max_seq_len, 1 << 28)
        if self.kind == "llama3" and self.high_freq_factor <= self.low_freq_factor:
            raise ModelFileError(
                f"rope scaling high_freq_factor must be above low_freq_factor "
                f"{self.low_freq_factor}, got {self.high_freq_factor}"
            )


@dataclass(frozen=True)
class ModelConfig:
    """One decoder's sizes and constants.  Checked on construction; holds no arrays.

    family names an entry of `pyroclast.families.family`.  rope_freq_factors are the divisors of the
    rotary frequencies that a GGUF may carry (`rope_freqs.weight`), head_dim / 2 of them.
    """

    family: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    d_model: int
    d_ff: int
    vocab_size: int
    max_seq_len: int
    rope_theta: float
    norm_eps: float
    tie_embeddings: bool
    qkv_bias: bool = False
    rope_scaling: RopeScaling | None = None
    sliding_window: int | None = None
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    rope_freq_factors: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for field, limit in _LIMITS.items():
            _check_size(field, getattr(self, field), limit)
        _check_positive("rope_theta", self.rope_theta)
        _check_positive("norm_eps", self.norm_eps, largest=1)
        if self.n_heads % self.n_kv_heads:
            raise ModelFileError(
                f"n_heads must be a multiple of n_kv_heads {self.n_kv_heads}, got {self.n_heads}"
            )
        if self.head_dim % 2:
            raise ModelFileError(f"head_dim must be even (rotary pairs), got {self.head_dim}")
        if self.sliding_window is not None:
            _check_size("sliding_window", self.sliding_window, 1 << 28)
        self._check_token_ids()
        self._check_rope_freq_factors()

    def _check_token_ids(self) -> None:
        ids = self.eos_token_ids
        for token_id in ids if self.bos_token_id is None else (self.bos_token_id, *ids):
            if not 0 <= token_id < self.vocab_size:
                raise ModelFileError(
                    f"special token ids must be in 0..{self.vocab_size - 1}, got {token_id}"
                )

    def _check_rope_freq_factors(self) -> None:
        if self.rope_freq_factors is None:
            return
        if len(self.rope_freq_factors) != self.head_dim // 2:
            raise ModelFileError(
                f"rope_freqs must hold head_dim / 2 = {self.head_dim // 2} values, "
                f"got {len(self.rope_freq_factors)}"
            )
        for factor in self.rope_freq_factors:
            _check_positive("every value of rope_freqs", factor)


def inv_freq(config: ModelConfig) -> npt.NDArray[np.float32]:
    """The rotary frequencies (head_dim / 2,) float32, scaling applied: pair i turns by
    position * inv_freq[i].

    Rounded to float32 at the places where the families' reference code rounds, because at
    position 8192 one unit in the last place is already 5e-4 of a radian.
    """
    import numpy as np

    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    powers = np.power(np.float64(config.rope_theta), exponents.astype(np.float64))
    frequencies = np.reciprocal(powers.astype(np.float32))
    scaling = config.rope_scaling
    if scaling is not None and scaling.kind == "linear":
        frequencies = frequencies / np.float32(scaling.factor)
    elif scaling is not None:
        frequencies = _llama3_frequencies(frequencies, scaling)
    if config.rope_freq_factors is not None:
        frequencies = frequencies / np.array(config.rope_freq_factors, dtype=np.float32)
    return frequencies


def _llama3_frequencies(
    frequencies: npt.NDArray[np.float32], scaling: RopeScaling
) -> npt.NDArray[np.float32]:
    import numpy as np

    wavelengths = np.float32(2 * math.pi) / frequencies
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    blend = (np.float32(scaling.original_max_seq_len) / wavelengths - np.float32(low)) / np.float32(
        high - low
    )
    # Clipping the blend covers all three bands at once: 1 keeps a frequency, 0 divides it.
    blend = np.clip(blend, np.float32(0), np.float32(1))
    stretched: npt.NDArray[np.float32] = (np.float32(1) - blend) * frequencies / np.float32(
        scaling.factor
    ) + blend * frequencies
    return stretched


def _check_size(field: str, value: object, limit: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limit:
        raise ModelFileError(f"{field} must be a whole number in 1..{limit}, got {value!r}")


def _check_positive(field: str, value: object, largest: float = _LARGEST) -> None:
    match value:
        case bool():
            pass
        case int() | float() if _SMALLEST <= value <= largest:
            return
    raise ModelFileError(f"{field} must be a number in {_SMALLEST}..{largest}, got {value!r}")
