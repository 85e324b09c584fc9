"""pytest-benchmark: every variant of `sample` and `softmax`, and NumPy, at 128,256 logits.

    pytest bench/ --benchmark-only --benchmark-group-by=group --benchmark-json=out.json

Each result is compared with the reference before it is timed.  bench/sampling.py runs the same
calls in turn, which is the fairer comparison; this gives pytest-benchmark's statistics and files.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pyroclast.lab.speed import sampling
from pyroclast.lab.speed.sample_call import usable_variants
from pyroclast.lab.speed.sampling_peers import numpy_sampler, numpy_softmax
from pyroclast.lab.speed.softmax_call import SoftmaxCall, run_softmax
from pyroclast_kernels.sample import cases
from pyroclast_kernels.softmax import cases as softmax_cases

BASELINE = "plain numpy"
KINDS = ("wide", "model")
ROWS = [(title, kind) for kind in KINDS for title in sampling.TABLE]
ROWS += [("top_p 0.95", kind) for kind in cases.LOGITS if kind not in KINDS]


@pytest.mark.parametrize("variant", [BASELINE, *usable_variants("sample")])
@pytest.mark.parametrize(("title", "kind"), ROWS)
def test_sample(benchmark: Any, title: str, kind: str, variant: str) -> None:
    params = sampling.TABLE[title]
    logits = cases.RowCase(kind, cases.VOCAB_SIZE, params).logits()
    benchmark.group = f"sample: {title}, {kind}"
    if variant == BASELINE:
        benchmark(numpy_sampler(logits, params, np.random.default_rng(1)))
        return
    sampling.check(variant, logits[None], params)
    benchmark(sampling.sample_call(variant, logits[None], params)[1])


@pytest.mark.parametrize("variant", usable_variants("softmax"))
@pytest.mark.parametrize("log", [False, True], ids=["probs", "logprobs"])
def test_softmax(benchmark: Any, variant: str, log: bool) -> None:
    logits = softmax_cases.logits_of("wide", cases.VOCAB_SIZE)
    options = {"temperatures": [0.8], "log": log}
    expected = run_softmax("numpy", logits, **options)
    found = run_softmax(variant, logits, **options)
    assert np.allclose(found, expected, rtol=2e-5, atol=1e-30)
    benchmark.group = f"softmax: {'logprobs' if log else 'probs'}"
    benchmark(SoftmaxCall(variant, logits, **options).run)


def test_softmax_of_plain_numpy(benchmark: Any) -> None:
    logits = softmax_cases.logits_of("wide", cases.VOCAB_SIZE)
    benchmark.group = "softmax: probs"
    benchmark(lambda: numpy_softmax(logits[0], 0.8))
