"""The tensors of a Hugging Face folder under the names of its family's table, and which matrix is
the output head."""

from __future__ import annotations

import math
import warnings
from collections.abc import MutableMapping
from dataclasses import replace

from pyroclast.checkpoint.drafting import folded, tell_drafting
from pyroclast.checkpoint.match import StoredTensor
from pyroclast.errors import ModelFileError
from pyroclast.families.family import Family
from pyroclast.families.hf_names import table_names
from pyroclast.families.hyperparameters import Hyperparameters
from pyroclast.files.hf_folder import HFFolder
from pyroclast_kernels.weights import formats

_CHUNK_ROWS = 1024
_BLOCKS, _SCALES, _BLOCK = "_blocks", "_scales", 32  # of MXFP4 in gpt-oss's folders


def folder_tensors(folder: HFFolder, family: Family, h: Hyperparameters) -> dict[str, StoredTensor]:
    """Every tensor of the text model by its name in family.hf_tensors, with those of a head that
    predicts further tokens where h has one."""
    stored = {
        info.name: StoredTensor(
            info.name, info.shape, info.dtype, info.format, file.file, info.offset
        )
        for file in folder.files
        for info in file.tensors.values()
    }
    if "mxfp4" in family.hf_quantizations:
        _join_mxfp4(stored)
    has_head = h.flag("draft_head", False)
    if not has_head:
        tell_drafting(stored)
    names = table_names(family, stored, h.n_layers if has_head else None)
    found = {table: stored[name] for name, table in names.items()}
    if len(found) < len(names):
        twice = next(n for n, table in names.items() if found[table].name != stored[n].name)
        raise ModelFileError(f"tensor {twice!r} is there twice, under another name as well")
    return folded(squeezed(found, family), family)


def squeezed(stored: dict[str, StoredTensor], family: Family) -> dict[str, StoredTensor]:
    """With the filters of convolutions as (n_channels, width); torch puts a 1 between."""
    if (template := family.hf_tensors.get("layers.{i}.conv")) is None:
        return stored
    suffix = template.partition("{i}")[2]
    return {
        name: replace(each, shape=(each.shape[0], each.shape[2]))
        if name.endswith(suffix) and len(each.shape) == 3 and each.shape[1] == 1
        else each
        for name, each in stored.items()
    }


def _join_mxfp4(stored: MutableMapping[str, StoredTensor]) -> None:
    """Puts the weight `name` in the place of `name_blocks` and `name_scales`."""
    for key in [key for key in stored if key.endswith(_BLOCKS)]:
        name = key.removesuffix(_BLOCKS)
        blocks, scales = stored[key], stored.get(name + _SCALES)
        if scales is None:
            raise ModelFileError(f"tensor {name + _SCALES!r} is missing beside {key!r}")
        for each, shape in ((blocks, (*scales.shape, _BLOCK // 2)), (scales, blocks.shape[:-1])):
            if (each.type_name, each.shape) != ("U8", shape):
                raise ModelFileError(
                    f"tensor {each.name!r} of an MXFP4 weight must be U8 of shape {shape}, got "
                    f"{each.type_name} of {each.shape}"
                )
        if len(scales.shape) < 2:
            raise ModelFileError(f"tensor {scales.name!r} has shape {scales.shape}: it is no stack")
        shape = (*scales.shape[:-1], scales.shape[-1] * _BLOCK)
        stored[name] = replace(
            blocks, shape=shape, type_name="MXFP4", format="mxfp4", scales=scales
        )
        del stored[key], stored[name + _SCALES]


def settle_head(
    h: Hyperparameters, family: Family, stored: MutableMapping[str, StoredTensor]
) -> Hyperparameters:
    """What the file says, with tie_embeddings as its tensors are; a head that repeats the
    embedding is taken out of `stored`, and a head alone stands for both."""
    head, embedding = family.hf_tensors["output"], family.hf_tensors["token_embd"]
    if not h.tie_embeddings or head not in stored:
        return h
    if embedding not in stored:
        stored[embedding] = stored.pop(head)
    elif _equal(stored[head], stored[embedding]):
        del stored[head]
    else:
        warnings.warn(
            f"{h.family}: tie_word_embeddings is true, but {stored[head].name!r} is stored and "
            f"differs from {stored[embedding].name!r}: it is used as the output head",
            RuntimeWarning,
            stacklevel=2,
        )
        return replace(h, tie_embeddings=False)
    return h


def _equal(a: StoredTensor, b: StoredTensor) -> bool:
    """Whether two tensors have the same bytes, read in chunks."""
    if (a.shape, a.type_name) != (b.shape, b.type_name) or a.format is None:
        return False
    n_bytes = formats.row_bytes(a.shape[-1], a.format) if a.shape else 0
    total = n_bytes * math.prod(a.shape[:-1])
    if max(a.offset + total - a.file.size, b.offset + total - b.file.size) > 0:
        return True  # cut short, which only those who read no weights allow
    for start in range(0, total, max(n_bytes, 1) * _CHUNK_ROWS):
        size = min(n_bytes * _CHUNK_ROWS, total - start)
        parts = (
            each.file.read(each.offset + start, size, f"tensor {each.name!r}") for each in (a, b)
        )
        if next(parts) != next(parts):
            return False
    return True
