"""Models on the Hugging Face Hub: "hf:ORG/REPO/FILE.gguf", or "hf:ORG/REPO" for a whole model.

What is downloaded stays in the user's cache and is used from there: the Hub is asked once.  A
download that was interrupted continues where it ended.  The settings of huggingface-hub apply, such
as HF_ENDPOINT and HF_TOKEN.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from pyroclast.checkpoint.installed import HUB
from pyroclast.errors import ModelFileError, reason_of
from pyroclast.files.gguf_parts import first_part, part_paths
from pyroclast_kernels import cache_folder, whole_file

_WHOLE = ".whole.json"  # in a repository's folder: the files that make up its model
# Not consolidated.safetensors, which are the same weights once more; nor a hidden file, as ours is.
_FOLDER_FILES = re.compile(r"[^/.][^/]*\.(json|jinja)|model[^/]*\.safetensors")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def downloaded(model: str) -> Path:
    """The local file or folder of "hf:ORG/REPO" or "hf:ORG/REPO/FILE"; loads what is missing."""
    parts = model.removeprefix(HUB).split("/")
    named = len(parts) > 2
    if len(parts) < 2 or not all(map(_is_name, parts)) or (named and not model.endswith(".gguf")):
        raise ModelFileError(
            f"{model!r}: a model on the Hub is {HUB}ORG/REPO or {HUB}ORG/REPO/FILE.gguf"
        )
    repo, file = "/".join(parts[:2]), "/".join(parts[2:])
    folder = cache_folder.path_of("hub", *parts[:2])
    try:
        found = _found(folder, file)
        return _download(repo, file, folder) if found is None else found
    except cache_folder.CacheError as error:
        raise ModelFileError(f"{model}: {error}") from error


def _is_name(part: str) -> bool:
    """Whether it may be one step of a path below our folder; the first part of "/etc" may not."""
    safe = part not in ("", ".", "..") and "/" not in part and not part.startswith("-")
    return safe and part.isprintable()


def _is_path(name: str) -> bool:
    return all(map(_is_name, PurePosixPath(name).parts))


def _found(folder: Path, file: str) -> Path | None:
    """What an earlier call has downloaded, if it is all there."""
    if file:
        return folder / file if _has_parts(folder / file) else None
    if not cache_folder.usable(folder / _WHOLE):
        return None
    try:
        names = [str(name) for name in json.loads((folder / _WHOLE).read_bytes())]
    except (OSError, ValueError, TypeError):  # damaged: the Hub is asked again
        return None
    whole = names and all(_is_path(name) and cache_folder.usable(folder / name) for name in names)
    return _of(folder, names) if whole else None


def _has_parts(path: Path) -> bool:
    try:
        return all(map(cache_folder.usable, part_paths(path)))
    except ModelFileError:  # one is missing
        return False


def _of(folder: Path, names: Sequence[str]) -> Path:
    """The folder; or its GGUF file, the first where it has parts."""
    return folder / names[0] if names[0].endswith(".gguf") else folder


def _download(repo: str, file: str, folder: Path) -> Path:
    with _hub_errors(repo):
        hub = _Hub(repo)
        names = _with_parts(repo, file, hub.files) if file else _model_files(repo, hub.files)
        for name in names:
            _load(hub, name, folder / name)
    if file:
        return folder / file
    whole_file.write_text(folder / _WHOLE, json.dumps(names))
    return _of(folder, names)


def _with_parts(repo: str, file: str, files: Sequence[str]) -> list[str]:
    """A file of a repository, and the other parts of its model."""
    if file not in files:
        raise ModelFileError(f"{HUB}{repo} has no file {file!r}; it has: {', '.join(files)}")
    return [name for name in files if first_part(Path(name)) == first_part(Path(file))]


def _model_files(repo: str, files: Sequence[str]) -> list[str]:
    """Which of a repository's files make up its model."""
    if "config.json" in files and any(name.endswith(".safetensors") for name in files):
        return [name for name in files if _FOLDER_FILES.fullmatch(name)]
    models = sorted({str(first_part(Path(name))) for name in files if name.endswith(".gguf")})
    if len(models) != 1:
        raise ModelFileError(
            f"{HUB}{repo} has no config.json with *.safetensors, so it must have one GGUF file; "
            f"it has {', '.join(models) or 'none'}: name one, as {HUB}{repo}/FILE.gguf"
        )
    return sorted(_with_parts(repo, models[0], files))


