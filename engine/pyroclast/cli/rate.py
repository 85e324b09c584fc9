"""The command rate: a page that asks a person which of two answers is better."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pyroclast.cli.terminal import counted, fail, write
from pyroclast.errors import TrainingError, reason_of
from pyroclast_kernels.whole_file import write_text

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

_LOCAL = ("localhost", "127.0.0.1", "[::1]")
_EXTRA = "`pyroclast rate` needs the extra [server]: `pip install 'pyroclast-lm[server]'`"


def add_arguments(command: ArgumentParser, name: str) -> None:
    """The flags of the command `name`, which is rate."""
    del name  # one command only
    add = command.add_argument
    add("model", metavar="MODEL", help="file, folder or name")
    add("prompts", metavar="PROMPTS.jsonl", help='a line each: {"prompt": text or messages}')
    add("--ratings", default="ratings.sqlite", metavar="FILE", help="where ratings are stored")
    add("--export", metavar="PAIRS.jsonl", help="write what is rated, for train prefer, and end")
    add("--rounds", type=int, default=1, metavar="N", help="pairs for each prompt (default: 1)")
    add("--max-tokens", "-n", type=int, default=128, metavar="N", help="of an answer")
    add("--temperature", type=float, default=1.0, metavar="T", help="default: 1")
    add("--seed", type=int, default=0, metavar="N", help="decides the answers (default: 0)")
    add("--host", default="127.0.0.1", help="default: this machine only")
    add("--port", type=int, default=8001, help="0 takes any that is free (default: 8001)")


def rate(args: Namespace) -> None:
    """Serves the page until Ctrl-C, or exports what is rated."""
    from pyroclast.train.ratings import Ratings, jsonl

    if args.rounds < 1:
        fail(f"--rounds must be at least 1, got {args.rounds}", code=2)
    if args.export is not None:
        _check_export(args)
    if args.export is not None and not Path(args.ratings).exists():
        raise TrainingError(f"{args.ratings}: no such file; rate answers first, or give --ratings")
    with Ratings(args.ratings) as ratings:
        if args.export is None:
            _serve(args, ratings)
            return
        rows = ratings.export()
        try:
            write_text(Path(args.export), jsonl(rows))
        except OSError as error:
            raise TrainingError(f"{args.export}: cannot be written: {reason_of(error)}") from error
    if args.json:
        write(json.dumps({"path": args.export, "pairs": len(rows)}))
    else:
        write(f"{args.export}: {counted(len(rows), 'pair')}")


def _check_export(args: Namespace) -> None:
    """Ends the command where the pairs would replace what it reads."""
    target = Path(args.export)
    for source in (Path(args.ratings), Path(args.prompts)):
        if target.exists() and source.exists() and target.samefile(source):
            fail(f"--export must not be {source}, which would be lost", code=2)


def _serve(args: Namespace, ratings: object) -> None:
    try:
        import uvicorn
    except ImportError as error:
        fail(f"{_EXTRA} ({error})", code=1)
    from pyroclast.llm import LLM
    from pyroclast.sampling.params import SamplingParams
    from pyroclast.server.rate.app import RateApp
    from pyroclast.server.run import listen
    from pyroclast.train.prompts import read_prompts
    from pyroclast.train.rating_session import RatingSession
    from pyroclast.train.ratings import Ratings

    assert isinstance(ratings, Ratings)
    prompts = read_prompts(args.prompts)
    params = SamplingParams(
        temperature=args.temperature, max_tokens=args.max_tokens, seed=args.seed
    )
    bound = listen(args.host, args.port)
    with bound, LLM(args.model) as llm:
        session = RatingSession(llm, prompts, ratings, params, args.rounds)
        host, port = bound.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{port}/"
        write(json.dumps({"url": url}) if args.json else f"rate answers at {url}")
        sys.stdout.flush()
        application = RateApp(session, {*_LOCAL, shown, args.host})
        config = uvicorn.Config(
            application,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
        )
        uvicorn.Server(config).run(sockets=[bound])
