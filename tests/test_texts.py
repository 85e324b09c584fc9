"""What no file of the repository may say, whatever its language."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from documents import ROOT

# The roots of home and working folders: a path below one is a path of somebody's machine.
LOCAL_PATH = re.compile(r"(?<![\w.~<>*-])/(?:home|Users|root|work|workspace|opt|mnt|tmp)/[\w.]")


def tracked() -> list[Path]:
    """The files of the checkout that are text, as git lists them."""
    done = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


# `pyroclast` on PyPI is another project.
WRONG_INSTALL = re.compile(r"pyroclast\\?\[|\binstall\s+(?:-\S+\s+)*['\"]?pyroclast(?![\w-])")


def test_no_text_installs_somebody_elses_package() -> None:
    """From PyPI by the name `pyroclast`: texts say `.[gpu]` or `pyroclast-lm`."""
    found = [
        f"{path.relative_to(ROOT)}:{i}"
        for path in tracked()
        if path != Path(__file__).resolve()
        for i, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if WRONG_INSTALL.search(line)
    ]
    assert found == []


def test_texts_name_extras_that_there_are() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {
        extra
        for path in tracked()
        for extras in re.findall(r"pyroclast-lm\[([\w,-]+)\]", path.read_text(errors="replace"))
        for extra in extras.split(",")
    }
    assert {"gpu", "server"} <= named <= project["optional-dependencies"].keys()
    assert project["name"] == "pyroclast-lm"


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("pip install pyroclast[gpu]", True),
        ("pip install 'pyroclast'", True),
        ("pip install --user pyroclast", True),
        ("pip install pyroclast-lm[gpu]", False),
        ("pip install '.[gpu]'", False),
    ],
)
def test_the_search_knows_the_wrong_package(text: str, wrong: bool) -> None:
    assert bool(WRONG_INSTALL.search(text)) == wrong


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{i}"
        for path in tracked()
        for i, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if LOCAL_PATH.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("folder", ["home", "Users", "work", "opt"])
def test_the_search_finds_such_a_place(folder: str) -> None:
    assert LOCAL_PATH.search(f"see '/{folder}/somebody/model.gguf'")
    assert not LOCAL_PATH.search(f"https://example.org/{folder}/x and a/{folder}/b")
