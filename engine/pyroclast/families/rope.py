"""Rotary position embeddings (Su et al. 2021): their constants, and the frequencies they give."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pyroclast.errors import ModelFileError
from pyroclast.families.checks import check_positive, check_size

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


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
            check_positive(f"rope scaling {field}", getattr(self, field))
        check_size("rope scaling original_max_seq_len", self.original_max_seq_len, 1 << 28)
        if self.kind == "llama3" and self.high_freq_factor <= self.low_freq_factor:
            raise ModelFileError(
                f"rope scaling high_freq_factor must be above low_freq_factor "
                f"{self.low_freq_factor}, got {self.high_freq_factor}"
            )


@dataclass(frozen=True)
class RopeSpec:
    """How a layer rotates its queries and keys; layers with equal specs share one table.

    theta is the base.  freq_factors divide the frequencies (a GGUF may carry them as
    `rope_freqs.weight`), one for each pair.  rotary_dim is how many dimensions of a head rotate;
    None is all of them.
    """

    theta: float
    scaling: RopeScaling | None = None
    freq_factors: tuple[float, ...] | None = None
    rotary_dim: int | None = None

    def __post_init__(self) -> None:
        check_positive("rope_theta", self.theta)
        for factor in self.freq_factors or ():
            check_positive("every value of rope_freqs", factor)


def inv_freq(rope: RopeSpec, head_dim: int) -> npt.NDArray[np.float32]:
    """The rotary frequencies (head_dim / 2,) float32, scaling applied: pair i is rotated by
    position * inv_freq[i].

    Rounded to float32 at the places where the families' reference code rounds, because at
    position 8192 one unit in the last place is already 5e-4 of a radian.
    """
    import numpy as np

    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    powers = np.power(np.float64(rope.theta), exponents.astype(np.float64))
    frequencies = np.reciprocal(powers.astype(np.float32))
    if rope.scaling is not None and rope.scaling.kind == "linear":
        frequencies = frequencies / np.float32(rope.scaling.factor)
    elif rope.scaling is not None:
        frequencies = _llama3_frequencies(frequencies, rope.scaling)
    if rope.freq_factors is not None:
        frequencies = frequencies / np.array(rope.freq_factors, dtype=np.float32)
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
