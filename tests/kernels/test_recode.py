"""Formats that loading converts: what the target loses of them, measured for each."""

from __future__ import annotations

import numpy as np
import pytest

from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.weights import PACKED_FORMATS, formats
from pyroclast_kernels.weights.recode import RECODED, recode
from raw_blocks import random_blocks

# Relative error, root mean square, of weights as models have them (a standard deviation of 0.02).
# IQ3_XXS: d / 2 is rounded where it is below float16's normal numbers.  The 8-bit activations that
# meet these weights err by 4e-3.
LOST = dict.fromkeys(RECODED, 0.0) | {"iq3_xxs": 3e-4}


def test_every_format_is_computed_or_recoded_to_one_that_is() -> None:
    assert set(formats.FORMATS) - set(PACKED_FORMATS) == set(RECODED)

    assert {recoding.target for recoding in RECODED.values()} <= set(PACKED_FORMATS)


@pytest.mark.parametrize("format", RECODED)
def test_what_recoding_loses(format: str) -> None:
    raw = random_blocks(48, 1536, format)
    want = formats.dequantize(raw, format).astype(np.float64)
    got = formats.dequantize(recode(raw, format), RECODED[format].target)
    assert want.std() > 0.005
    lost = np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2))
    assert lost <= LOST[format]
    assert lost >= 0.1 * LOST[format]  # the bound says what happens


@pytest.mark.parametrize("format", RECODED)
def test_rows_keep_their_order_over_groups(format: str) -> None:
    raw = random_blocks(600, 512, format)
    assert np.array_equal(recode(raw, format)[[0, 511, 599]], recode(raw[[0, 511, 599]], format))


def test_a_format_that_is_computed_is_not_recoded() -> None:
    with pytest.raises(KernelError, match="q4_k is not recoded; recoded are "):
        recode(np.zeros((1, 144), np.uint8), "q4_k")
