"""Files that Pyroclast converts from folders of every family: the folder's logits, and llama.cpp's
where it is at hand; what GGUF cannot say is refused.

PYROCLAST_LLAMA_PYTHON names a Python that has llama-cpp-python."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import gguf
import numpy as np
import pytest

import draft_heads
import tiny_families
from family_folders import FamilyFolders
from gguf_families import write_gguf
from pyroclast import LLM
from pyroclast.checkpoint.convert.run import convert
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.errors import ModelFileError, UnsupportedModelError
from pyroclast.model.supported import check_supported
from tiny_families import PROMPT
from tiny_family_configs import GGUF_MODELS, MODELS

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
    "nemotron-h-moe-mixed": "feed_forward_length must be the same",
}
# Keys of the converter's that say nothing, and those that it sets to what the folder does not say.
OTHER_KEYS = (
    ("gpt-oss", "feed_forward_length"),
    ("phi3", "attention.sliding_window"),  # 0
    ("olmo2", "rope.freq_base_swa"),
    *((each, "context_length") for each in ("granitehybrid", "nemotron_h", "nemotron_h_moe")),
)
# Whose logits have other last bits: keys of GGUF files are float32, and value heads in another
# order are summed up in another order.
OTHER_BITS = ("ministral3", "mistral3-nested", "gpt-oss", "phi3-long", "qwen3_5")


def check_like_the_converter_s(path: Path, folder: Path) -> None:
    """Every tensor and key of the file that `gguf_families` writes of the folder."""
    wanted = gguf.GGUFReader(write_gguf(path.with_name("theirs.gguf"), folder))
    found = gguf.GGUFReader(path)
    ours = {tensor.name: tensor.data for tensor in found.tensors}
    for tensor in wanted.tensors:
        name, values = tensor.name, tensor.data
        if "gate_up_exps" in name:  # we write both halves, which llama.cpp reads as well
            halves = [ours.pop(name.replace("gate_up", each)) for each in ("gate", "up")]
            assert np.concatenate(halves, axis=1).tobytes() == values.tobytes(), name
        else:
            assert ours.pop(name).tobytes() == values.tobytes(), name
    assert not ours
    for key, field in wanted.fields.items():
        architecture, _, rest = key.partition(".")
        if architecture in ("GGUF", "tokenizer", "general") or (architecture, rest) in OTHER_KEYS:
            continue
        value, want = found.fields[key].contents(), field.contents()
        same = isinstance(value, list) and not isinstance(want, list)
        assert (set(value) == {want}) if same else (value == want), key


def logits_of(path: Path, n_tokens: int = len(PROMPT)) -> np.ndarray:
    with open_checkpoint(path) as checkpoint:
        try:
            check_supported(checkpoint.config)
        except UnsupportedModelError as error:
            pytest.skip(str(error))
    with LLM(path, compute="float32") as llm:
        return np.array(llm.logits(PROMPT[:n_tokens]))


def distance(got: np.ndarray, want: np.ndarray) -> float:
    """The largest difference over the largest logit."""
    return float(np.abs(got - want).max() / np.abs(want).max())


@pytest.mark.parametrize("name", [n for n in MODELS if n not in REFUSED])
def test_the_file_has_the_folder_s_logits(
    tmp_path: Path, family_folders: FamilyFolders, name: str
) -> None:
    folder = family_folders(name)
    convert(str(folder), str(tmp_path / "m.gguf"), "f32")
    got, want = logits_of(tmp_path / "m.gguf"), logits_of(folder)
    if name.startswith(OTHER_BITS):
        assert distance(got, want) < 1e-5
    else:
        assert got.tobytes() == want.tobytes()
    if name in GGUF_MODELS:
        check_like_the_converter_s(tmp_path / "m.gguf", folder)
    python = os.environ.get("PYROCLAST_LLAMA_PYTHON")
    if not python or name not in GGUF_MODELS:
        return
    (tmp_path / "ids.json").write_text(json.dumps(PROMPT))
    paths = [tmp_path / each for each in ("m.gguf", "ids.json", "logits.npy")]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([python, str(PEER), *map(str, paths)], env=environment, check=True)
    tolerance = LLAMA_TOLERANCE[name.startswith(HAS_GELU)]
    # Whose attention scores magnify that: see test_fidelity_table.py.
    tolerance = 2e-2 if name.startswith(("gemma3n", "gemma4")) else tolerance
    assert distance(got, np.load(paths[-1])) < tolerance


@pytest.mark.parametrize("name", REFUSED)
def test_what_gguf_has_no_key_for_is_refused(
    tmp_path: Path, family_folders: FamilyFolders, name: str
) -> None:
    with pytest.raises(UnsupportedModelError, match="no way to say") as refused:
        convert(str(family_folders(name)), str(tmp_path / "m.gguf"), "f32")
    assert REFUSED[name] in str(refused.value)
    assert not (tmp_path / "m.gguf").exists()


def test_heads_in_the_same_order_give_the_same_bits(tmp_path: Path) -> None:
    """Qwen3.5 with as many heads of keys as of values, and with one head of keys."""
    for n_k_heads, n_v_heads in ((2, 2), (1, 3)):
        folder = tmp_path / f"{n_k_heads}"
        sizes = {"linear_num_key_heads": n_k_heads, "linear_num_value_heads": n_v_heads}
        tiny_families.write_folder(folder, "qwen3_5", **sizes)
        convert(str(folder), str(tmp_path / "m.gguf"), "f32")
        assert logits_of(tmp_path / "m.gguf").tobytes() == logits_of(folder).tobytes()


def test_a_head_that_predicts_further_tokens_comes_along(tmp_path: Path) -> None:
    tensors = draft_heads.random_tensors()
    folder, path = draft_heads.write_folder(tmp_path / "folder", tensors), tmp_path / "m.gguf"
    convert(str(folder), str(path), "f32")
    check_like_the_converter_s(path, folder)
    with (
        open_checkpoint(folder, draft_head=True) as wanted,
        open_checkpoint(path, draft_head=True) as found,
    ):
        assert found.config.draft_layer is not None
        assert set(found.tensors) == set(wanted.tensors)
        for weight in ("w_draft_embd", "w_draft_hidden", "wq", "w_q_gate"):
            name = f"layers.{draft_heads.N_LAYERS}.{weight}"
            assert np.array_equal(found.tensors[name].float32(), wanted.tensors[name].float32())
    assert logits_of(path, 100).tobytes() == logits_of(folder, 100).tobytes()


def types_of(path: Path) -> dict[str, str]:
    """The format of each tensor."""
    reader = gguf.GGUFReader(path)
    return {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}


# No products: routers, filters, decays, steps and norms.
SMALL = ("ffn_gate_inp", "conv", "conv1d", "norm", "ssm_a", "ssm_d", "exp_probs_b", "ssm_dt")


@pytest.mark.parametrize("name", ["qwen3_5", "lfm2-moe", "granite4-hybrid-moe", "nemotron-h-moe"])
def test_products_are_quantized_and_what_is_small_is_not(
    tmp_path: Path, family_folders: FamilyFolders, name: str
) -> None:
    """Of recurrent layers and experts; from the folder as from a GGUF file of it."""
    folder = family_folders(name)
    write_gguf(tmp_path / "theirs.gguf", folder)
    for to, usual in (("q8_0", "Q8_0"), ("q4_k_m", "Q5_0")):  # rows too narrow for Q4_K
        convert(str(folder), str(tmp_path / "m.gguf"), to)
        convert(str(tmp_path / "theirs.gguf"), str(tmp_path / "again.gguf"), to)
        found, again = (gguf.GGUFReader(tmp_path / f"{each}.gguf") for each in ("m", "again"))
        others = {tensor.name: tensor.data.tobytes() for tensor in again.tensors}
        assert {tensor.name: tensor.data.tobytes() for tensor in found.tensors} == others
        types = types_of(tmp_path / "m.gguf")
        kept = {n for n in types if re.sub(r"\.(weight|bias)$", "", n).endswith(SMALL)}
        assert {types[each] for each in kept} == {"F32"}
        products = {each: types[each] for each in types if each not in kept}
        assert set(products.values()) <= {usual, "Q8_0", "F16"}
        narrow = [each for each in products if products[each] == "F16"]
        assert all(name == "granite4-hybrid-moe" and "down_exps" in each for each in narrow)
        assert usual in {
            each for name, each in products.items() if "_exps" in name or "ssm_" in name
        }
    assert np.isfinite(logits_of(tmp_path / "m.gguf", 50)).all()


def test_mixes_count_the_tensors_that_there_are(tmp_path: Path) -> None:
    """As llama.cpp's quantizer does: of 12 layers every third has values, every fourth a
    feed-forward."""
    kinds = ["linear_attention", "full_attention", "linear_attention", "mlp"] * 4
    kinds[2] = "full_attention"
    tiny_families.write_folder(tmp_path / "folder", "nemotron-h", layers_block_type=kinds)
    convert(str(tmp_path / "folder"), str(tmp_path / "m.gguf"), "q4_k_m")
    types = types_of(tmp_path / "m.gguf")
    values = [types[f"blk.{i}.attn_v.weight"] for i in (1, 2, 5, 9, 13)]
    assert values == ["Q5_0", "Q5_0", "Q8_0", "Q5_0", "Q8_0"]
    last = [types[f"blk.{i}.ffn_down.weight"] for i in (3, 7, 11, 15)]
    assert last == ["Q8_0", "Q8_0", "Q5_0", "Q5_0"]


def test_how_many_rotary_pairs_turn_by_what(tmp_path: Path) -> None:
    """Which llama.cpp wants to know of Qwen3.5, and no text tells."""
    for given, want in ((None, [11, 11, 10, 0]), ([2, 1, 1], [2, 1, 1, 0]), ([1, "2"], None)):
        rope = draft_heads.CONFIG["rope_parameters"] | {"mrope_section": given}
        folder = tmp_path / str(given)
        draft_heads.write_folder(folder, draft_heads.random_tensors(), rope_parameters=rope)
        if want is None:
            with pytest.raises(ModelFileError, match="mrope_section must be a list"):
                convert(str(folder), str(tmp_path / "m.gguf"), "f32")
            continue
        convert(str(folder), str(tmp_path / "m.gguf"), "f32")
        fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
        assert fields["qwen35.rope.dimension_sections"].contents() == want
