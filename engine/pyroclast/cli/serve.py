"""The command serve: models behind HTTP."""

from __future__ import annotations

import gc
import json
import logging
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyroclast.cli.flags import (
    DEFAULT_MODEL,
    MODEL_FORMS,
    adapter_paths,
    add_adapters,
    add_cache_dir,
    add_device,
    add_frozen,
    add_speculation,
    add_threads,
)
from pyroclast.cli.terminal import fail, warn, write

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable

    from pyroclast.async_llm import AsyncLLM
    from pyroclast.server.limits import Limits
    from pyroclast.server.look import Look

# Each must be above 0; its type is that of its default.
_LIMITS: dict[str, tuple[str, int | float, str]] = {
    "--max-queued-requests": ("K", 1024, "requests that wait; more get a 429"),
    "--max-connections": ("N", 4096, "open connections; more get a 503"),
    "--request-timeout": ("S", 30.0, "seconds for the headers, and for the body"),
    "--keep-alive": ("S", 75, "seconds that an idle connection stays open"),
    "--shutdown-timeout": ("S", 30.0, "seconds for what still runs at the end"),
}
_SWITCH_S = 5e-4
_EXTRA = "`pyroclast serve` needs the extra [server]: `pip install 'pyroclast-lm[server]'`"


def add_arguments(command: ArgumentParser, name: str) -> None:
    """The flags of the command `name`: serve, or look, which is a server with a page."""
    add = command.add_argument
    add("model", nargs="*", metavar="MODEL", help=f"{MODEL_FORMS} ({DEFAULT_MODEL})")
    add("--model", "-m", dest="more", action="append", default=[], metavar="MODEL", help="the same")
    add_adapters(command, several=True)
    add("--served-model-name", action="append", default=[], metavar="N", help="one for each model")
    add("--host", default="127.0.0.1", help="0.0.0.0 for every network (default: this machine)")
    add("--port", type=int, default=8000, help="0 takes any that is free (default: %(default)s)")
    add("--api-key", action="append", default=[], metavar="KEY", help="better: --api-key-file")
    add("--api-key-file", metavar="F", help="one key a line; also PYROCLAST_API_KEY")
    add("--cors-origin", action="append", default=[], metavar="URL", help="a web page that may ask")
    for flag, (metavar, default, told) in _LIMITS.items():
        help_text = f"{told} (default: {default:g})"
        add(flag, type=type(default), default=default, metavar=metavar, help=help_text)
    add("--log-bodies", action="store_true", help="log what clients ask, prompts included")
    add("--answer-parser", metavar="NAME", help="how tool calls and reasoning are read")
    add_threads(command)
    add("--compute", default="auto", metavar="HOW", help="auto or float32")
    add("--kv-dtype", default="auto", metavar="TYPE", help="auto, f32, f16, bf16 or q8_0")
    add("--max-seqs", type=int, default=64, metavar="N", help="sequences in a step (default: 64)")
    add("--no-prefix-cache", action="store_true", help="compute every prompt whole")
    add_cache_dir(command)
    add_speculation(command)
    if name == "serve":
        add("--embeddings", action="store_true", help="serve /v1/embeddings, too")
        add("--look", action="store_true", help="serve /look, which shows how tokens are picked")
    add("--training", metavar="DIR", help="runs of `pyroclast train` that /look shows")
    add("--kernels", metavar="RULES", help="for example matmul.q8_0=cpp-avx2")
    add_frozen(command)
    add_device(command, "auto")


def serve(args: Namespace) -> None:
    """Loads the models and answers until a signal ends it."""
    run(args)


def run(args: Namespace, show: Callable[[str], None] | None = None) -> None:
    """The same; `show` is told the page's address once it can be asked for."""
    _check(args)
    _check_extra()
    from pyroclast.server.app import App, create_app
    from pyroclast.server.auth import read_keys
    from pyroclast.server.run import listen, make_server

    # The thread that runs the steps must not wait long for one that writes to clients.
    sys.setswitchinterval(_SWITCH_S)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    keys = read_keys(args.api_key_file, args.api_key)
    bound = listen(args.host, args.port)  # first: a port in use is told before models load
    llms = _load(args)
    freeze_garbage()
    try:
        limits = _limits(args)
        options = {"api_keys": keys, "cors_origins": args.cors_origin, "limits": limits}
        options |= {"look": _look(args), "log_bodies": args.log_bodies}
        application = create_app(llms, parser=args.answer_parser, **options)
        app = application if isinstance(application, App) else application.app  # type: ignore[attr-defined]
        server = make_server(
            application, app, limits=limits, shutdown_timeout_s=args.shutdown_timeout
        )
        host, port = bound.getsockname()[:2]
        names = [each.name for each in app.models.all]
        url = _tell(args, names, host, port, has_key=bool(keys))
        if show is not None:
            show(f"{url}/look/")
        server.run(sockets=[bound])
    finally:
        for each in llms.values():
            each.llm.close()
        bound.close()


