"""What may follow a text, from the text itself: where its end stood before, and went on.

Hash chains as in deflate (RFC 1951): each pair of adjacent tokens leads to where it stood last, and
that place to the one before.  Of the last `_MAX_TRIES` places the one that agrees with the longest
end of the text is followed, token by token, as long as it is right.  Saxena 2023 (prompt lookup
decoding) and Oliaro et al. 2024 (SuffixDecoding) draft this way.

A place that is followed predicts each token before it comes, tried as a draft or not.  So how often
it is right is known without trying, and costs no step.

A copy may change its source: a name is replaced, a line break inserted.  A change of one token is
remembered by the two tokens where the source goes on differently, and predicted where they come
again.
"""

from __future__ import annotations

from pyroclast.engine.past_outputs import GRAM, PastOutputs

_MAX_TRIES = 8
_MAX_MATCH = 16  # tokens that are compared
# The chance that the next token is right: behind a wrong one, and by the length of the match, 2, 4,
# 8, 16 tokens or more.  A request begins with these, which took few steps on the copies of
# bench/speculation.py and few drafts on its prose; then each token that was predicted moves its
# chance by a share.
_FIRST_CHANCES = (0.4, 0.3, 0.7, 0.85, 0.93)
_SHARE = 1 / 12
# How many tokens of its source a copy may pass over with one token that is not the next there: one
# where it is exchanged, none where it is inserted, two where one is left out.
_SKIPS = (1, 0, 2)
_NEXT = -1  # the token that came is the source's own, behind the one that was left out
MAX_CHANCE = 0.97


