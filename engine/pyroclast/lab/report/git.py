"""Result files as they were at another commit: `git show REV:path`, and nothing else of git's.

REV comes from a command line or a script.  It is no option, names no path, and never meets a shell:
git turns it into the name of a commit first, and only that name is used further.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from pyroclast.errors import PyroclastError

_TIMEOUT_S = 60
# What git lets a revision consist of, as far as it names a commit: no colon (a path), no blanks.
_REVISION = re.compile(r"[A-Za-z0-9_./@{}^~+][A-Za-z0-9_./@{}^~+-]{0,199}")


class RevisionError(PyroclastError):
    """REV names no commit, or results at REV cannot be read; the message says why."""


class Commit:
    """One commit of the repository that `folder` lies in.  RevisionError says what is wrong."""

    def __init__(self, folder: Path, revision: str) -> None:
        if not _REVISION.fullmatch(revision):
            raise RevisionError(
                f"--against {revision!r} is no revision; give a commit, a branch or a tag, "
                "such as HEAD~1 or main"
            )
        self._folder, self.revision = folder.resolve(), revision
        self._why = ""  # git's own words about what it could not do
        found = self._git("rev-parse", "--verify", "--end-of-options", f"{revision}^0")
        if found is None:
            raise RevisionError(
                f"--against {revision}: no such commit of the repository that has {folder}: "
                f"{self._why}"
            )
        self.name = found.decode().strip()

    def files(self) -> list[str]:
        """The names of the files that the folder had."""
        # -z: names as they are, not quoted
        listed = self._git("ls-tree", "-z", "--full-tree", "--name-only", f"{self.name}:./") or b""
        return [name for name in listed.decode(errors="replace").split("\0") if name]

    def read(self, name: str) -> bytes:
        """The content of a file of the folder.  `cat-file`: as `show`, without filters."""
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
