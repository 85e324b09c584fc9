"""The command `chat`: a conversation at the terminal, or one question."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from pyroclast.cli.flags import sampling_params
from pyroclast.cli.terminal import colour, fail, read_text, write
from pyroclast.cli.text import adapter_of, as_json, finish, load, show
from pyroclast.errors import ContextOverflowError

if TYPE_CHECKING:
    from argparse import Namespace

    from pyroclast.llm import LLM
    from pyroclast.sampling.params import SamplingParams

    Message = dict[str, str]

_HELP = "/reset starts over, /exit (or Ctrl-D) quits, Ctrl-C stops an answer"


def chat(args: Namespace) -> None:
    """Answers one message, or each that is typed until /exit."""
    params = sampling_params(args)
    message = None if args.text is None else read_text(args.text)
    if message is not None and not message.strip():
        fail("the message is empty", code=2)
    opening = [] if args.system is None else [_message("system", read_text(args.system))]
    with load(args) as llm:
        if message is not None:
            _answer(llm, [*opening, _message("user", message)], params, as_object=args.json)
        else:
            _converse(llm, opening, params, as_object=args.json)


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _converse(llm: LLM, opening: list[Message], params: SamplingParams, *, as_object: bool) -> None:
    """Reads messages until the end of input.  Ctrl-C stops an answer, or quits at the prompt."""
    watched = sys.stdin.isatty() and not as_object
    if watched:
        with suppress(ImportError):  # arrow keys at the prompt, where Python was built with them
            import readline  # noqa: F401
        write(colour(f"{llm.name}: {_HELP}", "2"))
    history = list(opening)
    while True:
        try:
            # The prompt goes through input(): else editing the line would erase it.
            line = read_text(input("> " if watched else "")).strip()
        except EOFError:
            return
        if line == "/exit":
            return
        if line == "/reset":
            history = list(opening)
        elif line == "/help":
            write(_HELP)
        elif line:
            history.append(_message("user", line))
            try:
                text = _answer(llm, history, params, as_object=as_object)
            except ContextOverflowError as error:
                history.pop()
                write(colour(f"the conversation is full: {error}; /reset starts over", "33"))
            else:
                history.append(_message("assistant", text))


def _answer(llm: LLM, messages: list[Message], params: SamplingParams, *, as_object: bool) -> str:
    """Streams one answer; Ctrl-C ends it early and keeps the text so far."""
    stream = llm.stream_chat(messages, params, adapter=adapter_of(llm))
    try:
        completion = show(stream, quietly=as_object)
    except KeyboardInterrupt:
        stream.close()
        if not sys.stdin.isatty():
            raise
        write(colour(" [stopped]", "2"))
        completion = stream.completions[0]
    if as_object:
        write(as_json(completion, llm, messages=messages))
    else:
        finish(completion, llm)
    return completion.text
