"""Reads result files as they were at another commit; git does nothing else for us.

The revision comes from a command line or a script.  It cannot be an option or a path, and no shell
sees it.  git first resolves it to the name of a commit, and only that name is used afterwards.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from pyroclast.errors import PyroclastError

_TIMEOUT_S = 60
# The characters of a revision that names a commit: no colon (that is a path), no blanks.
_REVISION = re.compile(r"[A-Za-z0-9_./@{}^~+][A-Za-z0-9_./@{}^~+-]{0,199}")


class RevisionError(PyroclastError):
    """The revision is not a commit, or its results cannot be read; the message says why."""


class Commit:
    """One commit of the repository that contains `folder`.  RevisionError says what is wrong."""

    def __init__(self, folder: Path, revision: str) -> None:
        if not _REVISION.fullmatch(revision):
            raise RevisionError(
                f"--against {revision!r} is not a revision; give a commit, a branch or a tag, "
                "such as HEAD~1 or main"
            )
        self._folder, self.revision = folder.resolve(), revision
        self._why = ""  # git's own message when it fails
        found = self._git("rev-parse", "--verify", "--end-of-options", f"{revision}^0")
        if found is None:
            raise RevisionError(
                f"--against {revision}: no such commit in the repository of {folder}: {self._why}"
            )
        self.name = found.decode().strip()

    def files(self) -> list[str]:
        """The names of the files in the folder at the commit."""
        # -z: names as they are, not quoted
        listed = self._git("ls-tree", "-z", "--full-tree", "--name-only", f"{self.name}:./") or b""
        return [name for name in listed.decode(errors="replace").split("\0") if name]

    def read(self, name: str) -> bytes:
        """The content of a file of the folder, without git's filters."""
        content = self._git("cat-file", "blob", f"{self.name}:./{name}")
        if content is None:
            raise RevisionError(f"--against {self.revision}: no {name}: {self._why}")
        return content

    def _git(self, *arguments: str) -> bytes | None:
        git = shutil.which("git")
        if git is None:
            raise RevisionError("--against needs git, which is not installed")
        env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        try:
            done = subprocess.run(
                [git, "-C", str(self._folder), *arguments],
                capture_output=True,
                check=False,
                timeout=_TIMEOUT_S,
                env={**env, "GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1"},
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RevisionError(f"--against {self.revision}: git failed: {error}") from error
        self._why = done.stderr.decode(errors="replace").strip()
        return done.stdout if done.returncode == 0 else None
