"""A model with recurrent layers on the GPU: the CPU's logits, in two steps, beside another text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tiny_families
from stepping import load, logits_of, step

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]


def test_the_gpu_gives_the_logits_of_the_cpu(tmp_path: Path) -> None:
    tiny_families.write_folder(tmp_path, "qwen3_5")
    prompt = tiny_families.PROMPT[:4]
    want = logits_of(load(tmp_path, compute="float32", kernels="frozen"), prompt)
    sizes = {"max_seqs": 8, "n_blocks": 16, "max_batch_tokens": 16, "max_logits": 16}
    model = load(tmp_path, compute="float32", device="cuda", **sizes)
    found = step(model, [(0, 0, prompt[:3])])
    found.append(step(model, [(1, 0, prompt[:1]), (0, 3, prompt[3:])])[1])
    assert np.abs(np.concatenate(found) - want).max() < 1e-4 * np.abs(want).max()
    states = [model.memory.to_host(array, array.shape[0]) for array in model.slot_arrays(0)]
    assert model.find_non_finite() == ""  # it runs the step once more
    for array, before in zip(model.slot_arrays(0), states, strict=True):
        np.testing.assert_array_equal(model.memory.to_host(array, array.shape[0]), before)
