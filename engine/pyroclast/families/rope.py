"""Rotary position embeddings (Su et al. 2021): their constants, and the frequencies they give."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pyroclast.errors import ModelFileError
from pyroclast.families.checks import check_flag, check_number, check_positive, check_size

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

# Every divisor of a frequency lies in this range, so that no frequency, and no frequency times a
# position, overflows float32.
_SMALLEST_DIVISOR, _LARGEST_DIVISOR = 1e-6, 1e9
# A divisor of a frequency after which no position turns a pair, as GGUF files have it: in float32,
# which may be a little more.
NOT_ROTATED, _LARGEST_FACTOR = 1e30, 2e30


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched beyond the trained context, original_max_seq_len.

    linear: every frequency divided by `factor`.  llama3: wavelengths above
    original_max_seq_len / low_freq_factor divided by `factor`, those below
    original_max_seq_len / high_freq_factor kept, and those between blended.  yarn (Peng et al.
    2023): pairs that rotate fewer than beta_slow times in original_max_seq_len divided, those that
    rotate more than beta_fast times kept, and those between blended by their number; truncate
    rounds the ends of that range.  longrope (Ding et al. 2024): each frequency divided by its
    value in short_factors, or in long_factors where the context in use is longer than
    original_max_seq_len.  dynamic: the base grows with the context in use.

    attention_factor multiplies cosines and sines; None is what the kind's paper says, for yarn by
    way of mscale and mscale_all_dim if both are given.
    """

    kind: Literal["linear", "llama3", "yarn", "longrope", "dynamic"]
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_seq_len: int = 8192
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    short_factors: tuple[float, ...] | None = None
    long_factors: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        _check_divisor("rope scaling factor", self.factor)
        for field in ("low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow"):
            check_positive(f"rope scaling {field}", getattr(self, field))
        check_size("rope scaling original_max_seq_len", self.original_max_seq_len, 1 << 28)
        if self.attention_factor is not None:
            check_positive("rope scaling attention_factor", self.attention_factor)
        for field in ("mscale", "mscale_all_dim"):
            if getattr(self, field) is not None:  # 0 is the same as nothing
                check_number(f"rope scaling {field}", getattr(self, field), 0.0, 1e6)
        check_flag("rope scaling truncate", self.truncate)
        for low, high in (("low_freq_factor", "high_freq_factor"), ("beta_slow", "beta_fast")):
            if getattr(self, high) <= getattr(self, low):
                raise ModelFileError(
                    f"rope scaling {high} must be above {low} {getattr(self, low)}, "
                    f"got {getattr(self, high)}"
                )
        if self.kind == "longrope":
            self._check_factors()

    def _check_factors(self) -> None:
        check_number("rope scaling original_max_seq_len", self.original_max_seq_len, 2, 1 << 28)
        for field in ("short_factors", "long_factors"):
            factors = getattr(self, field)
            if factors is None:
                raise ModelFileError(f"rope scaling {field} are missing, which longrope needs")
            for factor in factors:
                _check_divisor(f"every value of rope scaling {field}", factor)

    @property
    def amplitude(self) -> float:
        """What cosines and sines are multiplied by."""
        if self.attention_factor is not None:
            return float(self.attention_factor)
        if self.kind == "yarn":
            if self.mscale and self.mscale_all_dim:
                return self._mscale(self.mscale) / self._mscale(self.mscale_all_dim)
            return self._mscale(1.0)
        if self.kind == "longrope" and self.factor > 1:
            return math.sqrt(1 + math.log(self.factor) / math.log(self.original_max_seq_len))
        return 1.0

    def _mscale(self, mscale: float) -> float:
        return 0.1 * mscale * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0


def _check_divisor(field: str, value: object) -> None:
    check_positive(field, value, _LARGEST_DIVISOR, _SMALLEST_DIVISOR)


@dataclass(frozen=True)
class RopeSpec:
    """How a layer rotates its queries and keys; layers with equal specs share one table.

    theta is the base.  freq_factors divide the frequencies (a GGUF may carry them as
    `rope_freqs.weight`), one for each pair.  rotary_dim is how many dimensions of a head rotate,
    the first ones; None is all of them.
    """

    theta: float
    scaling: RopeScaling | None = None
    freq_factors: tuple[float, ...] | None = None
    rotary_dim: int | None = None

    def __post_init__(self) -> None:
        check_positive("rope_theta", self.theta, smallest=_SMALLEST_DIVISOR)
        if self.scaling is not None and self.scaling.kind == "yarn" and self.theta <= 1:
            raise ModelFileError(f"rope_theta must be above 1 with yarn, got {self.theta}")
        for factor in self.freq_factors or ():
            check_positive("every value of rope_freqs", factor, _LARGEST_FACTOR, _SMALLEST_DIVISOR)

    def check_head_dim(self, head_dim: int) -> None:
        """ModelFileError unless heads of that size can rotate so."""
        if self.rotary_dim is not None:
            check_size("rotary_dim", self.rotary_dim, head_dim)
        rotary_dim = self.rotated(head_dim)
        if rotary_dim % 2:
            raise ModelFileError(f"rotary_dim must be even (rotary pairs), got {rotary_dim}")
        what = "head_dim / 2" if self.rotary_dim is None else "rotary_dim / 2"
        lists: dict[str, tuple[float, ...] | None] = {"rope_freqs": self.freq_factors}
        if self.scaling is not None and self.scaling.kind == "longrope":
            lists["rope scaling short_factors"] = self.scaling.short_factors
            lists["rope scaling long_factors"] = self.scaling.long_factors
        for name, factors in lists.items():
            if factors is not None and len(factors) != rotary_dim // 2:
                raise ModelFileError(
                    f"{name} must hold {what} = {rotary_dim // 2} values, got {len(factors)}"
                )
        if self.scaling is not None and self.scaling.kind == "dynamic" and rotary_dim < 4:
            raise ModelFileError(f"rotary_dim must be at least 4 with dynamic, got {rotary_dim}")

    def rotated(self, head_dim: int) -> int:
        """How many dimensions of a head rotate."""
        return head_dim if self.rotary_dim is None else self.rotary_dim

    @property
    def amplitude(self) -> float:
        """What cosines and sines are multiplied by."""
        return 1.0 if self.scaling is None else self.scaling.amplitude


