"""Whether two tokenizers mean the same by each token id: then one model can draft for another."""

from __future__ import annotations

from pyroclast.errors import TokenizerError
from pyroclast.text.tokenizer import Tokenizer


def check_same_vocabulary(
    tokenizer: Tokenizer, name: str, other: Tokenizer, other_name: str
) -> None:
    """TokenizerError, with the first difference, unless every id that both have is the same token,
    special in both or in neither.  One may have more ids behind the last of the other: sizes that
    pad a matrix differ within a family."""
    n_both = min(tokenizer.vocab_size, other.vocab_size)
    special, other_special = tokenizer.special_token_ids, other.special_token_ids
    for token_id in range(n_both):
        # Uncached: every token of both is spelt just once.
        found, other_found = tokenizer._spell(token_id), other._spell(token_id)  # noqa: SLF001
        if found != other_found:
            difference = f"token {token_id} is {found!r:.60} in one and {other_found!r:.60}"
            break
        if (token_id in special) != (token_id in other_special):
            difference = f"token {token_id}, {found!r:.60}, is special in one and not"
            break
    else:
        return
    raise TokenizerError(
        f"{other_name} cannot draft for {name}: their vocabularies differ, {difference} in the "
        "other; a draft model comes from the same family, with the same tokenizer"
    )
