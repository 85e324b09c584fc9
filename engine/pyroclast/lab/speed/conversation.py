"""What the prefix cache saves in a conversation, where each prompt repeats all turns before it.

Two LLMs, one without the cache, hold the same conversation turn by turn.  Each prompt is computed
by both in turn, so their answers, and with them the next prompts, have to be equal.
"""

from __future__ import annotations

import statistics
from typing import Any

from pyroclast import LLM, SamplingParams
from pyroclast.progress import progress_bar

QUESTIONS = (
    "I plan a walk in the mountains for three days. What should I pack?",
    "Which of these things can I leave at home if it stays warm?",
    "How much water do two people need for one day?",
    "Write the list once more, shorter.",
    "What do I do if the weather turns bad on the second day?",
    "How do I read a map without a compass?",
    "Which food keeps for three days without cooling?",
    "Is it a good idea to walk at night?",
    "Name three things that beginners get wrong.",
    "Say in one sentence what matters most.",
)


def measure(plain: LLM, caching: LLM, n_gen: int, repeat: int) -> dict[str, Any]:
    """A row.  n_prompt: tokens of all prompts; n_computed: those that were not in the cache.
    first_token_ratio: seconds to the first tokens of all turns, with the cache over without it;
    the median of the repetitions."""
    ratios: list[float] = []
    n_prompt = n_computed = 0
    with progress_bar(repeat, "conversation") as show:
        for i in range(repeat):
            n_prompt, n_computed, ratio = _conversation(plain, caching, n_gen, i)
            ratios.append(ratio)
            show(i + 1)
    return {
        "test": "conversation",
        "n_turns": len(QUESTIONS),
        "n_gen": n_gen,
        "n_prompt": n_prompt,
        "n_computed": n_computed,
        "first_token_ratio": statistics.median(ratios),
        "first_token_ratio_quartiles": statistics.quantiles(ratios, n=4)[::2],
        "model": caching.name,
        "threads": caching.n_threads,
        "kv_dtype": getattr(caching.model, "kv_dtype", None),
        "kernels": caching.kernels,
    }


def _conversation(plain: LLM, caching: LLM, n_gen: int, i: int) -> tuple[int, int, float]:
    """Tokens of its prompts, how many were computed with the cache, and the ratio of seconds.  Its
    beginning is its own: what the one before left in the cache does not help."""
    answer = SamplingParams(temperature=0, max_tokens=n_gen)
    said = [{"role": "system", "content": f"Conversation {i}. Answer briefly."}]
    seconds = {plain: 0.0, caching: 0.0}
    n_prompt = n_computed = 0
    for j, question in enumerate(QUESTIONS):
        said.append({"role": "user", "content": question})
        texts = set()
        for llm in (plain, caching) if (i + j) % 2 else (caching, plain):
            [completion] = llm.chat(said, answer, progress=False)
            timings = completion.timings
            assert timings.first_token_s is not None, "an answer has a token"
            seconds[llm] += timings.first_token_s
            texts.add(completion.text)
            if llm is caching:
                n_prompt += timings.n_prompt_tokens
                n_computed += timings.n_prompt_tokens - timings.n_cached_tokens
        [text] = texts
        said.append({"role": "assistant", "content": text})
    return n_prompt, n_computed, seconds[caching] / seconds[plain]


def line(row: dict[str, Any]) -> str:
    """What a row says, in one sentence."""
    return (
        f"{row['model']}: {row['n_turns']} turns have prompts of {row['n_prompt']} tokens, of "
        f"which {row['n_computed']} are computed; first tokens come "
        f"{1 / row['first_token_ratio']:.1f} times as fast as without a cache"
    )
