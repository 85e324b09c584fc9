"""Folders of cached pages that the fake model fills and reads."""

from pathlib import Path

from fake_model import fake_llm
from pyroclast import SamplingParams

GREEDY = SamplingParams(temperature=0, max_tokens=3, ignore_eos=True)
PROMPT = list(range(30))  # 7 full blocks of 4, and 2 tokens
N_PAGES = 8  # 30 + 3 tokens, of which the last is not computed
RECORD = 128 + 32  # of the fake model: header and page


def fake(cache_dir, *args, **options):
    return fake_llm(*args, cache_dir=cache_dir, **options)


def answer(llm, prompt=PROMPT, **changes):
    [completion] = llm.generate([prompt], GREEDY.replace(**changes))
    return completion.token_ids, completion.timings.n_cached_tokens


def fill(cache_dir, *prompts, **options):
    """The answers of a model that is closed then."""
    with fake(cache_dir, **options) as llm:
        return [answer(llm, prompt) for prompt in prompts or [PROMPT]]


def segments(cache_dir):
    return sorted(Path(cache_dir).glob("*/*.pages"))


def first_lines(caplog):
    return [record.getMessage() for record in caplog.records]
