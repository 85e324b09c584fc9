"""The commands that read or write text once: generate, score, tokenize."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pyroclast.cli.flags import one_adapter, sampling_params
from pyroclast.cli.terminal import colour, counted, fail, read_text, write

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator, Sequence

    from pyroclast.engine.output import Completion, Timings, TokenLogprobs
    from pyroclast.engine.stream import Stream
    from pyroclast.llm import LLM
    from pyroclast.text.tokenizer import Tokenizer

# What OpenBLAS, which NumPy's wheels bring, reads when it is loaded; its own name first.
_BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS")


def load(args: Namespace) -> LLM:
    """The model that the flags ask for."""
    with _loading():
        _import_numpy(args)
        from pyroclast.llm import LLM

        return LLM(
            args.model,
            device=args.device,
            compute=args.compute,
            kernels=args.kernels,
            threads=args.threads,
            kv_dtype=args.kv_dtype,
            prefix_cache=not getattr(args, "no_prefix_cache", False),
            cache_dir=getattr(args, "cache_dir", None),
            cache_dir_bytes=getattr(args, "cache_dir_bytes", None),
            speculation=getattr(args, "speculation", "off"),  # score and next write no text
            draft=getattr(args, "draft", None),
            adapters=one_adapter(args),
        )


def _import_numpy(args: Namespace) -> None:
    """NumPy, without the threads that its BLAS starts, one for each CPU: they spin a while, and
    native kernels leave them idle.  Where NumPy's products may run it keeps them, and so does
    whoever chose their number."""
    rules = os.environ.get("PYROCLAST_KERNELS", "") if args.kernels is None else args.kernels
    chosen = any(name in os.environ for name in _BLAS_THREADS)
    native = importlib.util.find_spec("pyroclast_kernels._executor") is not None
    if "numpy" in sys.modules or "numpy" in rules or chosen or not native:
        return
    os.environ[_BLAS_THREADS[0]] = "1"
    try:
        import numpy  # noqa: F401 - read when its library is loaded
    finally:
        del os.environ[_BLAS_THREADS[0]]  # children choose for themselves


@contextmanager
def _loading() -> Iterator[None]:
    """Python's garbage collector rests meanwhile, and passes over what was loaded ever after.

    Imports and a vocabulary are objects by the hundred thousand, and all of them stay.  Looking
    through them takes a fifth of the CPU time of a short answer, half of that when it ends.  What
    loading left as garbage stays as well: little, beside a model."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if was_on:
            gc.enable()


def adapter_of(llm: LLM) -> str | None:
    """The adapter that the flags name: every request uses it."""
    return next(iter(llm.adapters), None)


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
    found = completion.as_dict()
    for row in found["logprobs"] or []:
        row["text"], *row["top_texts"] = _pieces(
            llm.tokenizer, [row["token_id"], *(token_id for token_id, _ in row["top"])]
        )
    return json.dumps({**found, **made_with(llm), **more})


def made_with(llm: LLM) -> dict[str, Any]:
    """What every result names: the model, the device and why, threads, kernels, tuned table."""
    adapter = adapter_of(llm)
    return {
        "model": llm.name,
        **({} if adapter is None else {"adapter": adapter}),
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
    if timings.n_drafted_tokens:
        parts.append(f"{timings.n_accepted_tokens} of {timings.n_drafted_tokens} drafts right")
    if device == "cuda":
        parts.append("on the GPU")
    if timings.bandwidth_share is not None:
        parts.append(f"{timings.bandwidth_share:.0%} of the memory bandwidth")
    print(colour("[" + ", ".join(parts) + "]", "2", sys.stderr), file=sys.stderr)


def finish(completion: Completion, llm: LLM) -> None:
    """What stands below a text: its log-probabilities, if they were asked for, and timings."""
    if completion.logprobs is not None:
        _write_logprobs(llm.tokenizer, completion.token_ids, completion.logprobs)
    tell_timings(completion.timings, llm.device)


def generate(args: Namespace) -> None:
    """Continues a prompt, as a stream."""
    prompt, params = read_text(args.text), sampling_params(args)
    with load(args) as llm:
        completion = show(llm.stream(prompt, params, adapter=adapter_of(llm)), quietly=args.json)
        if args.json:
            write(as_json(completion, llm))
        else:
            finish(completion, llm)


def score(args: Namespace) -> None:
    """A table of the tokens of a text, and its perplexity."""
    from pyroclast.sampling.param_checks import MAX_LOGPROBS

    if not 0 <= args.top <= MAX_LOGPROBS:
        fail(f"--top must be between 0 and {MAX_LOGPROBS}, got {args.top}", code=2)
    if args.text == args.context == "-":
        fail("standard input can be TEXT or --context, not both", code=2)
    text = read_text(args.text)
    context = None if args.context is None else read_text(args.context)
    with load(args) as llm:
        texts = [[text]] if context is None else [context, text]
        [found] = llm.score(*texts, n_top=args.top, adapter=adapter_of(llm))
        if args.json:
            pieces = _pieces(llm.tokenizer, found.token_ids)
            row = {"text": text, "context": context, **found.as_dict(), "pieces": pieces}
            write(json.dumps({**row, **made_with(llm)}))
            return
        _write_logprobs(llm.tokenizer, found.token_ids, found.logprobs)
        if any(each is not None for each in found.logprobs):
            write(f"perplexity {found.perplexity:.4f}, logprob {found.logprob:.4f}")
        else:
            write("nothing is scored: the only token has no context; --context gives it one")


def _write_logprobs(
    tokenizer: Tokenizer, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs | None]
) -> None:
    """A row for each token, and below it the most likely ones in its place."""
    write(f"{'token':>7}  {'logprob':>9}  {'rank':>6}  text")
    for token_id, each in zip(token_ids, logprobs, strict=True):
        piece = _shown(tokenizer, token_id)
        if each is None:
            write(f"{token_id:>7}  {'':>9}  {'':>6}  {piece}")
            continue
        line = f"{token_id:>7}  {each.logprob:>9.4f}  {each.rank:>6}  {piece}"
        write(colour(line, "32") if each.is_greedy else line)
        for other_id, logprob in each.top:
            write(f"{other_id:>9}{logprob:>9.4f}          {_shown(tokenizer, other_id)}")


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
