"""Pages on disk and adapters: each adapter has its own, known by what is in its file."""

import numpy as np
import pytest

from lora_files import random_pairs, write_peft
from pyroclast import LLM, CacheFileError, SamplingParams
from tiny import BASE, random_weights, write_gguf

PROMPT = np.random.default_rng(7).integers(0, 256, 75).tolist()
PARAMS = SamplingParams(seed=3, max_tokens=6, ignore_eos=True, logprobs=2)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    path = tmp_path_factory.mktemp("adapters")
    write_gguf(path / "model.gguf", BASE, random_weights(BASE), "Q8_0")
    for seed, name in enumerate("xyz"):
        write_peft(path / name, random_pairs(BASE, 4, seed=seed))
    return path


def load(files, adapters, **options):
    paths = {name: files / file for name, file in adapters.items()}
    return LLM(files / "model.gguf", adapters=paths, n_blocks=32, threads=1, **options)


def answer(llm, adapter):
    [found] = llm.generate([PROMPT], PARAMS, adapter=adapter)
    return found.token_ids, found.logprobs, found.timings.n_cached_tokens


def test_an_adapter_finds_its_own_pages_alone(files, tmp_path):
    expected = {}
    with load(files, {"a": "x", "b": "y"}, cache_dir=tmp_path) as llm:
        for name in (None, "a"):
            expected[name] = answer(llm, name)
            assert expected[name][2] == 0
    with load(files, {"a": "x", "b": "y"}, cache_dir=tmp_path) as llm:
        for name in (None, "a"):
            assert answer(llm, name) == (*expected[name][:2], 64)
        assert answer(llm, "b")[2] == 0
    with load(files, {"a": "z", "b": "y"}, cache_dir=tmp_path) as llm:
        found = answer(llm, "a")  # the same name, another file
        assert found[2] == 0 and found[1] != expected["a"][1]
        assert answer(llm, "b")[2] == 64


def test_a_state_belongs_to_an_adapter(files, tmp_path):
    path, adapters = tmp_path / "state", {"a": "x", "b": "y"}
    with load(files, adapters) as llm:
        assert llm.save_state(path, PROMPT, adapter="a") == 64
        expected = answer(llm, "a")
    with load(files, adapters) as llm:
        for other in (None, "b"):
            with pytest.raises(CacheFileError, match="it was saved with another adapter"):
                llm.load_state(path, adapter=other)
        assert llm.load_state(path, adapter="a") == 64
        assert answer(llm, "a") == (*expected[:2], 64)  # a state has whole blocks only
        assert answer(llm, None)[2] == 0
