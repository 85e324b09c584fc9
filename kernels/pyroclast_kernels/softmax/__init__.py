"""The op `softmax`: rows of logits to probabilities or log-probabilities, at a temperature.

    softmax(logits, n_rows, temperatures, bias, allowed, out, n_cols, logits_stride,
            out_stride, log)

    logits        float32 (max_rows, n_cols), rows may lie apart
    n_rows        int64 (1,): how many rows are done in this call; read at run time
    temperatures  float64 (max_rows,) or None (1 for all); below 1e-5 stands for 0
    bias          float32 (n_cols,) or None: added to every row first
    allowed       uint32 (max_rows, ceil(n_cols / 32)) or None: columns whose bit is 0 get -inf
    out           float32 (max_rows, n_cols); may be logits itself
    n_cols, logits_stride, out_stride (floats between rows), log (0 or 1): integers

`reference.py` defines the result.  Attention has a softmax of its own, fused with its products.
"""

FORMATS = ("f32",)

MIN_TEMPERATURE = 1e-5
