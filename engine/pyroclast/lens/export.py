"""One HTML file that shows how a token was picked, without a server and without the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyroclast.errors import RequestError
from pyroclast.lens import answers
from pyroclast.lens.choice import next_token
from pyroclast.lens.draw import redraw, trace
from pyroclast.lens.page import export_html
from pyroclast.lens.text import tokens
from pyroclast.sampling.params import SamplingParams

if TYPE_CHECKING:
    from pyroclast.llm import LLM

MAX_SEED = 2**53
# The parameters that the page has controls for.
_SHOWN = (
    "temperature", "top_p", "top_k", "min_p", "typical_p", "top_n_sigma", "repetition_penalty",
    "presence_penalty", "frequency_penalty", "logit_bias", "allowed_token_ids",
)  # fmt: skip


def draw_page(
    llm: LLM, text: str, params: SamplingParams | None = None, *, adapter: str | None = None
) -> str:
    """The page's view of temperature and draw for a text.  RequestError where the page was not
    built, and for a seed that a browser cannot hold."""
    params = params or SamplingParams()
    if params.seed is None:
        params = params.replace(seed=params.fixed_seed() % 2**32)
    elif params.seed >= MAX_SEED:
        raise RequestError(
            f"seed must be below 2**53 on a page, where numbers are doubles; got {params.seed}"
        )
    following = next_token(llm, text, adapter=adapter)
    found = {
        "tokens": answers.tokens_json(tokens(llm, text)),
        "next": answers.next_json(following),
        "pieces": answers.likely_pieces_json(llm.tokenizer, following),
        "trace": answers.trace_json(trace(llm, text, params, adapter=adapter)),
        "redraw": answers.redraw_json(redraw(llm, text, params, adapter=adapter)),
    }
    given = {name: getattr(params, name) for name in _SHOWN}
    state = {"part": "temperature", "text": text, "params": given, "seed": params.seed}
    return export_html(state, answers.meta_json(llm, llm.name, [llm.name], []), found)
