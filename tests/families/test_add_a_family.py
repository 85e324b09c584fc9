"""docs/add-a-family.md, followed: its family, in both formats, against transformers."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest

import gguf_families
import tiny_families
from documents import ROOT, blocks
from pyroclast import LLM
from pyroclast.families.registry import FAMILIES

torch = pytest.importorskip("torch", reason="`make oracle-deps` installs torch")
pytest.importorskip("transformers", reason="`make oracle-deps` installs it")
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

PAGE = ROOT / "docs" / "add-a-family.md"


def test_the_family_on_the_page_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family_file, test_line = blocks(PAGE, "python")
    module = types.ModuleType("pyroclast.families.arcee")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(family_file, str(PAGE), "exec"), module.__dict__)
    monkeypatch.setitem(FAMILIES, "arcee", module.ARCEE)
    monkeypatch.setattr(tiny_families, "MODELS", dict(tiny_families.MODELS))
    monkeypatch.setattr(gguf_families, "PAIRED", (*gguf_families.PAIRED, "arcee"))
    exec(test_line, {"MODELS": tiny_families.MODELS})

    model = tiny_families.write_folder(tmp_path / "folder", "arcee")
    with torch.no_grad():
        want = model(torch.tensor([tiny_families.PROMPT])).logits[0].numpy()
    path = gguf_families.write_gguf(tmp_path / "arcee.gguf", tmp_path / "folder")
    for source in (tmp_path / "folder", path):
        with LLM(source, compute="float32") as llm:
            got = llm.logits(tiny_families.PROMPT)
        assert np.abs(got - want).max() < 1e-4 * np.abs(want).max()


def test_the_page_fits_on_a_page() -> None:
    assert len(PAGE.read_text().splitlines()) <= 120
