"""One decoder for every family: the forward pass, written once against ops and recorded.

`record_step` says what a step computes.  Under a Recorder it yields the step program, which the
executor replays in one native call; with the NumPy reference chosen for every op
(kernels="*=numpy") the very same calls run eagerly, which is how the model itself is tested.
Knows nothing of text, requests or sampling parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.checkpoint import Checkpoint
from pyroclast.config import ModelConfig, inv_freq
from pyroclast.errors import ClosedError, KernelError, UnsupportedModelError
from pyroclast.kv_cache import (
    BLOCK_SIZE,
    DTYPES,
    KVCache,
    automatic_dtype,
    choose_n_blocks,
    value_stride,
)
from pyroclast.weights import Layer, Product, load_weights
from pyroclast.workspace import MAX_SPLIT_TOKENS, Activations, Workspace
from pyroclast_kernels import features
from pyroclast_kernels.attention import MAX_HEAD_DIM, SPLIT
from pyroclast_kernels.batch import Batch
from pyroclast_kernels.errors import KernelError as KernelLibraryError
from pyroclast_kernels.matmul import BLOCK_FORMATS
from pyroclast_kernels.program import Program, Recorder, make_executor
from pyroclast_kernels.registry import Selection, get_op
from pyroclast_kernels.trace import profile

Array = NDArray[Any]


class Model:
    """A loaded model and its one step: fill `batch`, call forward(), read `logits`.

    checkpoint may be closed afterwards.  compute="float32" dequantizes the weights and keeps
    float32 throughout; "auto" computes with the weights as they are stored.  kv_dtype is "auto"
    (f32 in float32 mode; else bf16 where the CPU multiplies it, f16 elsewhere), "f32", "f16",
    "bf16" or "q8_0".  kernels are selection rules;
    threads None takes what the machine offers.  Raises KernelError for rules that cannot hold here,
    UnsupportedModelError for shapes that no kernel takes, MemoryBudgetError for too large a cache.
    """

    block_size = BLOCK_SIZE

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        kernels: str | None = None,
        threads: int | None = None,
        compute: str = "auto",
        kv_dtype: str = "auto",
        max_batch_tokens: int = 512,
        max_seqs: int = 64,
        max_logits: int = 64,
        n_blocks: int | None = None,
        on_layer: Callable[[int], None] = lambda _: None,
    ) -> None:
        config = checkpoint.config
        _check(config, compute, kv_dtype, threads)
        float32 = compute == "float32"
        self.config, self.compute = config, compute
        self._selection = _selection(kernels)
        if kv_dtype == "auto":
            quantized = any(t.format in BLOCK_FORMATS for t in checkpoint.tensors.values())
            kv_dtype = "f32" if float32 else automatic_dtype(self._selection, quantized)
        self.kv_dtype = kv_dtype
        self.n_threads = threads or features.n_cpus()
        self.n_blocks = choose_n_blocks(config, self.kv_dtype, n_blocks)
        self.max_seq_len = min(config.max_seq_len, self.n_blocks * BLOCK_SIZE)
        self.max_batch_tokens, self.max_seqs = max_batch_tokens, max_seqs
        self.max_logits = max_logits
        max_blocks = -(-self.max_seq_len // BLOCK_SIZE)
        self.batch = Batch(max_batch_tokens, max_seqs, max_blocks, max_logits)
        self._executor = make_executor(self.n_threads)
        if self._executor is None:
            self.n_threads = 1
        try:
            self._weights = load_weights(
                checkpoint, self._selection, self._executor, float32=float32, on_layer=on_layer
            )
            self._cache = KVCache(config, self.kv_dtype, self.n_blocks)
            max_splits = -(-self.max_seq_len // SPLIT)
            self._work = Workspace(config, self._weights, self.batch, max_splits)
            self._inv_freq = np.ascontiguousarray(inv_freq(config), np.float32)
            recorder = Recorder(self._selection)
            self.record_step(recorder)
        except KernelLibraryError as error:
            raise KernelError(str(error)) from error
        self._calls = recorder.calls
        self._program: Program | None = Program(recorder.calls, self._executor)
        self._sampling_program: Program | None = None

    # ---- what callers see ------------------------------------------------------------------

    @property
    def logits(self) -> NDArray[np.float32]:
        """float32 (max_logits, vocab_size); after forward() the first batch.n_logits rows hold."""
        return self._work.logits

    @property
    def kernels(self) -> dict[str, str]:
        """The variant that runs for each "op.format"; "a+b" where a tuned table has several."""
        return dict(self._selection.resolved)

    @property
    def table(self) -> str:
        """The tuned table that chose where no rule did, or "defaults"."""
        return self._selection.table

    @property
    def weight_bytes(self) -> int:
        """Weight bytes that one decode step reads."""
        return self._weights.step_bytes

    @property
    def kv_bytes(self) -> int:
        """Bytes of the whole key-value cache."""
        return self._cache.n_bytes

    @property
    def native_seconds(self) -> float:
        """Seconds spent inside steps so far; the rest of a caller's time is Python's."""
        programs = (self._program, self._sampling_program)
        return sum(program.native_seconds for program in programs if program is not None)

    def attach_sampler(self, **arguments: Any) -> None:
        """Lets forward(sample=True) end with the op `sample`: its arguments by name, logits
        excepted, as arrays that the caller refills."""
        recorder = Recorder(self._selection)
        try:
            recorder.call("sample", logits=self._work.logits, **arguments)
        except KernelLibraryError as error:
            raise KernelError(str(error)) from error
        self._sampling_program = Program(self._calls + recorder.calls, self._executor)

    def forward(self, sample: bool = False) -> None:
        """One step over what `batch` holds: writes the cache and the logits (and samples)."""
        self.program(sample).run()

    def program(self, sample: bool = False) -> Program:
        """The recorded step, with or without the sampler at its end: to trace it, or to replay its
        calls by themselves."""
        program = self._sampling_program if sample else self._program
        if program is None:
            raise ClosedError("the model is closed" if self._program is None else "no sampler")
        return program

    def profile(self) -> list[tuple[str, str, str, float]]:
        """Runs one step; (label, op.format, variant, microseconds) of each call, in order."""
        if self._program is None:
            raise ClosedError("the model is closed")
        return [
            (c.label, f"{c.kernel.op}.{c.kernel.format}", c.kernel.variant, microseconds)
            for c, microseconds in zip(self._calls, profile(self._program), strict=True)
        ]

    def zero_blocks(self, block_ids: Sequence[int]) -> None:
        """Clears cache blocks that may hold a NaN."""
        self._cache.zero_blocks(block_ids)

    def find_non_finite(self) -> str:
        """Where a NaN or an infinity first appears when the step in `batch` is run once more:
        "layer 3 (matmul)", say; empty if it does not."""
        if self._program is None:
            raise ClosedError("the model is closed")
        for i, call in enumerate(self._calls):
            self._program.run_one(i)
            n_rows = int(call.arguments["n_tokens"][0])
            for name in ("out", "out_q8", "qkv"):
                array = call.arguments.get(name)
                if array is None or (name == "qkv" and call.kernel.op == "attention"):
                    continue
                values = array["scale"] if name == "out_q8" else array
                if not np.isfinite(values[:n_rows]).all():
                    return f"{call.label} ({call.kernel.op})"
        return ""

    def close(self) -> None:
        """Frees threads, weights and cache; harmless when repeated."""
        if self._program is None:
            return
        self._program = self._sampling_program = None
        self._calls = []
        del self._weights, self._cache, self._work, self._executor

    # ---- the forward pass ------------------------------------------------------------------

    def record_step(self, ops: Recorder) -> None:
        """Embedding, layers, final norm, output head: the rows in logit_rows only."""
        batch, work, weights = self.batch, self._work, self._weights
        config, output = self.config, weights.output
        ops.label = "embedding"
        ops.call(
            "embed",
            weights.token_embd.format,
            n_tokens=batch.n_tokens_at,
            token_ids=batch.token_ids,
            weight=weights.token_embd,
            out=work.x,
            n_cols=config.d_model,
        )
        ops.call(
            "rope_table",
            n_tokens=batch.n_tokens_at,
            positions=batch.positions,
            inv_freq=self._inv_freq,
            out=work.rope_table,
            half_dim=config.head_dim // 2,
        )
        for i, layer in enumerate(weights.layers):
            ops.label = f"layer {i}"
            self._attention_block(ops, i, layer)
            self._ffn_block(ops, layer)
        ops.label = "output"
        self._norm(ops, weights.output_norm, work.head_in, batch.n_logits_at, batch.logit_rows)
        self._product(ops, work.head_in, Product(output, 0), work.logits, batch.n_logits_at)

    def _attention_block(self, ops: Recorder, i: int, layer: Layer) -> None:
        batch, work, config = self.batch, self._work, self.config
        self._norm(ops, layer.attn_norm, work.attn_in)
        for product in layer.qkv:
            self._product(ops, work.attn_in, product, work.qkv)
        paged = {
            "qkv": work.qkv,
            "k_cache": self._cache.k[i],
            "v_cache": self._cache.v[i],
        }
        heads = {
            "n_heads": config.n_heads,
            "n_kv_heads": config.n_kv_heads,
            "head_dim": config.head_dim,
            "block_size": BLOCK_SIZE,
            "max_blocks": batch.max_blocks,
            "value_stride": value_stride(config.head_dim),
        }
        ops.call(
            "rope",
            self.kv_dtype,
            n_tokens=batch.n_tokens_at,
            positions=batch.positions,
            seq_index=batch.seq_index,
            block_tables=batch.block_tables,
            table=work.rope_table,
            **paged,
            **heads,
        )
        ops.call(
            "attention",
            self.kv_dtype,
            n_tokens=batch.n_tokens_at,
            n_seqs=batch.n_seqs_at,
            seq_starts=batch.seq_starts,
            positions=batch.positions,
            block_tables=batch.block_tables,
            **paged,
            out=work.attn_out.values,
            out_q8=None if work.quantizes_attention else work.attn_out.q8,
            scratch=work.scratch,
            counters=work.counters,
            **heads,
            window=config.sliding_window or 0,
            max_splits=work.scratch.shape[1],
            max_split_tokens=MAX_SPLIT_TOKENS,
        )
        if work.quantizes_attention:
            ops.call(
                "quantize",
                n_tokens=batch.n_tokens_at,
                x=work.attn_out.values,
                out_q8=work.attn_out.q8,
                n_cols=config.n_heads * config.head_dim,
            )
        for product in layer.wo:
            self._product(ops, work.attn_out, product, work.x, accumulate=True)

    def _ffn_block(self, ops: Recorder, layer: Layer) -> None:
        batch, work = self.batch, self._work
        self._norm(ops, layer.ffn_norm, work.ffn_in)
        if not self._fused_gate_up(ops, layer):
            for product in layer.gate_up:
                self._product(ops, work.ffn_in, product, work.gate_up)
            ops.call(
                "swiglu",
                n_tokens=batch.n_tokens_at,
                gate_up=work.gate_up,
                out=work.ffn_out.values,
                out_q8=work.ffn_out.q8,
                d_ff=self.config.d_ff,
            )
        for product in layer.w_down:
            self._product(ops, work.ffn_out, product, work.x, accumulate=True)

    def _fused_gate_up(self, ops: Recorder, layer: Layer) -> bool:
        """Notes gate, up and SwiGLU as one op where these weights allow it."""
        work, product, d_ff = self._work, layer.gate_up[0], self.config.d_ff
        weight = product.weight
        fits = len(layer.gate_up) == 1 and product.bias is None and d_ff % 16 == 0
        return (
            fits
            and weight.format in get_op("gate_up").formats
            and ops.call_fused(
                "gate_up",
                weight.format,
                n_tokens=self.batch.n_tokens_at,
                x=work.ffn_in.of(weight),
                weight=weight,
                out=work.ffn_out.values,
                out_q8=work.ffn_out.q8,
                d_ff=d_ff,
                n_cols=weight.n_cols,
            )
        )

    def _norm(
        self,
        ops: Recorder,
        weight: Array,
        out: Activations,
        n_tokens: Array | None = None,
        rows: Array | None = None,
    ) -> None:
        ops.call(
            "norm",
            n_tokens=self.batch.n_tokens_at if n_tokens is None else n_tokens,
            rows=rows,
            x=self._work.x,
            weight=weight,
            out=out.values,
            out_q8=out.q8,
            d_model=self.config.d_model,
            eps=self.config.norm_eps,
        )

    def _product(
        self,
        ops: Recorder,
        x: Activations,
        product: Product,
        out: Array,
        n_tokens: Array | None = None,
        accumulate: bool = False,
    ) -> None:
        weight = product.weight
        ops.call(
            "matmul",
            weight.format,
            n_tokens=self.batch.n_tokens_at if n_tokens is None else n_tokens,
            x=x.of(weight),
            weight=weight,
            bias=product.bias,
            out=out[:, product.row_offset :],
            n_rows=weight.n_rows,
            n_cols=weight.n_cols,
            out_stride=out.shape[1],
            accumulate=int(accumulate),
        )


def _selection(rules: str | None) -> Selection:
    try:
        return Selection(rules)
    except KernelLibraryError as error:
        raise KernelError(str(error)) from error


def _check(config: ModelConfig, compute: str, kv_dtype: str, threads: int | None) -> None:
    """Options and shapes, before anything is read."""
    if compute not in ("auto", "float32"):
        raise KernelError(f"compute must be 'auto' or 'float32', got {compute!r}")
    if kv_dtype not in ("auto", *DTYPES):
        raise KernelError(f"kv_dtype must be 'auto', {', '.join(DTYPES)}, got {kv_dtype!r}")
    if threads is not None and not 1 <= threads <= 1024:
        raise KernelError(f"threads must be between 1 and 1024, got {threads}")
    if config.head_dim > MAX_HEAD_DIM or config.head_dim % 2:
        raise UnsupportedModelError(
            f"head_dim must be even and at most {MAX_HEAD_DIM}, got {config.head_dim}"
        )
