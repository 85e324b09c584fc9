"""The extra [train]: what a recipe says without it, and that its settings load without it."""

from __future__ import annotations

import subprocess
import sys

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


@pytest.mark.usefixtures("child_paths")
def test_the_recipes_load_without_torch() -> None:
    code = (
        "import sys; from pyroclast.train import FinetuneSettings, finetune, pretrain; "
        "print([n for n in ('torch', 'transformers', 'peft', 'matplotlib') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