def inv_freq(rope: RopeSpec, head_dim: int, max_seq_len: int = 0) -> Floats:
    """The rotary frequencies (rotary_dim / 2,) float32, scaling applied: pair i is rotated by
    position * inv_freq[i].  max_seq_len is the context in use, which longrope and dynamic look at;
    0 is as short as the original one.

    Rounded to float32 at the places where the families' reference code rounds, because at
    position 8192 one unit in the last place is already 5e-4 of a radian.
    """
    import numpy as np

    theta, rotary_dim, scaling = float(rope.theta), rope.rotated(head_dim), rope.scaling
    exponents = np.arange(0, rotary_dim, 2, dtype=np.float32) / np.float32(rotary_dim)
    with np.errstate(over="ignore"):  # a divisor that overflows gives a frequency of 0
        if scaling is not None and scaling.kind == "dynamic":
            theta = float(np.float32(theta * _dynamic_growth(scaling, rotary_dim, max_seq_len)))
        powers = np.power(np.float64(theta), exponents.astype(np.float64)).astype(np.float32)
        if scaling is not None and scaling.kind == "longrope":
            powers = powers * _longrope_factors(scaling, max_seq_len)
        frequencies = np.reciprocal(powers)
        if scaling is not None and scaling.kind == "linear":
            frequencies = frequencies / np.float32(scaling.factor)
        elif scaling is not None and scaling.kind == "llama3":
            frequencies = _llama3_frequencies(frequencies, scaling)
        elif scaling is not None and scaling.kind == "yarn":
            frequencies = _yarn_frequencies(powers, theta, scaling)
    if rope.freq_factors is not None:
        frequencies = frequencies / np.array(rope.freq_factors, dtype=np.float32)
    return frequencies


def _dynamic_growth(scaling: RopeScaling, rotary_dim: int, max_seq_len: int) -> float:
    """By what the base grows: 1 within the original context."""
    ratio = max(max_seq_len, scaling.original_max_seq_len) / scaling.original_max_seq_len
    stretch = scaling.factor * ratio - (scaling.factor - 1)
    return float(stretch ** (rotary_dim / (rotary_dim - 2)))


def _longrope_factors(scaling: RopeScaling, max_seq_len: int) -> Floats:
    import numpy as np

    is_long = max_seq_len > scaling.original_max_seq_len
    return np.array(scaling.long_factors if is_long else scaling.short_factors, np.float32)


def _llama3_frequencies(frequencies: Floats, scaling: RopeScaling) -> Floats:
    import numpy as np

    wavelengths = np.float32(2 * math.pi) / frequencies
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    blend = (np.float32(scaling.original_max_seq_len) / wavelengths - np.float32(low)) / np.float32(
        high - low
    )
    # Clipping the blend covers all three bands at once: 1 keeps a frequency, 0 divides it.
    blend = np.clip(blend, np.float32(0), np.float32(1))
    stretched: Floats = (np.float32(1) - blend) * frequencies / np.float32(
        scaling.factor
    ) + blend * frequencies
    return stretched


def _yarn_frequencies(powers: Floats, theta: float, scaling: RopeScaling) -> Floats:
    """Of the divisors theta ** (2 i / rotary_dim): a blend of 1 / powers and of that over factor,
    linear in i between the pairs that rotate beta_fast and beta_slow times."""
    import numpy as np

    rotary_dim = 2 * len(powers)

    def pair_that_rotates(times: float) -> float:
        length = scaling.original_max_seq_len / (times * 2 * math.pi)
        return rotary_dim * math.log(length) / (2 * math.log(theta))

    first, last = pair_that_rotates(scaling.beta_fast), pair_that_rotates(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rotary_dim - 1)
    if first == last:
        last += 0.001
    pairs = np.arange(len(powers), dtype=np.float32)
    ramp = (pairs - np.float32(first)) / np.float32(last - first)
    kept = np.float32(1) - np.clip(ramp, np.float32(0), np.float32(1))
    stretched = np.reciprocal(np.float32(scaling.factor) * powers)
    blended: Floats = stretched * (np.float32(1) - kept) + np.reciprocal(powers) * kept
    return blended
