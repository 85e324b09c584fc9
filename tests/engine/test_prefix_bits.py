"""Every bit of the logits behind a cached prefix is the same as when it is computed."""

import numpy as np
import pytest

import gguf_families
import tiny_families
from pyroclast import LLM, SamplingParams
from tiny_family_configs import MODELS

pytestmark = pytest.mark.oracle

KV_DTYPES = ("f32", "f16", "bf16", "q8_0")


class Rows:
    """A logits processor that keeps the rows it sees."""

    def __init__(self):
        self.rows = []

    def __call__(self, token_ids, logits):
        self.rows.append(np.array(logits))
        return logits


def answer(llm, prompt, n_tokens=24):
    rows = Rows()
    params = SamplingParams(
        seed=3, max_tokens=n_tokens, ignore_eos=True, logprobs=2, logits_processors=[rows]
    )
    [completion] = llm.generate(prompt, params)
    return completion, np.stack(rows.rows)


RECURRENT = [name for name in MODELS if name.startswith(("qwen3_5", "lfm2", "nemotron"))] + [
    "granite4-hybrid",
    "granite4-hybrid-moe",
]  # they go on from a kept state, at a block's end


def check(path, kv_dtype, cached=(230, 299, 323)):
    """cached: tokens found for the prompt, for the prompt again, and for the next turn."""
    prompt = tiny_families.PROMPT[:300]
    with LLM(path, kv_dtype=kv_dtype, prefix_cache=False) as plain:
        expected, rows = answer(plain, prompt)
        # The answer's own blocks, as in the next turn of a conversation.
        longer = [*prompt, *expected.token_ids, *prompt[:40]]
        expected_longer, longer_rows = answer(plain, longer)
        assert expected_longer.timings.n_cached_tokens == 0
    # Read first in other chunks, and beside other text.
    with LLM(path, kv_dtype=kv_dtype, max_batch_tokens=70, threads=2) as llm:
        llm.generate([prompt[:230], prompt[:77]], SamplingParams(max_tokens=3, seed=1))
        for n_cached in cached[:2]:
            found, found_rows = answer(llm, prompt)
            assert found.timings.n_cached_tokens == n_cached
            assert (found.token_ids, found.logprobs) == (expected.token_ids, expected.logprobs)
            np.testing.assert_array_equal(found_rows, rows)
        found, found_rows = answer(llm, longer)
        assert found.timings.n_cached_tokens == cached[2]
        assert found.token_ids == expected_longer.token_ids
        np.testing.assert_array_equal(found_rows, longer_rows)


@pytest.mark.parametrize("name", list(MODELS))
def test_each_family(name, family_folders):
    check(family_folders(name), "f32", *([(224, 288, 320)] if name in RECURRENT else []))


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_each_cache_format(kv_dtype, family_folders):
    check(family_folders("gemma3"), kv_dtype)


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_quantized_weights(kv_dtype, family_folders):
    check(family_folders.model("smollm3@q8_0"), kv_dtype)


def test_a_gguf_file(family_folders, tmp_path):
    check(gguf_families.write_gguf(tmp_path / "m.gguf", family_folders("olmo2")), "bf16")
