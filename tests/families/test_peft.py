"""Adapters that peft wrote, against peft in float32: logits in both file formats, greedy text."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguf_families
import tiny_families
from lora_files import gguf_of_peft
from pyroclast import LLM, SamplingParams
from pyroclast.errors import UnsupportedModelError
from tiny_families import PROMPT

torch = pytest.importorskip("torch", reason="`make oracle-deps` installs torch")
peft = pytest.importorskip("peft", reason="`make oracle-deps` installs it")
pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore"),  # torch's, peft's and transformers' own
]
PEER = Path(__file__).parents[1] / "peers" / "llama_logits.py"
TOLERANCE = 2e-4
TOKENS = PROMPT[:120]
GREEDY = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True)

# name -> what LoraConfig gets beside r and lora_alpha
OPTIONS: dict[str, dict[str, Any]] = {
    "all": {"target_modules": "all-linear"},
    "some": {"target_modules": ["q_proj", "v_proj"], "lora_alpha": 9},
    "rslora": {"target_modules": "all-linear", "use_rslora": True},
    "layers": {"target_modules": ["o_proj", "up_proj"], "layers_to_transform": [1, 3]},
    "patterns": {
        "target_modules": "all-linear",
        "rank_pattern": {"q_proj": 7, "layers.1.mlp.down_proj": 2},
        "alpha_pattern": {"mlp.up_proj": 1, "^model.layers.0.self_attn.o_proj": 30},
    },
}
MODELS = [
    *(("llama-biases", name) for name in OPTIONS),
    ("gemma3", "all"), ("gemma3", "patterns"), ("qwen3", "all"), ("phi3", "all"), ("gpt2", "all"),
    ("granite", "all"), ("gemma3-nested", "layers"), ("starcoder2", "all"), ("olmo2", "some"),
    ("qwen3-moe", "some"), ("lfm2", "some"),
]  # fmt: skip


def adapted(folder: Path, name: str, options: str) -> Any:
    """Writes the folder of the model and that of a random adapter; the model with it."""
    model = tiny_families.write_folder(folder / "model", name)
    given = OPTIONS[options]
    if name == "gpt2":
        given = {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}
    if name.endswith("-nested"):
        given = given | {"exclude_modules": ["vision_tower"]}
    config = peft.LoraConfig(
        **{"r": 4, "lora_alpha": 6, "init_lora_weights": False, "task_type": "CAUSAL_LM"} | given
    )
    torch.manual_seed(0)
    model = peft.get_peft_model(model, config).eval()
    model.save_pretrained(folder / "adapter")
    return model


def want_of(model: Any) -> tuple[np.ndarray, list[int]]:
    prompt = torch.tensor([TOKENS])
    with torch.no_grad():
        logits = model(input_ids=prompt).logits[0].numpy()
        answer = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=GREEDY.max_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )[0, len(TOKENS) :]
    return logits, answer.tolist()


def check(llm: LLM, want: np.ndarray, answer: list[int]) -> None:
    got, base = llm.logits(TOKENS, adapter="a"), llm.logits(TOKENS)
    assert np.abs(base - want).max() > 100 * TOLERANCE
    assert np.abs(got - want).max() < TOLERANCE
    [completion] = llm.generate([TOKENS], GREEDY, adapter="a")
    assert completion.token_ids == answer


@pytest.mark.parametrize(("name", "options"), MODELS)
def test_a_folder_equals_peft(tmp_path: Path, name: str, options: str) -> None:
    want, answer = want_of(adapted(tmp_path, name, options))
    adapters = {"a": tmp_path / "adapter"}
    with LLM(tmp_path / "model", compute="float32", adapters=adapters) as llm:
        check(llm, want, answer)


def test_a_router_of_experts_is_refused(tmp_path: Path) -> None:
    """So are the experts; the products of attention are not, see MODELS."""
    adapted(tmp_path, "qwen3-moe", "some")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        path = tmp_path / "adapter" / name
        content = path.read_bytes()
        path.write_bytes(content.replace(b"self_attn.v_proj", b"mlp.router.v_pro"))
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    changed = config | {"target_modules": ["q_proj", "v_pro"]}
    (tmp_path / "adapter/adapter_config.json").write_text(json.dumps(changed))
    with pytest.raises(UnsupportedModelError, match=r"router.*can be changed: k_proj, o_proj, q"):
        LLM(tmp_path / "model", adapters={"a": tmp_path / "adapter"})


@pytest.mark.parametrize("name", ["llama-biases", "gemma3", "qwen3", "phi3"])
def test_gguf_files_equal_peft(tmp_path: Path, name: str) -> None:
    """The model and the adapter as llama.cpp's converters write them; the files mix, too."""
    want, answer = want_of(adapted(tmp_path, name, "all"))
    model = gguf_families.write_gguf(tmp_path / "model.gguf", tmp_path / "model")
    adapter = gguf_of_peft(tmp_path / "adapter.gguf", tmp_path / "model", tmp_path / "adapter")
    folders = tmp_path / "model", tmp_path / "adapter"
    for base, path in ((model, adapter), (folders[0], adapter), (model, folders[1])):
        with LLM(base, compute="float32", adapters={"a": path}) as llm:
            check(llm, want, answer)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama-biases", "gemma3", "qwen3", "phi3", "granite"])
def test_llama_cpp_agrees(tmp_path: Path, name: str) -> None:
    """PYROCLAST_LLAMA_PYTHON names a Python that has llama-cpp-python."""
    python = os.environ.get("PYROCLAST_LLAMA_PYTHON")
    if not python:
        pytest.skip("PYROCLAST_LLAMA_PYTHON names no Python")
    adapted(tmp_path, name, "all")
    model = gguf_families.write_gguf(tmp_path / "model.gguf", tmp_path / "model")
    adapter = gguf_of_peft(tmp_path / "adapter.gguf", tmp_path / "model", tmp_path / "adapter")
    with LLM(model, compute="float32", adapters={"a": adapter}) as llm:
        got = llm.logits(TOKENS, adapter="a")
    ids, out = tmp_path / "ids.json", tmp_path / "logits.npy"
    ids.write_text(json.dumps(TOKENS))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [python, PEER, model, ids, out, adapter]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    # llama.cpp looks GELU up in a table of float16.
    tolerance = 1e-3 if name == "gemma3" else 1e-4
    assert np.abs(got - np.load(out)).max() < tolerance * np.abs(got).max()


def test_an_adapter_on_gates_of_attention_is_refused(tmp_path: Path) -> None:
    adapted(tmp_path, "qwen3_5", "some")
    with pytest.raises(UnsupportedModelError, match=r"q_proj.* holds queries and the gates"):
        LLM(tmp_path / "model", adapters={"a": tmp_path / "adapter"})
