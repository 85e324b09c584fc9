"""Worker for llama.cpp, through llama-cpp-python's low-level API.

It measures as llama-bench does: with a polling thread pool attached, prompts in steps of 512,
logits of the last token of a prompt and of every sequence when decoding, and no sampling.  A build
with OpenMP uses OpenMP's threads and ignores the pool.
"""

import ctypes
import time
from pathlib import Path
from typing import Any

import llama_cpp as lib
import numpy as np
from protocol import serve
from tokens import token_ids

STEP_TOKENS = 512
POLL = 50  # llama-bench's own
PAD = 256  # llama.cpp rounds contexts up to this

FTYPES = {
    "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q2_k": 10, "q3_k_s": 11,
    "q3_k_m": 12, "q3_k_l": 13, "q4_k_s": 14, "q4_k_m": 15, "q5_k_s": 16, "q5_k_m": 17,
    "q6_k": 18, "iq3_xxs": 23, "iq4_nl": 25, "iq3_s": 26, "iq3_m": 27, "iq4_xs": 30, "bf16": 32,
    "tq1_0": 36, "tq2_0": 37, "mxfp4": 38, "mxfp4_moe": 38,
}  # fmt: skip
Q8_0 = 8  # ggml's number of the type


class PoolParams(ctypes.Structure):
    """ggml_threadpool_params."""

    _fields_ = (
        ("cpumask", ctypes.c_bool * 512),
        ("n_threads", ctypes.c_int),
        ("prio", ctypes.c_int),
        ("poll", ctypes.c_uint32),
        ("strict_cpu", ctypes.c_bool),
        ("paused", ctypes.c_bool),
    )