def _look(args: Namespace) -> Look | None:
    """The room look, where it is wanted."""
    if not args.look:
        return None
    from pyroclast.lens import page
    from pyroclast.server.look import Look

    if not page.is_built():
        warn(page.NOT_BUILT)
    return Look(args.training)


def freeze_garbage() -> None:
    """From now on collections of garbage leave out what there is: models, vocabularies, modules,
    whose 46,000 objects stop every thread for 60 ms and more."""
    gc.collect()
    gc.freeze()


def _check_extra() -> None:
    """Ends with exit code 1 where what a server needs is not installed."""
    try:
        import msgspec  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        fail(f"{_EXTRA} ({error})", code=1)


def _check(args: Namespace) -> None:
    """Ends with exit code 2 for a limit that is none, and for flags that do not go together."""
    n_models = len([*args.model, *args.more])
    if adapter_paths(args) and n_models > 1:
        fail(f"--adapter goes with one model, got {n_models}; serve them apart", code=2)
    if args.training is not None:
        if not args.look:
            fail("--training goes with --look, whose page shows the runs", code=2)
        if not Path(args.training).is_dir():
            fail(f"--training must be a folder of training runs, got {args.training!r}", code=2)
    for flag in _LIMITS:
        value = getattr(args, flag.removeprefix("--").replace("-", "_"))
        if not 0 < value < math.inf:
            fail(f"{flag} must be a finite number above 0, got {value}", code=2)


def _limits(args: Namespace) -> Limits:
    from pyroclast.server.limits import Limits

    return Limits(
        max_connections=args.max_connections,
        header_timeout_s=args.request_timeout,
        body_timeout_s=args.request_timeout,
        keep_alive_s=args.keep_alive,
    )


def _load(args: Namespace) -> dict[str, AsyncLLM]:
    from pyroclast.async_llm import AsyncLLM

    models = [*args.model, *args.more] or [DEFAULT_MODEL]
    names = args.served_model_name
    if names and len(names) != len(models):
        fail(
            f"--served-model-name must be given once for each model: {len(models)} models, "
            f"{len(names)} names",
            code=2,
        )
    llms: dict[str, AsyncLLM] = {}
    for i, model in enumerate(models):
        llm = AsyncLLM(
            model,
            device=args.device,
            compute=args.compute,
            kernels=args.kernels,
            threads=args.threads,
            kv_dtype=args.kv_dtype,
            max_seqs=args.max_seqs,
            embeddings=args.embeddings,
            prefix_cache=not args.no_prefix_cache,
            cache_dir=args.cache_dir,
            cache_dir_bytes=args.cache_dir_bytes,
            speculation=args.speculation,
            draft=args.draft,
            adapters=adapter_paths(args),
            max_queued_requests=args.max_queued_requests,
        )
        name = names[i] if names else Path(llm.llm.name).name
        if name.lower() in {each.lower() for each in llms}:
            fail(f"two models are called {name!r}; name them with --served-model-name", code=2)
        llms[name] = llm
    return llms


def _tell(args: Namespace, names: list[str], host: str, port: int, *, has_key: bool) -> str:
    """Says where it listens, and gives a line to try; returns the address."""
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{port}"
    if args.json:
        page = {"look": f"{url}/look/"} if args.look else {}
        write(json.dumps({"url": url, **page, "models": names}))
    elif args.command == "look":
        write(f"{', '.join(names)} at {url}/look/ (Ctrl-C ends it)")
    else:
        body: dict[str, Any] = {"messages": [{"role": "user", "content": "Why is the sky blue?"}]}
        key = " -H 'Authorization: Bearer YOUR_KEY'" if has_key else ""
        page_too = f"; the page: {url}/look/" if args.look else ""
        write(f"{', '.join(names)} at {url}/v1; every endpoint: {url}/docs{page_too}.  Try:")
        write(
            f"  curl {url}/v1/chat/completions -H 'Content-Type: application/json'{key} "
            f"-d '{json.dumps(body | {'max_tokens': 64})}'"
        )
    sys.stdout.flush()
    return url
