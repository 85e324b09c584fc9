"""Everything of a model that an LLM needs, from its files: weights, tokenizer, adapters."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pyroclast.checkpoint.background import Background
from pyroclast.checkpoint.open import Checkpoint, open_checkpoint
from pyroclast.errors import ModelFileError, RequestError
from pyroclast.model.adapters import TARGETS, AdapterKey, AdapterSlots
from pyroclast.model.device import check_device, kernel_errors
from pyroclast.model.draft_head import check_has_head
from pyroclast.model.host_memory import is_address_space_limited
from pyroclast.model.load_plan import Plan, plan
from pyroclast.model.model import Model
from pyroclast.model.options import LoadOptions
from pyroclast.progress import progress_bar

if TYPE_CHECKING:
    from pyroclast.checkpoint.adapter.open import Adapter
    from pyroclast.text.tokenizer import Tokenizer

AdapterPaths = Mapping[str, str | Path]

MAX_ADAPTERS = 256
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Loaded(NamedTuple):
    """adapters: those of the model by name, in the order in which they were given."""

    model: Model
    tokenizer: Tokenizer
    name: str
    adapters: Mapping[str, AdapterKey]


def load(
    model: str | Path,
    device: str,
    adapters: AdapterPaths,
    *,
    draft_head: bool = False,
    **options: Any,
) -> Loaded:
    """Opens the files, plans where the model lies, loads it there, closes the files.  draft_head:
    with its head that predicts further tokens; RequestError if it has none."""
    device = check_device(device)
    LoadOptions(**options).check()
    check_names(adapters)
    opened = open_checkpoint(model, draft_head=draft_head)
    with opened as checkpoint, _opened(adapters, checkpoint) as found:
        if draft_head:
            check_has_head(checkpoint.config, checkpoint.name)
        slots = _slots(list(found.values()))
        planned = plan(checkpoint, device, LoadOptions(adapters=slots, **options))
        in_thread = not is_address_space_limited()
        tokenizer = Background(checkpoint.tokenizer, "pyroclast-tokenizer", in_thread=in_thread)
        if line := checkpoint.conversion_line():
            _warn("%s: %s", checkpoint.name, line)
        with progress_bar(checkpoint.config.n_layers, "layer") as show, kernel_errors():
            loaded = Model(checkpoint, planned, on_layer=show)
        _tell_idle_rules(planned, checkpoint.name)
        try:
            keys = _fill(loaded, found)
            return Loaded(loaded, tokenizer.result(), checkpoint.name, keys)
        except BaseException:
            loaded.close()
            raise


def _tell_idle_rules(planned: Plan, name: str) -> None:
    """Warns of kernel rules that the model has no use for.  On the GPU, fused calls hide parts."""
    if not planned.selection.on_gpu:
        for rule in planned.selection.idle_rules():
            what = rule.partition("=")[0]
            _warn("%s: the kernel rule %s has no effect: the model never runs %s", name, rule, what)


def _warn(message: str, *args: str) -> None:
    import logging  # late: every start would pay for it

    logging.getLogger("pyroclast").warning(message, *args)


def check_names(adapters: AdapterPaths) -> None:
    """RequestError unless each name can stand behind that of a model, and no two are alike."""
    if not isinstance(adapters, Mapping):
        raise RequestError(
            f'adapters must be {{"name": "folder or file", ...}}, got {type(adapters).__name__}'
        )
    if len(adapters) > MAX_ADAPTERS:
        raise RequestError(f"at most {MAX_ADAPTERS} adapters can be loaded, got {len(adapters)}")
    seen: set[str] = set()
    name: Any
    path: Any
    for name, path in adapters.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise RequestError(
                "the name of an adapter must be 1 to 64 letters, digits, '.', '_' and '-', and "
                f"begin with a letter or a digit; got {name!r:.100}"
            )
        if name.lower() in seen:
            raise RequestError(f"two adapters are called {name!r}; case does not count")
        seen.add(name.lower())
        if not isinstance(path, str | Path):
            raise RequestError(
                f"the adapter {name!r} must be the path of a folder or a file, got {path!r:.100}"
            )


@contextmanager
def _opened(adapters: AdapterPaths, checkpoint: Checkpoint) -> Iterator[dict[str, Adapter]]:
    """The adapters by name; all are closed in the end."""
    if not adapters:
        yield {}
        return
    from pyroclast.checkpoint.adapter.open import open_adapter  # late: few models have any

    with ExitStack() as stack:
        found = {}
        for name, path in adapters.items():
            with _about(name):
                found[name] = open_adapter(path, checkpoint.config)
            stack.callback(found[name].close)
        yield found


@contextmanager
def _about(name: str) -> Iterator[None]:
    """Puts an adapter's name in front of what is wrong with its files."""
    try:
        yield
    except ModelFileError as error:
        raise type(error)(f"the adapter {name!r}: {error}") from error


def _slots(adapters: list[Adapter]) -> AdapterSlots | None:
    """Room for what the files say."""
    if not adapters:
        return None
    changed = set().union(*(adapter.targets for adapter in adapters))
    return AdapterSlots(
        len(adapters),
        max(adapter.max_rank for adapter in adapters),
        tuple(target for target in TARGETS if target in changed),
    )


def _fill(model: Model, adapters: Mapping[str, Adapter]) -> dict[str, AdapterKey]:
    """Reads each adapter into its slot, one after the other."""
    if not adapters:
        return {}
    from pyroclast.checkpoint.adapter.open import fingerprint

    keys = {}
    for slot, (name, adapter) in enumerate(adapters.items()):
        with _about(name):
            products = adapter.read()
        model.adapters.set(slot, products, 1.0)
        scales = {each: pair.scale for each, pair in adapter.pairs.items()}
        keys[name] = AdapterKey(slot, fingerprint(name, products), scales)
    return keys