class _Hub:
    """A repository as it is now: its commit, its files, and where they are."""

    def __init__(self, repo: str) -> None:
        import huggingface_hub  # late: it takes long, and few models come from there

        self._repo, self._hub = repo, huggingface_hub
        # Not the endpoint that the library read when it was imported.
        self._endpoint = os.environ.get("HF_ENDPOINT") or None
        info = huggingface_hub.HfApi(endpoint=self._endpoint).model_info(repo)
        self._commit = info.sha
        names = [sibling.rfilename for sibling in info.siblings or []]
        self.files = [name for name in names if _is_path(name)]

    def url(self, name: str) -> str:
        url: str = self._hub.hf_hub_url(
            self._repo, name, revision=self._commit, endpoint=self._endpoint
        )
        return url

    def metadata(self, name: str) -> tuple[str, int]:
        """Its etag and size."""
        found = self._hub.get_hf_file_metadata(self.url(name))
        if found.etag is None or found.size is None:
            raise OSError(f"the server names no ETag or no size of {name}")
        return found.etag, found.size

    def fetch(self, name: str, file: BinaryIO, n_bytes: int) -> None:
        """Append what a file lacks; a bar shows it at a terminal."""
        from huggingface_hub.file_download import http_get

        n_there = file.seek(0, os.SEEK_END)
        if n_there > n_bytes:  # damaged: no server continues there
            n_there = file.truncate(file.seek(0))
        http_get(
            self.url(name),
            file,
            resume_size=n_there,
            headers=self._hub.utils.build_hf_headers(),
            expected_size=n_bytes,
            displayed_filename=name,
        )


def _load(hub: _Hub, name: str, path: Path) -> None:
    """Download one file.  Until it is whole and checked it has another name, with its etag."""
    cache_folder.make(path.parent)
    if cache_folder.usable(path):
        return
    etag, n_bytes = hub.metadata(name)
    tag = hashlib.sha256(etag.encode()).hexdigest()[:12]
    part = path.with_name(f"{path.name}.{tag}.part")
    cache_folder.usable(part)  # else it is removed
    with _locked(part) as file:
        if path.exists():  # another process was faster
            part.unlink()
            return
        hub.fetch(name, file, n_bytes)
        file.flush()
        os.fsync(file.fileno())
        if _SHA256.fullmatch(etag) and _digest(part) != etag:
            part.unlink()
            raise ModelFileError(f"{name}: what came is not the file (SHA-256); try again")
        part.rename(path)


@contextmanager
def _locked(part: Path) -> Iterator[BinaryIO]:
    """The unfinished file, which one process at a time writes; the others wait."""
    with _opened(part) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if _is_at(file, part):
            yield file
            return
    # Whoever had the lock has renamed or removed the file that we waited for.
    with _locked(part) as file:
        yield file


def _opened(part: Path) -> BinaryIO:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(part, flags, 0o600), "rb+")


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.lstat())
    except FileNotFoundError:
        return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _hub_errors(repo: str) -> Iterator[None]:
    """What goes wrong on the way, as ModelFileError in one sentence."""
    try:
        from huggingface_hub import errors
    except ImportError as error:
        raise ModelFileError(
            f"{HUB}{repo} needs huggingface-hub ({error}): pip install 'pyroclast-lm[hub]'"
        ) from error
    try:
        yield
    except errors.GatedRepoError as error:
        raise ModelFileError(
            f"{HUB}{repo} is gated: accept its terms on its page, then set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelFileError(
            f"{HUB}{repo}: no such model on the Hub; a private one needs HF_TOKEN"
        ) from error
    except (OSError, errors.HTTPError, ValueError) as error:
        # ValueError: an answer that is not JSON, a name or a size that the library refuses.
        raise ModelFileError(
            f"{HUB}{repo} cannot be downloaded: {reason_of(error)}; the next try goes on where "
            "this one ended"
        ) from error
