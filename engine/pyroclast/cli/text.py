"""The commands that read or write text once: generate, score, tokenize."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from pyroclast.cli.flags import sampling_params
from pyroclast.cli.terminal import colour, counted, read_text, write

if TYPE_CHECKING:
    from argparse import Namespace

    from pyroclast.engine.output import Completion, Timings
    from pyroclast.engine.stream import Stream
    from pyroclast.llm import LLM
    from pyroclast.text.tokenizer import Tokenizer


def load(args: Namespace) -> LLM:
    """The model that the flags ask for."""
    from pyroclast.llm import LLM

    return LLM(
        args.model,
        device=args.device,
        compute=args.compute,
        kernels=args.kernels,
        threads=args.threads,
        kv_dtype=args.kv_dtype,
        prefix_cache=not getattr(args, "no_prefix_cache", False),
    )


def show(stream: Stream, *, quietly: bool) -> Completion:
    """Prints a stream's text as it comes, unless quietly; returns the completion."""
    for chunk in stream:
        if chunk.text and not quietly:
            write(chunk.text, end="")
    if not quietly:
        write()
    return stream.completions[0]


def as_json(completion: Completion, llm: LLM, **more: Any) -> str:
    """The completion and what produced it, as one JSON object."""
    return json.dumps({**completion.as_dict(), **made_with(llm), **more})


def made_with(llm: LLM) -> dict[str, Any]:
    """What every result names: the model, the device and why, threads, kernels, tuned table."""
    return {
        "model": llm.name,
        "device": llm.device,
        "device_note": llm.device_note,
        "threads": llm.n_threads,
        "kernels": llm.kernels,
        "table": llm.table,
    }


def tell_timings(timings: Timings, device: str) -> None:
    """Prints a line about speed below the answer, on a terminal only."""
    if not sys.stderr.isatty():
        return
    parts = [f"{timings.n_prompt_tokens} + {timings.n_completion_tokens} tokens"]
    if timings.first_token_s is not None:
        parts.append(f"first token after {timings.first_token_s * 1000:.0f} ms")
    if timings.prompt_tokens_per_s is not None:
        parts.append(f"prompt {timings.prompt_tokens_per_s:.0f} tokens/s")
    if timings.decode_tokens_per_s is not None:
        parts.append(f"answer {timings.decode_tokens_per_s:.1f} tokens/s")
    if device == "cuda":
        parts.append("on the GPU")
    if timings.bandwidth_share is not None:
        parts.append(f"{timings.bandwidth_share:.0%} of the memory bandwidth")
    print(colour("[" + ", ".join(parts) + "]", "2", sys.stderr), file=sys.stderr)


def generate(args: Namespace) -> None:
    """Continues a prompt, as a stream."""
    prompt, params = read_text(args.text), sampling_params(args)
    with load(args) as llm:
        completion = show(llm.stream(prompt, params), quietly=args.json)
        if args.json:
            write(as_json(completion, llm))
        else:
            tell_timings(completion.timings, llm.device)


def score(args: Namespace) -> None:
    """A table of the tokens of a text, and its perplexity."""
    text = read_text(args.text)
    with load(args) as llm:
        [found] = llm.score([text], n_top=args.top)
        if args.json:
            pieces = _pieces(llm.tokenizer, found.token_ids)
            row = {"text": text, **found.as_dict(), "pieces": pieces}
            write(json.dumps({**row, **made_with(llm)}))
            return
        write(f"{'token':>7}  {'logprob':>9}  {'rank':>6}  text")
        for token_id, each in zip(found.token_ids, found.logprobs, strict=True):
            piece = _shown(llm.tokenizer, token_id)
            if each is None:
                write(f"{token_id:>7}  {'':>9}  {'':>6}  {piece}")
                continue
            line = f"{token_id:>7}  {each.logprob:>9.4f}  {each.rank:>6}  {piece}"
            write(colour(line, "32") if each.is_greedy else line)
            for other_id, logprob in each.top:
                write(f"{other_id:>9}{logprob:>9.4f}          {_shown(llm.tokenizer, other_id)}")
        write(f"perplexity {found.perplexity:.4f}, logprob {found.logprob:.4f}")


def tokenize(args: Namespace) -> None:
    """The ids and pieces of a text; the weights are not looked at."""
    from pyroclast.checkpoint.open import open_tokenizer

    text = read_text(args.text)
    tokenizer, name = open_tokenizer(args.model)
    ids = tokenizer.encode(text, add_special_tokens=not args.no_special)
    if args.json:
        found = {"text": text, "ids": ids, "pieces": _pieces(tokenizer, ids), "count": len(ids)}
        write(json.dumps({**found, "model": name}))
        return
    for token_id in ids:
        write(f"{token_id:>7}  {_shown(tokenizer, token_id)}")
    write(counted(len(ids), "token"))


def _pieces(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    """Each token's own text; bytes that are not UTF-8 by themselves become U+FFFD."""
    return [tokenizer.token_bytes(token_id).decode("utf-8", "replace") for token_id in ids]


def _shown(tokenizer: Tokenizer, token_id: int) -> str:
    """A token's text in quotes, with its spaces, newlines and odd bytes visible."""
    data = tokenizer.token_bytes(token_id)
    try:
        return repr(data.decode("utf-8"))
    except UnicodeDecodeError:
        return repr(data)