def loaded_library(name: str) -> ctypes.CDLL:
    """The copy of a library that llama_cpp runs.  Its folder has several copies of each under other
    names; with a pool from another copy, repacked weights give logits of zeros or NaN."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.split(maxsplit=5)[-1]
        if f"/lib{name}.so" in path:
            return ctypes.CDLL(path)
    raise RuntimeError(f"llama_cpp has not loaded lib{name}")


class Pool:
    """A polling thread pool, which sleeps outside of its `with` blocks."""

    def __init__(self, n_threads: int) -> None:
        base, self._cpu, llama = map(loaded_library, ("ggml-base", "ggml-cpu", "llama"))
        base.ggml_threadpool_params_default.restype = PoolParams
        base.ggml_threadpool_params_default.argtypes = [ctypes.c_int]
        self._cpu.ggml_threadpool_new.restype = ctypes.c_void_p
        self._cpu.ggml_threadpool_new.argtypes = [ctypes.POINTER(PoolParams)]
        for name in ("ggml_threadpool_pause", "ggml_threadpool_resume"):
            getattr(self._cpu, name).argtypes = [ctypes.c_void_p]
        self._attach = llama.llama_attach_threadpool
        self._attach.argtypes = [ctypes.c_void_p] * 3
        params = base.ggml_threadpool_params_default(n_threads)
        params.poll, params.paused = POLL, True
        self._pool = self._cpu.ggml_threadpool_new(ctypes.byref(params))

    def attach(self, context: Any) -> None:
        self._attach(context, self._pool, self._pool)

    def __enter__(self) -> None:
        self._cpu.ggml_threadpool_resume(self._pool)

    def __exit__(self, *_: object) -> None:
        self._cpu.ggml_threadpool_pause(self._pool)


class Context:
    """A context for a number of sequences, and how much of each it holds."""

    def __init__(
        self, model: Any, n_seqs: int, n_per_seq: int, threads: int, kv_unified: bool
    ) -> None:
        params = lib.llama_context_default_params()
        params.n_ctx = n_seqs * -(-n_per_seq // PAD) * PAD
        params.n_batch = max(STEP_TOKENS, n_seqs)
        params.n_ubatch = params.n_batch
        params.n_threads = params.n_threads_batch = threads
        params.n_seq_max, params.kv_unified = n_seqs, kv_unified
        self.context = lib.llama_init_from_model(model, params)
        if not self.context:
            raise RuntimeError(f"llama.cpp makes no context of {params.n_ctx} positions")
        self.memory = lib.llama_get_memory(self.context)
        self.filled = [0] * n_seqs

    def cut(self, seq: int, n_kept: int) -> None:
        """Forgets all positions of a sequence from n_kept on; all there are where layers are
        recurrent."""
        if not lib.llama_memory_seq_rm(self.memory, seq, n_kept, -1):
            n_kept = 0
            if not lib.llama_memory_seq_rm(self.memory, seq, -1, -1):
                raise RuntimeError(f"llama.cpp cannot clear sequence {seq}")
        self.filled[seq] = min(self.filled[seq], n_kept)


class Batch:
    """A llama_batch over NumPy arrays, so that filling it costs next to nothing."""

    def __init__(self, size: int) -> None:
        self.token, self.pos = np.zeros(size, np.int32), np.zeros(size, np.int32)
        self.seq, self.logits = np.zeros(size, np.int32), np.zeros(size, np.int8)
        self._n_seq_id = np.ones(size, np.int32)
        self._seq_at: Any = self.seq.ctypes.data + 4 * np.arange(size, dtype=np.uint64)
        arrays: dict[str, Any] = {
            "token": self.token,
            "pos": self.pos,
            "n_seq_id": self._n_seq_id,
            "seq_id": self._seq_at,
            "logits": self.logits,
        }
        types = dict(lib.llama_batch._fields_)
        self._batch = lib.llama_batch()
        for name, array in arrays.items():
            setattr(self._batch, name, ctypes.cast(array.ctypes.data, types[name]))

    def decode(self, context: Context, n_tokens: int) -> None:
        self._batch.n_tokens = n_tokens
        status = lib.llama_decode(context.context, self._batch)
        if status:
            raise RuntimeError(f"llama_decode returned {status}")
        lib.llama_synchronize(context.context)


class Worker:
    """One model; every request is a method."""

    def __init__(self) -> None:
        self._quiet = lib.llama_log_callback(lambda *_: None)
        lib.llama_log_set(self._quiet, ctypes.c_void_p(0))
        lib.llama_backend_init()
        self.contexts: dict[tuple[int, bool], Context] = {}

    def quantize(self, source: str, target: str, format: str, pure: bool, threads: int) -> None:
        """Requantizes `source`, as the tool llama-quantize does."""
        params = lib.llama_model_quantize_default_params()
        params.ftype, params.nthread = FTYPES[format], threads
        params.allow_requantize, params.pure = True, pure
        if format == "mxfp4" and not pure:
            # llama.cpp's mix has MXFP4 in experts and Q8_0 elsewhere: here all matrices of a layer.
            params.pure = True
            params.token_embedding_type = params.output_tensor_type = Q8_0
        status = lib.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params))
        if status:
            raise RuntimeError(f"llama_model_quantize of {source} to {format} returned {status}")

    def load(
        self, model: str, workloads: list[dict[str, Any]], threads: int, repack: bool
    ) -> dict[str, Any]:
        """Loads a GGUF file; says what it was built with."""
        params = lib.llama_model_default_params()
        params.use_extra_bufts = repack
        self.model = lib.llama_model_load_from_file(model.encode(), params)
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {model}")
        self.n_vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model))
        self.n_per_seq = max(w["n_depth"] + w["n_prompt"] + w["n_gen"] for w in workloads)
        self.threads, self.pool = threads, Pool(threads)
        self.batch = Batch(max(STEP_TOKENS, *(w["n_batch"] for w in workloads)))
        info = lib.llama_print_system_info().decode()
        return {
            "version": f"llama-cpp-python {lib.__version__}",
            "system_info": info,
            "avx512_vnni": "AVX512_VNNI = 1" in info,
            "openmp": "OPENMP = 1" in info,
        }

    def run(self, workload: dict[str, Any], kv_unified: bool) -> float:
        """Seconds of one repetition."""
        n_seqs, depth = workload["n_batch"], workload["n_depth"]
        end = depth + workload["n_prompt"] + workload["n_gen"]
        context = self._context(n_seqs, kv_unified)
        with self.pool:
            for seq in range(n_seqs):
                context.cut(seq, depth)
            self._prefill(context, min(context.filled), depth)
            start = time.perf_counter()
            if workload["n_prompt"]:
                self._prefill(context, depth, end)
            else:
                self._decode(context, depth, end)
            seconds = time.perf_counter() - start
        context.filled = [end] * n_seqs
        self.last = context
        return seconds

    def logits(self) -> list[float]:
        """After the last run, of the last token of the last sequence."""
        found = lib.llama_get_logits_ith(self.last.context, -1)
        return [float(x) for x in found[: self.n_vocab]]

    def every_logit(self, token_ids: list[int], path: str) -> None:
        """Writes the logits after each token of a text, float32 (n_tokens, vocab_size), to a .npy
        file.  The text may be as long as the workloads given to `load`."""
        context = self._context(1, False)
        context.cut(0, 0)
        n = len(token_ids)
        self.batch.token[:n], self.batch.pos[:n] = token_ids, np.arange(n)
        self.batch.seq[:n], self.batch.logits[:n] = 0, 1
        with self.pool:
            self.batch.decode(context, n)
        context.filled[0] = 0
        found = np.ctypeslib.as_array(lib.llama_get_logits(context.context), (n, self.n_vocab))
        np.save(path, found)

    def _context(self, n_seqs: int, kv_unified: bool) -> Context:
        key = (n_seqs, kv_unified)
        if key not in self.contexts:
            made = Context(self.model, n_seqs, self.n_per_seq, self.threads, kv_unified)
            self.pool.attach(made.context)
            self.contexts[key] = made
        return self.contexts[key]

    def _prefill(self, context: Context, begin: int, end: int) -> None:
        """Positions [begin, end) of every sequence, one after another, in steps of 512 tokens."""
        todo = [(seq, pos) for seq in range(len(context.filled)) for pos in range(begin, end)]
        all_seqs, all_positions = np.array(todo, np.int32).reshape(-1, 2).T
        for first in range(0, len(todo), STEP_TOKENS):
            seqs = all_seqs[first : first + STEP_TOKENS]
            positions = all_positions[first : first + STEP_TOKENS]
            self._put(seqs, positions)
            self.batch.logits[: len(seqs)] = positions == end - 1
            self.batch.decode(context, len(seqs))

    def _decode(self, context: Context, begin: int, end: int) -> None:
        n_seqs = len(context.filled)
        self.batch.logits[:n_seqs] = 1
        for position in range(begin, end):
            self._put(np.arange(n_seqs), np.full(n_seqs, position))
            self.batch.decode(context, n_seqs)

    def _put(self, seqs: Any, positions: Any) -> None:
        n = len(seqs)
        self.batch.seq[:n], self.batch.pos[:n] = seqs, positions
        self.batch.token[:n] = token_ids(seqs, positions, self.n_vocab)


if __name__ == "__main__":
    worker = Worker()
    names = ("quantize", "load", "run", "logits", "every_logit")
    serve({name: getattr(worker, name) for name in names})