class Drafter:
    """Follows one text, `token_ids`, which only grows.  `n_prompt`: how many of its tokens the
    model did not write.  root: see PastOutputs.  Takes about 200 bytes for each token."""

    __slots__ = (
        "_at",
        "_chances",
        "_changed",
        "_changes",
        "_ends",
        "_ids",
        "_last",
        "_n_matched",
        "_past",
        "_root",
        "_skip",
        "_source",
    )

    def __init__(
        self, token_ids: list[int], n_prompt: int, past: PastOutputs, root: bytes = b""
    ) -> None:
        self._ids, self._past, self._root = token_ids, past, root
        self._chances = list(_FIRST_CHANCES)
        # By pair: the index of its second token, where it stood last.  _ends[i]: where the pair
        # that ends at i stood before; 0 where it did not.
        self._last: dict[int, int] = {}
        self._ends: list[int] = []
        # `_source[_at]` may come next; the `_n_matched` tokens before it agree with the text.  One
        # token: only its place, behind a longer match, is known.
        self._source, self._at, self._n_matched = token_ids, 0, 0
        # By the token before it and that of the source: the token that came instead or _NEXT, and
        # how many of the source it passes over.
        self._changes: dict[int, tuple[int, int]] = {}
        # The last change, until the token behind it tells what it was: its key, the token that
        # came, and the place of the one that did not.
        self._changed = (0, 0, 0)
        self._skip = _SKIPS[0]  # of the last change
        last, ends = self._last, self._ends
        for i in range(n_prompt):
            pair = token_ids[i - 1] << 32 | token_ids[i] if i else -1
            ends.append(last.get(pair, 0))
            last[pair] = i

    def read(self) -> float:
        """Reads the tokens that are new.  The chance that the next one is known; 0.0 if no place is
        followed.  About a microsecond a token where nothing repeats."""
        ids, ends, last = self._ids, self._ends, self._last
        for i in range(len(ends), len(ids)):
            token_id = ids[i]
            if self._n_matched:
                self._follow(i)
            pair = ids[i - 1] << 32 | token_id
            place = last.get(pair, 0)
            ends.append(place)
            last[pair] = i
            if self._n_matched < GRAM:
                if place:
                    self._find(i)
                if self._past.n_tokens and self._n_matched < GRAM:
                    self._find_past(i)
        n_matched = self._n_matched
        return self._chances[_class_of(n_matched)] if n_matched else 0.0

    def draft(self, n_tokens: int) -> list[int]:
        """The tokens that may come next, after `read` has told that some may."""
        found: list[int] = []
        before, at = self._ids[-1], self._at
        while len(found) < n_tokens:
            if at < len(self._source):
                before, at = self._predict(before, at, len(self._source))
            elif self._source is self._ids and at - len(self._ids) < len(found):
                # It may repeat what it has just begun to repeat.
                before, at = found[at - len(self._ids)], at + 1
            else:
                break
            found.append(before)
        return found

    def _predict(self, before: int, at: int, n_known: int) -> tuple[int, int]:
        """The token that comes behind `before` where the source has its token `at`, and the place
        of the next one.  n_known: tokens of the source."""
        source = self._source
        change = self._changes.get(before << 32 | source[at]) if self._changes else None
        if change is None:
            return source[at], at + 1
        token_id, skip = change
        if token_id == _NEXT:
            return (source[at + 1], at + 2) if at + 1 < n_known else (source[at], at + 1)
        return token_id, at + skip

    def _follow(self, i: int) -> None:
        """Token `i` is the one that was predicted, or another one."""
        source, at, token_id = self._source, self._at, self._ids[i]
        n_known = i if source is self._ids else len(source)  # of the source, before this token
        before = self._ids[i - 1]
        predicted, self._at = self._predict(before, at, n_known)
        is_right = predicted == token_id
        which = _class_of(self._n_matched)
        chance = self._chances[which]
        self._chances[which] = min(MAX_CHANCE, chance + (is_right - chance) * _SHARE)
        if self._n_matched == 1:
            self._settle(token_id, n_known)
        elif is_right:
            self._n_matched += 1
        elif self._n_matched < GRAM:
            self._n_matched = 0
        elif source[at] == token_id:  # the copy is true again
            del self._changes[before << 32 | token_id]
            self._at = at + 1
        else:  # the copy may go on behind it
            self._changed = before << 32 | source[at], token_id, at
            self._n_matched = 1
            self._at = at + self._skip
        if self._at >= n_known + (source is self._ids):
            self._n_matched = 0

    def _settle(self, token_id: int, n_known: int) -> None:
        """The token behind a change tells what it was."""
        key, changed_id, at = self._changed
        source = self._source
        for skip in (self._skip, *_SKIPS):
            if at + skip < n_known and source[at + skip] == token_id:
                is_next = skip == 2 and source[at + 1] == changed_id
                self._changes[key] = _NEXT if is_next else changed_id, skip
                self._skip, self._at, self._n_matched = skip, at + skip + 1, GRAM
                return
        self._n_matched = 0

    def _find(self, i: int) -> None:
        """Follows the place that agrees with the longest end of the text up to token `i`."""
        ids, ends = self._ids, self._ends
        place = ends[i]
        for _ in range(_MAX_TRIES):
            n_equal = _n_equal(ids, place, i)
            if n_equal > self._n_matched and (
                self._n_matched != 1 or self._chances[_class_of(n_equal)] > self._chances[0]
            ):
                self._source, self._at, self._n_matched = ids, place + 1, n_equal
            place = ends[place]
            if not place:
                break

    def _find_past(self, i: int) -> None:
        """Follows an answer of the past that has the last tokens up to token `i`."""
        found = self._past.find(self._root, tuple(self._ids[max(0, i + 1 - GRAM) : i + 1]))
        if found is not None:
            self._source, self._at = found
            self._n_matched = GRAM


def _n_equal(ids: list[int], a: int, b: int) -> int:
    """How many tokens up to `a` and up to `b` are equal; a pair is."""
    n = 2
    while n < _MAX_MATCH and n <= a and ids[a - n] == ids[b - n]:
        n += 1
    return n


def _class_of(n_matched: int) -> int:
    return min(n_matched.bit_length(), 5) - 1
