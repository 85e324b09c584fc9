"""Tensors that predict further tokens: layers behind the others, or a head of its own.

They propose drafts, which a step verifies, so leaving them out does not change what a model says.
They are left out unless somebody asks for the head (`families.draft_head` says what it is).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from pyroclast.checkpoint.parts import StoredTensor
from pyroclast.errors import ModelFileError, UnsupportedModelError
from pyroclast.families.draft_head import PRODUCTS, has_draft_heads
from pyroclast.families.family import Family
from pyroclast.families.hf_names import is_of_draft_head
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.families.registry import FAMILIES
from pyroclast_kernels.weights import formats


def with_draft_head(
    h: Hyperparameters, stored: Collection[str], *, is_wanted: bool = True
) -> Hyperparameters:
    """What a file says that has these tensors, so that its family makes a config with a head of
    it; unchanged where there is none.  UnsupportedModelError for several, and if it is_wanted for
    one of a family whose heads are not read."""
    if not has_draft_heads(FAMILIES[h.family]):
        if is_wanted and any(map(is_of_draft_head, stored)):
            raise UnsupportedModelError(
                f"heads of {h.family} files that predict further tokens are not supported; take "
                'speculation="suffix", or a draft model'
            )
        return h
    n_layers = h.extra.get("n_draft_layers", 0)
    # Files that were cut to the text model may keep the key.
    in_file = n_layers and any(name.startswith(f"blk.{h.n_layers}.") for name in stored)
    if not in_file and not any(map(is_of_draft_head, stored)):
        return h
    if n_layers > 1:
        raise UnsupportedModelError(
            f"the file has {n_layers} layers that predict further tokens; supported: a single one; "
            'take speculation="suffix", or a draft model'
        )
    return replace(h, extra={**h.extra, "draft_head": True})


def without_drafting(
    stored: dict[str, StoredTensor], h: Hyperparameters
) -> dict[str, StoredTensor]:
    """Of a GGUF file: the tensors of all other layers, and of the head that is wanted."""
    if h.flag("draft_head", False):
        return folded(stored, FAMILIES[h.family])
    n_drafting = h.extra.get("n_draft_layers", 0)
    layers = tuple(f"blk.{i}." for i in range(h.n_layers, h.n_layers + n_drafting))
    found = {name: each for name, each in stored.items() if not name.startswith(layers)}
    _tell(len(stored) - len(found))
    return found


def tell_drafting(names: Collection[str]) -> None:
    """Of a folder, whose table of names passes such tensors over."""
    _tell(sum(map(is_of_draft_head, names)))


def folded(stored: dict[str, StoredTensor], family: Family) -> dict[str, StoredTensor]:
    """With the head's two products, which a file has side by side as one matrix, as rows that take
    turns: the first half of a row is one, the second half the other."""
    fused = [*family.gguf_fused.items(), *family.hf_fused.items()]
    suffixes = tuple(key.partition("{i}")[2] for key, weights in fused if weights == PRODUCTS)
    return {
        name: _folded(each)
        if suffixes and name.endswith(suffixes) and len(each.shape) == 2
        else each
        for name, each in stored.items()
    }


def _folded(tensor: StoredTensor) -> StoredTensor:
    n_rows, n_cols = tensor.shape
    if n_cols % 2:
        raise ModelFileError(f"tensor {tensor.name!r} must have an even width, got {n_cols}")
    block = 1 if tensor.format is None else formats.FORMATS[tensor.format].block_columns
    if (n_cols // 2) % block:
        raise UnsupportedModelError(
            f"tensor {tensor.name!r} in {tensor.type_name} has blocks of {block} columns, which "
            f"its halves of {n_cols // 2} columns would cut; store it in another type, as F16"
        )
    return replace(tensor, shape=(2 * n_rows, n_cols // 2))


def _tell(n_left_out: int) -> None:
    if n_left_out:
        import logging  # late: most files have none

        logging.getLogger("pyroclast").info(
            "%d tensors that predict further tokens are left out: nobody asked for drafts of them",
            n_left_out,
        )
