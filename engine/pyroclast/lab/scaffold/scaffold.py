"""Writes the file of a new variant: the op's contract, and a first loop that is correct.

The file lies in the op's own folder of a checkout, or in a folder of the user's: --dir, or the
first of PYROCLAST_KERNEL_PATH.  pyroclast_kernels/own_variants.py finds it by its name; nothing
else needs an edit.  Where no first loop is written (`sample`, for one), the file names no format
and says what to write; the variant is listed as unavailable until then.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyroclast_kernels
from pyroclast.errors import KernelError
from pyroclast.lab.scaffold import first_cpp, first_cython, first_numba, first_triton
from pyroclast_kernels import own_variants
from pyroclast_kernels.registry import folder_of, get_op
from pyroclast_kernels.selection import all_variants

_NAME = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")
_FORMAT = "f32"  # what the first loops are written for
_LOOPS: dict[str, dict[str, Any]] = {
    "numba": first_numba.LOOPS,
    "cython": first_cython.LOOPS,
    "cpp": first_cpp.LOOPS,
    "triton": first_triton.LOOPS,
}
_WIDTH = 96
_MARKS = "@marks@\n"  # where OP and FORMATS go: below the imports of a Python file


def new_variant(op: str, name: str, technology: str, folder: str | None) -> dict[str, Any]:
    """Writes the file; {"path", "variant", "options", "note"}.  KernelError lists the ops and
    technologies there are, and refuses to touch a file or a variant that exists."""
    get_op(op)  # raises for an unknown one
    if technology not in own_variants.ENDINGS:
        known = ", ".join(own_variants.ENDINGS)
        raise KernelError(f"no technology {technology!r}; there are {known}")
    if not _NAME.fullmatch(name):
        raise KernelError(f"a name has small letters, digits and -, as in rows-4; got {name!r}")
    where, options = _folder(op, folder)
    path = where / own_variants.file_name(technology, name)
    variant = own_variants.variant_name(path)
    if variant in all_variants(op):
        raise KernelError(f"{op} has a variant {variant} already; choose another name")
    try:
        where.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(source(op, name, technology))
    except FileExistsError:
        raise KernelError(f"{path} exists already; choose another name, or remove it") from None
    except OSError as error:
        raise KernelError(f"{path} cannot be written: {error}") from error
    return {
        "path": str(path),
        "variant": variant,
        "options": options,
        "note": _note(op, technology),
    }


def _folder(op: str, folder: str | None) -> tuple[Path, str]:
    """(where the file goes, what `kernels check` must be told to find it)."""
    if folder is not None:
        return Path(folder).expanduser() / op, f" --dir {folder}"
    search_path = own_variants.search_path()
    if search_path:
        return search_path[0] / op, ""
    package = Path(pyroclast_kernels.__file__).parent
    if (package.parents[1] / "pyproject.toml").is_file():
        return package / folder_of(op), ""
    raise KernelError(
        f"where to?  Give --dir FOLDER, or set {own_variants.PATH_VARIABLE}: this installation is "
        "no checkout, and its own folders are replaced by the next install"
    )


def _note(op: str, technology: str) -> str:
    if op not in _LOOPS[technology]:
        return f"no first loop is known for {op} in {technology}: the file says what to write"
    if technology in ("cpp", "cython"):
        return "it is compiled for this CPU whenever it has changed; nothing needs a rebuild"
    return ""


def source(op: str, name: str, technology: str) -> str:
    """The text of the file."""
    comment = "// " if technology == "cpp" else "# "
    loops = _LOOPS[technology]
    formats = f'("{_FORMAT}",)' if op in loops else "()"
    head = [f"{comment}{op}: the variant {technology}-{name.replace('_', '-')}.", comment.rstrip()]
    head += [(comment + line).rstrip() for line in _contract(op)]
    if op not in loops:
        head += [comment.rstrip(), *(comment + line for line in _unfinished(op, technology))]
    python = technology in ("numba", "triton")
    marks = f'OP = "{op}"\nFORMATS = {formats}\n'
    if not python:
        marks = textwrap.indent(marks, comment)
    body = _BODIES[technology](op) if op in loops else "\n" * python + _MARKS
    return "\n".join(head) + "\n" + body.replace(_MARKS, marks)


def _contract(op: str) -> list[str]:
    """The docstring of the reference and its parameters, in lines."""
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


def _numba(op: str) -> str:
    quantizes, loop = first_numba.LOOPS[op]
    names = ", ".join(name.upper() for name in get_op(op).parameters)
    last = 8 * len(get_op(op).parameters)
    offsets = textwrap.indent(textwrap.fill(names + ",", _WIDTH - 4), "    ")
    helpers = first_numba.QUANTIZE if quantizes else ""
    # What a loop does not use is not imported.
    text = f"{helpers}\n\ndef {op}_{_FORMAT}(args, part, n_parts):\n{loop.strip(chr(10))}\n"
    imports = _used_imports(first_numba.IMPORTS, text)
    where = "# Byte offsets of the argument struct: one field of 8 bytes a parameter.\n"
    return f"\n{imports}\n{_MARKS}{where}(\n{offsets}\n) = range(0, {last}, 8)\n{text}"


def _used_imports(imports: str, text: str) -> str:
    """The lines of imports with only those names that the text has."""
    lines = []
    for line in imports.splitlines():
        begin, word, names = line.partition("import ")
        used = [n for n in names.split(", ") if re.search(rf"\b{n.rpartition(' ')[2]}\b", text)]
        if not word or used:
            lines.append(begin + word + ", ".join(used))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n") + "\n"


_BODIES: dict[str, Callable[[str], str]] = {
    "numba": _numba,
    "cython": lambda op: _MARKS + first_cython.body(op, _FORMAT),
    "cpp": lambda op: _MARKS + first_cpp.body(op, _FORMAT),
    "triton": lambda op: first_triton.body(op, _FORMAT, _MARKS),
}
