"""Writes the file of a new variant: the op's contract, and a first kernel that is correct.

The first kernels are real files, templates/<op>/<technology>_first.*: complete but for the line
"$contract", and for what several of them share (quantize_block.*), which is pasted in.  Where there
is no template (`sample`, for one), the file names no format and says what to write; the variant is
listed as unavailable until then.

The file goes into the op's own folder of a checkout, or into a folder of the user's: --dir, or the
first of PYROCLAST_KERNEL_PATH.  pyroclast_kernels/user_variants.py finds it by its name; nothing
else needs an edit.
"""

from __future__ import annotations

import inspect
import os
import re
import textwrap
from pathlib import Path
from typing import Any

import pyroclast_kernels
from pyroclast.errors import KernelError, reason_of
from pyroclast_kernels import user_variants
from pyroclast_kernels.registry import folder_of, get_op
from pyroclast_kernels.selection import all_variants
from pyroclast_kernels.whole_file import replacing

_NAME = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")
_TEMPLATES = Path(__file__).parent / "templates"
_CONTRACT = "$contract"  # the comment in a template that the op's contract replaces
# How a template of each technology asks for what templates share: (the statement, the file).
_SHARED = {
    "numba": (
        "from pyroclast.lab.scaffold.templates.quantize_block import quantize_block\n",
        "quantize_block.py",
    ),
    "cython": ('include "../quantize_block.pxi"\n', "quantize_block.pxi"),
    "cpp": ('#include "../quantize_block.h"\n', "quantize_block.h"),
}
_WIDTH = 96


def new_variant(op: str, name: str, technology: str, folder: str | None) -> dict[str, Any]:
    """Writes the file and returns {"path", "variant", "options", "note"}.  KernelError lists the
    known ops and technologies, and refuses to replace a file or a variant."""
    get_op(op)  # raises for an unknown one
    if technology not in user_variants.ENDINGS:
        known = ", ".join(user_variants.ENDINGS)
        raise KernelError(f"unknown technology {technology!r}; there are {known}")
    if not _NAME.fullmatch(name):
        raise KernelError(
            f"a name has lower-case letters, digits and hyphens, such as rows-4; got {name!r}"
        )
    where, options = _folder(op, folder)
    path = where / user_variants.file_name(technology, name)
    variant = user_variants.variant_name(path)
    if variant in all_variants(op):
        raise KernelError(f"{op} has a variant {variant} already; choose another name")
    try:
        where.mkdir(parents=True, exist_ok=True)
        if path.exists():
            raise KernelError(f"{path} exists already; choose another name, or remove it")
        with replacing(path) as file:
            file.write(source(op, name, technology).encode())
    except OSError as error:
        raise KernelError(f"{path} cannot be written: {reason_of(error)}") from error
    return {
        "path": str(path),
        "variant": variant,
        "options": options,
        "note": _note(op, technology),
    }


def _folder(op: str, folder: str | None) -> tuple[Path, str]:
    """(the folder for the file, the options with which `kernels check` finds it)."""
    if folder is not None:
        return Path(os.path.expanduser(folder)) / op, f" --dir {folder}"
    search_path = user_variants.search_path()
    if search_path:
        return search_path[0] / op, ""
    package = Path(pyroclast_kernels.__file__).parent
    if (package.parents[1] / "pyproject.toml").is_file():
        return package / folder_of(op), ""
    raise KernelError(
        f"give --dir FOLDER, or set {user_variants.PATH_VARIABLE}: this installation is not a "
        "checkout, and the next install replaces its folders"
    )


def _note(op: str, technology: str) -> str:
    if not template(op, technology).is_file():
        return f"there is no template for {op} in {technology}: the file says what to write"
    if technology in ("cpp", "cython"):
        return "it is compiled for this CPU whenever it changes; no rebuild is needed"
    return ""


def template(op: str, technology: str) -> Path:
    """Where the template of an op in a technology is, if there is one."""
    return _TEMPLATES / op / user_variants.file_name(technology, "first")


def source(op: str, name: str, technology: str) -> str:
    """The text of the file."""
    comment = "//" if technology == "cpp" else "#"
    path = template(op, technology)
    lines = [f"{op}: the variant {technology}-{name.replace('_', '-')}.", "", *_contract(op)]
    if path.is_file():
        text = _pasted(path.read_text(encoding="utf-8"), technology)
    else:
        lines += ["", *_unfinished(op, technology)]
        text = _empty(op, technology)
    head = "\n".join(f"{comment} {line}".rstrip() for line in lines)
    return text.replace(f"{comment} {_CONTRACT}", head, 1)


def _pasted(text: str, technology: str) -> str:
    """A template with what it shares in place, so that the file stands alone."""
    statement, name = _SHARED.get(technology, ("", ""))
    if not statement or statement not in text:
        return text
    shared = (_TEMPLATES / name).read_text(encoding="utf-8")
    if technology == "numba":  # the template has the imports already
        shared = shared[shared.index("@numba.njit") :]
    return text.replace(statement, shared, 1)


def _empty(op: str, technology: str) -> str:
    """What stands in for a template where there is none: a variant without formats."""
    if technology in ("numba", "triton"):
        return f'# {_CONTRACT}\n\nOP = "{op}"\nFORMATS = ()\n'
    comment = "//" if technology == "cpp" else "#"
    return f'{comment} {_CONTRACT}\n{comment} OP = "{op}"\n{comment} FORMATS = ()\n'


def _contract(op: str) -> list[str]:
    """The docstring of the reference and its parameters, as lines."""
    reference = get_op(op).reference
    text = inspect.cleandoc(reference.__doc__ or "").splitlines()
    parameters = ", ".join(get_op(op).parameters)
    return [*text, "", *textwrap.wrap(f"Parameters: {parameters}.", _WIDTH)]


def _unfinished(op: str, technology: str) -> list[str]:
    known = ", ".join(get_op(op).formats)
    where = f"pyroclast_kernels/{folder_of(op)}/reference.py"
    return textwrap.wrap(
        f"NOT WRITTEN YET.  Write {_entry(op, technology)}, for one or more of the formats "
        f"{known}, and name those in FORMATS below; {where} is the definition.  Until then the "
        "variant is listed as unavailable.",
        _WIDTH,
    )


def _entry(op: str, technology: str) -> str:
    return {
        "numba": f"{op}_<format>(args, part, n_parts)",
        "cython": f'kernels(), which returns {{"{op}.<format>": address}}',
        "cpp": f'extern "C" void {op}_<format>(const void *args, int part, int n_parts)',
        "triton": f"{op}_<format>(*the parameters above)",
    }[technology]
