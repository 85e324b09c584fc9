"""A request as the scheduler plans it: tokens, blocks, and how far it is computed.  Plain ints."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyroclast.engine.drafter import Drafter


class Request:
    """A text that grows by tokens.  `token_ids[:n_computed]` are in the KV cache, in `blocks`."""

    __slots__ = (
        "blocks",
        "branch",
        "coming",
        "draft_ids",
        "draft_source",
        "drafter",
        "found",
        "is_paused",
        "n_cached",
        "n_computed",
        "n_kept",
        "n_prompt",
        "n_rows_done",
        "n_step_drafts",
        "n_step_rows",
        "n_step_tokens",
        "n_unproven",
        "order",
        "pages",
        "rolling",
        "root",
        "snapshots",
        "source",
        "state",
        "takes_drafts",
        "token_ids",
        "wants_prompt_rows",
        "was_admitted",
        "writes",
    )

    def __init__(
        self,
        token_ids: list[int],
        *,
        wants_prompt_rows: bool = False,
        root: bytes = b"",
    ) -> None:
        """`wants_prompt_rows`: the logits of every prompt token are wanted, not only of the last.
        `root`: requests with the same one can share blocks."""
        self.token_ids = token_ids
        self.n_prompt = len(token_ids)
        self.n_computed = self.n_unproven = 0  # n_unproven: 0 once logits stand behind all
        self.was_admitted, self.n_cached = False, 0  # tokens in the cache when first admitted
        self.blocks: list[int] = []
        self.wants_prompt_rows = wants_prompt_rows
        # The prefix cache's: the key and the ids of each full block, how many of its blocks are in
        # the cache, the key of the block that it computes next, where the search for its text ended
        # while it waits, and what it copied of which block.
        self.root = root
        self.pages: list[tuple[bytes, bytes]] = []
        self.n_kept = 0
        self.coming: bytes | None = None
        self.found: tuple[object, int] | None = None
        self.source: object | None = None
        # Slots of recurrent layers' states, see `state_slots`.
        self.state = -1
        self.writes: list[tuple[int, int]] = []
        self.snapshots: list[tuple[int, int, bool]] = []
        self.rolling: object | None = None
        self.branch = 0
        self.n_rows_done = 0  # positions whose prompt row was delivered: not asked for again
        self.n_step_tokens = 0  # in the step being run: tokens computed,
        self.n_step_rows = 0  # and rows of logits, which belong to the last of those tokens,
        self.n_step_drafts = 0  # and of those tokens, how many are the first of `draft_ids`
        self.draft_ids: list[int] = []
        self.takes_drafts, self.draft_source = False, ""  # of the last drafts
        self.drafter: Drafter | None = None  # the speculator's
        # What is due first goes first.  It never changes, so everyone is the first one day.
        self.order: tuple[float, int] = (0.0, 0)
        self.is_paused = False  # nobody fetches its tokens: it is left out of steps

    @property
    def n_unread(self) -> int:
        """Tokens that are not in the KV cache; 1 while it decodes."""
        return len(self.token_ids) - self.n_computed

    @property
    def is_proven(self) -> bool:
        """Whether its prompt, and all that it has computed since, has given finite logits."""
        return self.n_computed >= self.n_prompt and not self.n_unproven

    @property
    def n_skippable(self) -> int:
        """How many tokens from the first on need not be computed if the cache has them."""
        if self.wants_prompt_rows and self.n_rows_done < self.n_prompt:
            return self.n_rows_done
        return len(self.token_ids) - 1

    @property
    def is_live(self) -> bool:
        """Whether somebody reads its tokens as they come."""
        return False

    @property
    def tables_vary(self) -> bool:
        """Whether a row of logits needs sampler tables of its own, apart from other positions'."""
        return False

    @property
    def max_drafts(self) -> int:
        """How many drafts may become tokens of its text."""
        return 0

    def advance(self) -> None:
        """The step has computed the tokens planned for it."""
        self.n_computed += self.n_step_tokens
        self.n_unproven = 0 if self.n_step_rows else self.n_unproven + self.n_step_tokens
        if self.n_rows_done < self.n_prompt:
            self.n_rows_done = max(self.n_rows_done, min(self.n_computed, self.n_prompt))
