# $contract

import numpy as np
from numba import carray

from pyroclast_kernels.numba.math import split_begin
from pyroclast_kernels.numba.simd import load_i64, load_pointer

OP = "pack"
FORMATS = ("f32",)
# Byte offsets of the argument struct: one field of 8 bytes a parameter.
(
    RAW,
    WEIGHT,
    N_ROWS,
    N_COLS,
    ROW_OFFSET,
) = range(0, 40, 8)


def pack_f32(args, part, n_parts):
    n_rows, n_cols = load_i64(args, N_ROWS), load_i64(args, N_COLS)
    offset = load_i64(args, ROW_OFFSET)
    raw = carray(load_pointer(args, RAW), (n_rows, n_cols), np.float32)
    shape = ((offset + n_rows + 15) // 16, n_cols, 16)
    weight = carray(load_pointer(args, WEIGHT), shape, np.float32)
    for row in range(split_begin(n_rows, part, n_parts), split_begin(n_rows, part + 1, n_parts)):
        at = row + offset
        for k in range(n_cols):
            weight[at // 16, k, at % 16] = raw[row, k]
