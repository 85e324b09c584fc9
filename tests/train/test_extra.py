"""The extra [train]: what a recipe says without it, and that its settings load without it."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from pyroclast import train
from pyroclast.errors import TrainingError
from pyroclast.train.extra import needed


def test_what_is_not_installed_is_named() -> None:
    assert needed("json.decoder").__name__ == "json.decoder"
    with pytest.raises(TrainingError, match=r"training needs no_such_package, .*\[train\]"):
        needed("no_such_package.part")


def test_every_public_name_is_there() -> None:
    assert set(train.__all__) == set(train._HOME_OF)
    for name in train.__all__:
        assert getattr(train, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'pretrian'"):
        _ = train.pretrian


@pytest.mark.skipif("CI" not in os.environ, reason="contributors may do without")
def test_ci_does_not_skip_the_trainers() -> None:
    assert find_spec("trl") and find_spec("datasets"), "`make oracle-deps` installs them"


@pytest.mark.usefixtures("child_paths")
def test_the_recipes_load_without_torch() -> None:
    code = (
        "import sys; from pyroclast.train import FinetuneSettings, finetune, pretrain; "
        "print([n for n in ('torch', 'transformers', 'peft', 'matplotlib') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
