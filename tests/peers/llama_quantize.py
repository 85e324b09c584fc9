"""Rows that ggml quantizes: llama_quantize.py VALUES.npy GGML_TYPE ROW_BYTES OUT.

Run by the Python that has llama-cpp-python."""

import ctypes
import sys
from pathlib import Path

import llama_cpp
import numpy as np

source, ggml_type, row_bytes, out = sys.argv[1:]
values = np.load(source)
[library] = (Path(llama_cpp.__file__).parent / "lib").glob("libggml-base.so")
quantize = ctypes.CDLL(str(library)).ggml_quantize_chunk
quantize.restype = ctypes.c_size_t
n_rows, n_cols = values.shape
rows = np.zeros((n_rows, int(row_bytes)), np.uint8)
long, pointer = ctypes.c_int64, ctypes.c_void_p
quantize(
    ctypes.c_int(int(ggml_type)), pointer(values.ctypes.data), pointer(rows.ctypes.data),
    long(0), long(n_rows), long(n_cols), pointer(None),
)  # fmt: skip
rows.tofile(out)
