"""How a typed program uses the public face; `make check` runs mypy --strict over it.

Nothing here is executed: it states which values type checkers must accept.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pyroclast import LLM, Completion, SamplingParams, Score


def parameters() -> list[SamplingParams]:
    return [
        SamplingParams(stop="."),
        SamplingParams(stop=["\n", "END"]),
        SamplingParams(stop_token_ids=[1], allowed_token_ids=range(5)),
        SamplingParams(logit_bias={3: -1.5}),
        SamplingParams(logit_bias={"3": 1}),
        SamplingParams(logits_processors=[lambda token_ids, logits: logits]),
        SamplingParams(structured={"choice": ["yes", "no"]}, seed=None, max_tokens=None),
        SamplingParams(temperature=0).replace(stop=["."]),
    ]


def calls(llm: LLM) -> tuple[list[Completion], list[Score], NDArray[np.float32]]:
    answers = llm.generate(["One", "Two"], SamplingParams(max_tokens=4))
    answers += llm.generate([1, 2, 3], parameters()[0])
    answers += llm.chat([{"role": "user", "content": "Hi"}])
    stops: tuple[str, ...] = SamplingParams(stop="x").stop
    assert stops
    for chunk in llm.stream("Once", SamplingParams(stop=".")):
        assert chunk.index == 0
    return answers, llm.score("One two"), llm.logits("One")
