"""The command info: what it tells of files that `tiny` writes, whole and cut short."""

import io
import json
import re
from dataclasses import replace

import pytest

import tiny
import tiny_experts
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.cli import info
from pyroclast.cli import main as cli
from pyroclast.model.kv_cache import BLOCK_SIZE
from pyroclast.model.load_plan import plan
from pyroclast.model.options import LoadOptions
from pyroclast.model.state_cache import state_bytes
from pyroclast_kernels.attention import MAX_HEAD_DIM

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


@pytest.fixture
def run(capsys, monkeypatch):
    """Runs a command here: (exit code, standard output, standard error)."""

    def call(*argv):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
        with pytest.raises(SystemExit) as ended:
            cli.main([str(arg) for arg in argv])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return call


@pytest.fixture
def told(run):
    """The JSON object of a model."""

    def call(model):
        code, out, err = run("info", model, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)

    return call


def write_gguf(folder, **changes):
    config = replace(tiny.BASE, **changes)
    return tiny.write_gguf(folder / "m.gguf", config, tiny.random_weights(config), quant="Q8_0")


def test_sizes_and_formats_of_a_file(told, tmp_path):
    found = told(write_gguf(tmp_path, sliding_window=24))
    config = tiny.BASE
    assert found["family"] == "llama"
    assert found["n_layers"] == config.n_layers
    assert (found["n_heads"], found["n_kv_heads"], found["head_dim"]) == (6, 2, 16)
    assert (found["d_model"], found["d_ff"]) == (96, 160)
    assert (found["vocab_size"], found["max_seq_len"]) == (320, 256)
    assert (found["n_experts"], found["n_active_experts"]) == (0, 0)
    assert found["windows"] == [24]
    assert found["tie_embeddings"] is False
    weights = tiny.random_weights(config)
    matrices = sum(each.size for each in weights.values() if each.ndim == 2)
    vectors = sum(each.size for each in weights.values() if each.ndim == 1)
    assert found["n_parameters"] == matrices + vectors
    assert list(found["formats"]) == ["q8_0", "f32"], "most bytes first"
    assert found["formats"]["q8_0"]["n_bytes"] == matrices * 34 // 32
    assert found["formats"]["f32"] == {"tensors": 5, "n_bytes": 4 * vectors}
    bits = 8 * (matrices * 34 / 32 + 4 * vectors) / (matrices + vectors)
    assert found["bits_per_weight"] == pytest.approx(bits)
    assert found["file_bytes"] == (tmp_path / "m.gguf").stat().st_size


def test_experts_are_told(told, run, tmp_path):
    path = tiny_experts.write_gguf(tmp_path / "m.gguf", tiny_experts.weights(), "Q8_0")
    found = told(path)
    assert (found["n_experts"], found["n_active_experts"], found["d_ff"]) == (12, 3, 32)
    assert "d_ff 32 of 12 experts, 3 for each token" in run("info", path)[1]


def test_memory_is_what_loading_takes(told, tmp_path):
    path = write_gguf(tmp_path)
    found = told(path)
    with open_checkpoint(path) as checkpoint:
        planned = plan(checkpoint, "cpu", LoadOptions())
    assert found["weight_bytes"] == planned.n_bytes["weights"]
    assert found["kv_dtype"] == planned.kv_dtype
    n_positions = planned.n_blocks * BLOCK_SIZE
    assert found["kv_bytes_per_1000_tokens"] == 1000 * planned.n_bytes["cache"] // n_positions


def test_a_folder_and_its_templates(told, tmp_path):
    tiny.write_folder(tmp_path, tiny.BASE, tiny.random_weights(tiny.BASE))
    assert told(tmp_path)["chat_templates"] == []
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(config | {"chat_template": TEMPLATE}))
    found = told(tmp_path)
    assert (found["chat_templates"], found["takes_tools"]) == (["default"], False)
    path.write_text(json.dumps(config | {"chat_template": TEMPLATE + "{{ tools }}"}))
    assert told(tmp_path)["takes_tools"] is True


def test_weights_that_are_cut_short_are_counted(told, run, tmp_path):
    path = write_gguf(tmp_path)
    whole = told(path)
    data = path.read_bytes()
    path.write_bytes(data[:-20_000])
    found = told(path)
    assert found["missing_bytes"] == 20_000
    same = ("file_bytes", "missing_bytes")
    assert {k: v for k, v in found.items() if k not in same} == {
        k: v for k, v in whole.items() if k not in same
    }
    assert "20.00 kB of the weights are missing" in run("info", path)[1]
    # Whoever needs the weights is refused still, and whoever needs none is served.
    assert "cut short" in run("score", "hello", "-m", path)[2]
    assert run("tokenize", "hello", "-m", path)[0] == 0


def test_a_folder_that_is_cut_short(told, tmp_path):
    config = replace(tiny.BASE, tie_embeddings=True)
    tiny.write_folder(tmp_path, config, tiny.random_weights(config))
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5000])
    assert told(tmp_path)["missing_bytes"] == 5000


def test_a_header_that_is_cut_short_is_refused(run, tmp_path):
    path = write_gguf(tmp_path)
    path.write_bytes(path.read_bytes()[:300])
    code, out, err = run("info", path)
    assert (code, out) == (1, "")
    assert re.fullmatch(r"pyroclast: error: .*m\.gguf: .*300.*\n", err)


def test_what_is_converted_and_what_cannot_run(told, run, tmp_path):
    config = replace(tiny.BASE, d_model=256, d_ff=256, head_dim=768, n_heads=2)
    path = tiny.write_gguf(tmp_path / "m.gguf", config, tiny.random_weights(config), quant="TQ2_0")
    found = told(path)
    assert "in TQ2_0 to" in found["converted_at_load"]
    assert next(iter(found["formats"])) == "tq2_0"
    assert f"(the maximum is {MAX_HEAD_DIM})" in found["cannot_run"]
    assert found["weight_bytes"] is None
    text = run("info", path)[1]
    assert "cannot run" in text
    assert "memory" not in text


def test_a_vocabulary_that_cannot_be_used_is_told(told, tmp_path):
    path = write_gguf(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"gpt-2", b"gpt-x"))
    found = told(path)
    assert "unknown tokenizer.ggml.pre 'gpt-x'" in found["tokenizer_error"]
    assert (found["chat_templates"], found["family"]) == ([], "llama")


def test_states_of_recurrent_layers_are_told(run, told):
    model = "dummy:qwen3.5-2b:4@q8_0"
    found = told(model)
    with open_checkpoint(model) as checkpoint:
        assert found["state_bytes"] == state_bytes(checkpoint.config) > 0
    assert (found["n_layers"], found["n_recurrent_layers"]) == (4, 3)
    _, out, _ = run("info", model)
    assert "3 of them recurrent, with a state and no heads" in out
    assert "3.37 MB for each state of a text in the recurrent layers" in out


def test_a_model_without_attention_has_no_heads():
    with open_checkpoint("dummy:lfm2-1.2b:3@q8_0") as checkpoint:
        config = checkpoint.config
    recurrent = next(spec for spec in config.layers if spec.recurrent)
    found = info.sizes(replace(config, layers=(recurrent,) * 2))
    assert (found["n_recurrent_layers"], found["n_heads"], found["head_dim"]) == (2, 0, 0)
