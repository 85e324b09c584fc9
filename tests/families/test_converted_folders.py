"""Files that Pyroclast converts from folders of every family: the folder's logits, and llama.cpp's
where it is at hand; what GGUF cannot say is refused.

PYROCLAST_LLAMA_PYTHON names a Python that has llama-cpp-python."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import tiny_families
from pyroclast import LLM
from pyroclast.checkpoint.convert.run import convert
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.errors import UnsupportedModelError
from pyroclast.model.supported import check_supported
from pyroclast.model.write_packed import write_packed
from tiny_families import GGUF_MODELS, MODELS, PROMPT

pytest.importorskip("torch", reason="`make oracle-deps` installs torch")
pytest.importorskip("transformers", reason="`make oracle-deps` installs it")
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

PEER = Path(__file__).parents[1] / "peers" / "llama_logits.py"
# llama.cpp takes GELU from a table in float16.
LLAMA_TOLERANCE = {True: 1e-3, False: 1e-4}
HAS_GELU = ("gemma", "gpt2", "starcoder2")
# What no key of the architecture says, and what is read in its place.
REFUSED = {
    "llama-gelu": "activation is 'gelu'",
    "llama-yarn-explicit": "rope is ",
    "qwen3-windows": "window is 50",
    "qwen3-moe-mixed": "window is 50",
    "gpt-oss-limit": "rope is ",
    "smollm3-windows": "rope is None",
    "gemma2-scale": "scale is ",
    "gemma2-no-softcap": "softcap is None",
    "gpt2-scales": "scale is ",
    "gemma3n-options": "laurel_rank is 40",
}
# llama.cpp refuses files without the keys and values that nothing reads; `convert` says so.
LLAMA_REFUSES = ("gemma3n",)
# Families whose files are only read.
NOT_WRITTEN = {
    "lfm2": "lfm2",
    "lfm2-moe": "lfm2_moe",
    "qwen3_5": "qwen3_5",
    "granite4-hybrid": "granitehybrid",
    "granite4-hybrid-moe": "granitehybrid",
    "nemotron-h": "nemotron_h",
    "nemotron-h-moe": "nemotron_h_moe",
    "nemotron-h-moe-mixed": "nemotron_h_moe",
}


def logits_of(path: Path) -> np.ndarray:
    with open_checkpoint(path) as checkpoint:
        try:
            check_supported(checkpoint.config)
        except UnsupportedModelError as error:
            pytest.skip(str(error))
    with LLM(path, compute="float32") as llm:
        return np.array(llm.logits(PROMPT))


def distance(got: np.ndarray, want: np.ndarray) -> float:
    """The largest difference over the largest logit."""
    return float(np.abs(got - want).max() / np.abs(want).max())


@pytest.mark.parametrize("name", [n for n in MODELS if n not in (*REFUSED, *NOT_WRITTEN)])
def test_the_file_has_the_folder_s_logits(tmp_path: Path, name: str) -> None:
    tiny_families.write_folder(tmp_path / "folder", name)
    convert(str(tmp_path / "folder"), str(tmp_path / "m.gguf"), "f32")
    got = logits_of(tmp_path / "m.gguf")
    # Adding Gemma's 1 to a norm's weights rounds, here or when the folder is loaded.
    assert distance(got, logits_of(tmp_path / "folder")) < 1e-5
    python = os.environ.get("PYROCLAST_LLAMA_PYTHON")
    if not python or name not in GGUF_MODELS or name in LLAMA_REFUSES:
        return
    (tmp_path / "ids.json").write_text(json.dumps(PROMPT))
    paths = [tmp_path / each for each in ("m.gguf", "ids.json", "logits.npy")]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([python, str(PEER), *map(str, paths)], env=environment, check=True)
    tolerance = LLAMA_TOLERANCE[name.startswith(HAS_GELU)]
    # Whose attention scores magnify that: see test_fidelity_table.py.
    tolerance = 2e-2 if name.startswith("gemma4") else tolerance
    assert distance(got, np.load(paths[-1])) < tolerance


@pytest.mark.parametrize("name", REFUSED)
def test_what_gguf_has_no_key_for_is_refused(tmp_path: Path, name: str) -> None:
    tiny_families.write_folder(tmp_path / "folder", name)
    with pytest.raises(UnsupportedModelError, match="no way to say that") as refused:
        convert(str(tmp_path / "folder"), str(tmp_path / "m.gguf"), "f32")
    assert REFUSED[name] in str(refused.value)
    assert not (tmp_path / "m.gguf").exists()


@pytest.mark.parametrize("name", ["lfm2", "granite4-hybrid", "nemotron-h-moe"])
def test_recurrent_families_are_not_written(tmp_path: Path, name: str) -> None:
    family = NOT_WRITTEN[name]
    tiny_families.write_folder(tmp_path / "folder", name)
    with pytest.raises(
        UnsupportedModelError, match=f"{family}.*load the folder itself, as FOLDER@"
    ):
        convert(str(tmp_path / "folder"), str(tmp_path / "m.gguf"), "f32")
    with pytest.raises(UnsupportedModelError, match=f"{family}.* as GGUF or packed files"):
        write_packed(str(tmp_path / "folder"), str(tmp_path / "m.pyro"))
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]
