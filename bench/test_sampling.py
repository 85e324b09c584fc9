"""pytest-benchmark: every variant of `sample` and `softmax`, and NumPy, at 128,256 logits.

    pytest bench/ --benchmark-only --benchmark-group-by=group --benchmark-json=out.json

Each result is checked against the reference before it is timed.  bench/sampling.py runs the same
calls in turn, which is fairer to compare; here are pytest-benchmark's statistics and its files.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyroclast_kernels.sample import cases
from pyroclast_kernels.softmax import cases as softmax_cases
from run_sample import usable_variants
from run_softmax import SoftmaxCall, run_softmax

sys.path.insert(0, str(Path(__file__).parent))
sampling = importlib.import_module("sampling")
peers = importlib.import_module("sampling_peers")

BASELINE = "numpy as written by hand"
KINDS = ("wide", "model")


@pytest.mark.parametrize("variant", [BASELINE, *usable_variants("sample")])
@pytest.mark.parametrize("title", sampling.TABLE)
@pytest.mark.parametrize("kind", KINDS)
def test_sample(benchmark: Any, kind: str, title: str, variant: str) -> None:
    params = sampling.TABLE[title]
    logits = cases.RowCase(kind, cases.VOCAB_SIZE, params).logits()
    benchmark.group = f"sample: {title}, {kind}"
    if variant == BASELINE:
        benchmark(peers.numpy_sampler(logits, params, np.random.default_rng(1)))
        return
    sampling.check(variant, logits[None], params)
    benchmark(sampling.sample_call(variant, logits[None], params)[1])


@pytest.mark.parametrize("variant", usable_variants("sample"))
@pytest.mark.parametrize("kind", [kind for kind in cases.LOGITS if kind not in KINDS])
def test_top_p_of_odd_logits(benchmark: Any, kind: str, variant: str) -> None:
    params = sampling.TABLE["top_p 0.95"]
    logits = cases.RowCase(kind, cases.VOCAB_SIZE, params).logits()
    sampling.check(variant, logits[None], params)
    benchmark.group = f"sample: top_p 0.95, {kind}"
    benchmark(sampling.sample_call(variant, logits[None], params)[1])


@pytest.mark.parametrize("variant", [BASELINE, *usable_variants("softmax")])
@pytest.mark.parametrize("log", [False, True], ids=["probs", "logprobs"])
def test_softmax(benchmark: Any, variant: str, log: bool) -> None:
    logits = softmax_cases.logits_of("wide", cases.VOCAB_SIZE)
    benchmark.group = f"softmax: {'logprobs' if log else 'probs'}"
    if variant == BASELINE:
        if log:
            pytest.skip("compared for probabilities only")
        benchmark(lambda: peers.numpy_softmax(logits[0], 0.8))
        return
    options = {"temperatures": [0.8], "log": log}
    want = run_softmax("numpy", logits, **options)
    assert np.allclose(run_softmax(variant, logits, **options), want, rtol=2e-5, atol=1e-30)
    benchmark(SoftmaxCall(variant, logits, **options).run)
