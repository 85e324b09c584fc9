"""Looks inside the model while requests go on: in small pieces, each between two steps.

Whoever looks runs a step for everybody before each piece, so that between two pieces nobody waits
for more than one of them.  The cache blocks come from the pool, and the pool may take them back
for requests: then the look begins again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pyroclast.engine.loop import Loop
from pyroclast.errors import NumericalError, QueueFullError

if TYPE_CHECKING:
    from pyroclast.engine.scheduler import Scheduler
    from pyroclast.model.inspect import Inspection
    from pyroclast.model.model import Model

T = TypeVar("T")

# Tokens of a piece: what a neighbour's step waits for.
PIECE_TOKENS = 16
MAX_WAIT_S = 30.0  # for cache blocks
MAX_LOSSES = 8  # of cache blocks


def between_steps(loop: Loop, work: Callable[[], T]) -> T:
    """The result of `work`, which runs between two steps, after one for everybody if there is
    something to compute.  ClosedError after the end, ReentryError in the middle of a step."""
    found: list[T] = []

    def aside() -> None:
        loop.check_open()
        try:
            found.append(work())
        except Exception:
            raise
        except BaseException:  # Ctrl-C: nobody knows how far it came
            loop.stepper.distrust()
            raise

    loop.run_for_all(aside)
    return found[0]


class Lease:
    """Cache blocks on loan: a `Keeper` of the pool, which gives them up when requests need them."""

    name = "inspection"

    def __init__(self, scheduler: Scheduler[Any]) -> None:
        self._scheduler, self._pool = scheduler, scheduler.pool
        self.blocks: list[int] = []
        self._pool.register(self, needed=True)

    def take(self, n_blocks: int) -> bool:
        """Borrows so many blocks; False if they are not there now."""
        if not self._scheduler.can_lend(n_blocks):
            return False
        blocks = self._pool.take(n_blocks)
        self._pool.hold(self, blocks)
        self._pool.give_back(blocks)
        self.blocks = blocks
        return True

    def evict(self, n_blocks: int) -> None:
        """Gives up all blocks: without one of them the others are worth nothing."""
        del n_blocks
        blocks, self.blocks = self.blocks, []
        self._pool.release(self, blocks)

    def forget(self) -> None:
        """The pool has been reset."""
        self.blocks = []

    def end(self) -> list[int]:
        """Gives everything back; returns the blocks that are free now."""
        self.blocks = []
        return self._pool.unregister(self)


def inspect(loop: Loop, token_ids: Sequence[int], **options: Any) -> Inspection:
    """What happens inside the model on token_ids, while other requests go on.

    options: those of `pyroclast.model.inspect.Inspector`.  QueueFullError where requests leave no
    cache blocks to it for too long."""
    from pyroclast.model.inspect import Inspector

    # Parts of an LLM that are no Model fail in here, with the name of what they lack.
    model = cast("Model", loop.stepper.model)
    n_blocks = -(-len(token_ids) // model.block_size)

    def begin() -> tuple[Inspector, Lease]:
        inspector = Inspector(model, token_ids, **options)
        return inspector, Lease(loop.stepper.scheduler)

    inspector, lease = between_steps(loop, begin)
    work = _Work(inspector, lease, len(token_ids), n_blocks, model)
    try:
        while not between_steps(loop, work.piece):
            pass
    finally:
        if not loop.closed:
            between_steps(loop, work.end)
    return inspector.found


class _Work:
    """The pieces of one inspection."""

    def __init__(
        self, inspector: Any, lease: Lease, n_tokens: int, n_blocks: int, model: Model
    ) -> None:
        self._inspector, self._lease, self._model = inspector, lease, model
        self._n_tokens, self._n_blocks = n_tokens, n_blocks
        self._n_read = self._n_losses = 0
        self._spoiled = False
        self._until_s = perf_counter() + MAX_WAIT_S

    def piece(self) -> bool:
        """Reads some tokens, if there are blocks for them; True after the last."""
        if not self._lease.blocks and not self._begin():
            return False
        n_tokens = min(PIECE_TOKENS, self._model.max_batch_tokens, self._n_tokens - self._n_read)
        try:
            self._inspector.read(self._n_read, n_tokens, self._lease.blocks)
        except NumericalError:
            self._spoiled = True
            raise
        self._n_read += n_tokens
        return self._n_read == self._n_tokens

    def end(self) -> None:
        """Gives the blocks back, without a NaN in them."""
        freed = self._lease.end()
        if self._spoiled:
            self._model.zero_blocks(freed)

    def _begin(self) -> bool:
        """Borrows the blocks, for the first time or after they were taken away."""
        if self._n_read:
            self._n_read, self._n_losses = 0, self._n_losses + 1
        if self._n_losses < MAX_LOSSES and self._lease.take(self._n_blocks):
            return True
        if self._n_losses == MAX_LOSSES or perf_counter() > self._until_s:
            raise QueueFullError(
                f"the requests that run leave no {self._n_blocks} cache blocks to look inside the "
                "model; try again later, or give the LLM more n_blocks"
            )
        return False
