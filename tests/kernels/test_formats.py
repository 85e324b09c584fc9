"""Block formats against the `gguf` package, bit for bit, on random bytes and random values."""

import gguf
import numpy as np
import pytest

from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.weights import codebooks, formats

N_ROWS = 7
ON_DISK = [name for name, layout in formats.FORMATS.items() if layout.ggml_type is not None]


def ggml(name: str) -> gguf.GGMLQuantizationType:
    """The package's type of that name in a file."""
    return gguf.GGMLQuantizationType(formats.FORMATS[name].ggml_type)


def same_bits(got: np.ndarray, expected: np.ndarray) -> bool:
    """Equal to the bit; two NaNs are equal whatever their payload."""
    both_nan = np.isnan(got) & np.isnan(expected)
    return bool(np.all(both_nan | (got.view(np.uint32) == expected.view(np.uint32))))


@pytest.mark.parametrize("name", ON_DISK)
def test_block_sizes_are_those_of_ggml(name: str) -> None:
    layout = formats.FORMATS[name]
    assert (layout.block_columns, layout.block_bytes) == gguf.GGML_QUANT_SIZES[ggml(name)]
    assert ggml(name).name.lower() == name


@pytest.mark.parametrize("name", ON_DISK)
def test_dequantize_random_bytes_as_ggml(name: str) -> None:
    rng = np.random.default_rng(0)
    n_cols = 512 if name != "f32" else 64
    raw = rng.integers(0, 256, (N_ROWS, formats.row_bytes(n_cols, name)), dtype=np.uint8)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(raw, ggml(name))
    got = formats.dequantize(raw, name)
    assert got.shape == (N_ROWS, n_cols) and got.dtype == np.float32
    assert same_bits(got, expected)


@pytest.mark.parametrize("name", formats.quantizable_formats())
@pytest.mark.parametrize("scale", [1e-6, 0.02, 3000.0])
def test_quantize_as_ggml(name: str, scale: float) -> None:
    rng = np.random.default_rng(1)
    values = (rng.standard_normal((N_ROWS, 256)) * scale).astype(np.float32)
    values[2, :32] = 0  # a block of zeros: its scale is 0
    values[3, :32] = scale  # a constant block: Q4_1's scale is 0
    values[4, 5] = values[4, :32].max() * 40  # an outlier
    with np.errstate(all="ignore"):
        expected = gguf.quants.quantize(values, ggml(name))
    assert np.array_equal(formats.quantize(values, name), expected.view(np.uint8))


@pytest.mark.parametrize("name", formats.quantizable_formats())
def test_halves_are_rounded_as_ggml(name: str) -> None:
    """Values that fall exactly between two codes."""
    values = (np.arange(-127, 129, dtype=np.float32) / 2).reshape(8, 32)
    values[:, 0] = 127
    values[:, 1] = np.nextafter(np.float32(0.5), np.float32(0))
    with np.errstate(all="ignore"):
        expected = gguf.quants.quantize(values, ggml(name))
    assert np.array_equal(formats.quantize(values, name), expected.view(np.uint8))


@pytest.mark.parametrize("name", formats.quantizable_formats())
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_values_stay_visible(name: str, bad: float) -> None:
    values = np.ones((2, 64), dtype=np.float32)
    values[1, 40] = bad
    back = formats.dequantize(formats.quantize(values, name), name)
    assert np.isfinite(back[0]).all()
    assert not np.isfinite(back[1, 40])


@pytest.mark.parametrize("name", formats.quantizable_formats())
def test_a_matrix_larger_than_one_group_keeps_its_order(name: str) -> None:
    rng = np.random.default_rng(2)
    values = rng.standard_normal((700, 1024)).astype(np.float32)
    raw = formats.quantize(values, name)
    alone = np.concatenate([formats.quantize(values[i : i + 1], name) for i in (0, 255, 256, 699)])
    assert np.array_equal(raw[[0, 255, 256, 699]], alone)
    back = formats.dequantize(raw, name)
    worst = {"f32": 0, "f16": 2e-3, "bf16": 2e-2, "q8_0": 0.03, "q4_0": 0.7, "q4_1": 0.4}
    assert np.abs(back - values).max() <= worst[name]


def test_rows_may_be_a_strided_view() -> None:
    raw = np.arange(4 * 40, dtype=np.uint8).reshape(4, 40)[:, :36]
    assert same_bits(formats.dequantize(raw, "q4_0"), formats.dequantize(raw.copy(), "q4_0"))


def test_unknown_format_lists_the_known() -> None:
    with pytest.raises(KernelError, match="unknown weight format 'q9_9'; known: f32, f16, bf16"):
        formats.row_bytes(32, "q9_9")


def test_read_only_format_says_what_can_be_written() -> None:
    with pytest.raises(KernelError, match="cannot quantize to q6_k; supported: f32, f16"):
        formats.quantize(np.zeros((1, 256), np.float32), "q6_k")


@pytest.mark.parametrize("n_cols", [0, -32, 31, 33])
def test_partial_blocks_are_refused(n_cols: int) -> None:
    with pytest.raises(KernelError, match=f"multiple of 32 values, got {n_cols}"):
        formats.row_bytes(n_cols, "q8_0")


def test_partial_block_bytes_are_refused() -> None:
    with pytest.raises(KernelError, match="multiple of 34 bytes"):
        formats.dequantize(np.zeros((2, 33), np.uint8), "q8_0")


GRIDS = {
    "iq1": gguf.quants.IQ1_S, "iq2_s": gguf.quants.IQ2_S, "iq2_xs": gguf.quants.IQ2_XS,
    "iq2_xxs": gguf.quants.IQ2_XXS, "iq3_s": gguf.quants.IQ3_S, "iq3_xxs": gguf.quants.IQ3_XXS,
}  # fmt: skip


@pytest.mark.parametrize("name", GRIDS)
def test_every_code_of_a_grid_stands_for_ggmls_values(name: str) -> None:
    GRIDS[name].init_grid()
    grid = codebooks.grid(name)
    assert np.array_equal(grid, GRIDS[name].grid.reshape(grid.shape))


def test_sign_masks_are_ggmls() -> None:
    want = np.frombuffer(gguf.quants.IQ2_XXS.ksigns, np.uint8)
    assert np.array_equal(codebooks.sign_masks(), want)


def test_every_value_of_iq1_and_iq2_is_in_the_table_of_t4_k() -> None:
    values = {int(8 * v + eighth) for v in (-1, 0, 1) for eighth in (-1, 1)}
    values |= {int(sign * v) for v in np.unique(codebooks.grid("iq2_s")) for sign in (-1, 1)}
    assert values < set(codebooks.GRID_EIGHTHS)
