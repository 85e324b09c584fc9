"""Checks what the GPU computes, on a small model, against the CPU: logits, products of quantized
weights, greedy text, and that a token has the same bits in any batch."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyroclast import LLM, SamplingParams
from pyroclast.lab.check.check import Prepared, bind, run_on
from pyroclast.lab.check.inputs import copy_of
from pyroclast.lab.gpu.sizes import know_tiny_shape
from pyroclast.lab.peers.workers.tokens import texts
from pyroclast_kernels.cases import op_cases
from pyroclast_kernels.matmul import BLOCK_FORMATS
from pyroclast_kernels.selection import all_variants

_BLOCKS = 64  # of the cache: enough for every text here


def _open(model: str, device: str, **options: Any) -> LLM:
    know_tiny_shape()
    return LLM(model, device=device, n_blocks=_BLOCKS, max_seqs=8, prefix_cache=False, **options)


def logits(model: str, n_tokens: int) -> Any:
    """The KL divergence of every next token's distribution from that of the CPU's float32 mode, on
    the same weights; cpu_kl: that of the CPU's default mode."""
    found = {}
    for name, device, compute in (
        ("exact", "cpu", "float32"), ("gpu", "cuda", "auto"), ("cpu", "cpu", "auto"),
    ):  # fmt: skip
        with _open(model, device, compute=compute) as llm:
            ids = texts(1, 0, n_tokens, llm.vocab_size)[0].tolist()
            found[name] = llm.logits(ids).astype(np.float64)
    exact = found["exact"]
    return [
        {
            "value": divergence(exact, found["gpu"]),
            "unit": "nats",
            "cpu_kl": divergence(exact, found["cpu"]),
            "same_top": float(np.mean(exact.argmax(-1) == found["gpu"].argmax(-1))),
            "largest_error": float(np.abs(found["gpu"] - exact).max()),
            "deviation": float(exact.std()),
        }
    ]


def divergence(exact: Any, other: Any) -> float:
    """The mean KL divergence of rows of logits from exact ones, both (n_rows, vocab_size)."""
    p, q = (x - np.logaddexp.reduce(x, axis=-1, keepdims=True) for x in (exact, other))
    return float((np.exp(p) * (p - q)).sum(axis=-1).mean())


def products(formats: list[str] | None, pattern: str) -> Any:
    """Products of quantized weights over the op's case list.  Integer products are exact, so only
    the float32 sum may err.  Value: the largest error as a share of its bound."""
    variant = all_variants("matmul")["triton"]
    wanted = [c for c in op_cases("matmul") if c.format in (formats or BLOCK_FORMATS)]
    wanted = [case for case in wanted if pattern in str(case) and case.format in variant.formats]
    worst, wrong = 0.0, []
    for case in wanted:
        prepared = Prepared(case)
        got = copy_of(prepared.before)
        run_on(bind(case.op, case.format, variant.name), got, None)
        wrong += [f"{case}: {text}" for text in prepared.differences(got, variant.rounds)]
        worst = max(worst, prepared.accuracy(got, variant.rounds).error_share)
    return [
        {
            "value": worst,
            "unit": "of the bound",
            "n_cases": len(wanted),
            "failures": wrong[:5],
            "ok": bool(wanted) and not wrong,
        }
    ]


def greedy(model: str, compute: str, n_gen: int) -> Any:
    """Greedy text on the GPU and the CPU.  Value: the tokens before the first that differs."""
    found = []
    for device in ("cpu", "cuda"):
        with _open(model, device, compute=compute) as llm:
            ids = texts(1, 0, 24, llm.vocab_size).tolist()
            found.append(llm.generate(ids, _greedy(n_gen), progress=False)[0].token_ids)
    same = next((i for i, (a, b) in enumerate(zip(*found, strict=True)) if a != b), n_gen)
    return [{"value": same, "unit": f"of {n_gen} tokens", "ok": same == n_gen}]


def batch(model: str, lengths: list[int], n_gen: int) -> Any:
    """A text of the first length, alone and in a batch of all lengths: token ids and
    log-probabilities must have the same bits.  Value: the tokens that differ."""
    with _open(model, "cuda") as llm:
        prompts = [texts(1, 0, n, llm.vocab_size, i)[0].tolist() for i, n in enumerate(lengths)]
        [alone] = llm.generate(prompts[:1], _greedy(n_gen), progress=False)
        among = llm.generate(prompts, _greedy(n_gen), progress=False)[0]
    pairs = [
        [(token.token_id, token.logprob) for token in completion.logprobs or ()]
        for completion in (alone, among)
    ]
    differ = sum(a != b for a, b in zip(*pairs, strict=True))
    return [{"value": differ, "unit": f"of {n_gen} tokens", "ok": differ == 0}]


def _greedy(n_gen: int) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=n_gen, ignore_eos=True, logprobs=0)
