"""The choice of a device, and what a model would take on the GPU, where there is none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tiny
from pyroclast import LLM, KernelError, MemoryBudgetError, RequestError, SamplingParams
from pyroclast.checkpoint.open import Checkpoint, open_checkpoint
from pyroclast.cli import main as cli
from pyroclast.model import device as devices
from pyroclast.model import gpu_budget
from pyroclast.model import load_plan as plans_module
from pyroclast.model.kv_cache import block_bytes
from pyroclast.model.load_plan import Plan, plan
from pyroclast.model.model import Model
from pyroclast.model.options import LoadOptions
from pyroclast_kernels.errors import KernelError as KernelLibraryError
from pyroclast_kernels.triton import device as triton_device

MIB = 1 << 20
NO_TORCH = "torch is not installed: pip install 'pyroclast-lm[gpu]'"
OPTIONS: dict[str, Any] = {
    "max_batch_tokens": 32,
    "max_seqs": 2,
    "max_logits": 8,
}


def planned(checkpoint: Checkpoint, device: str = "cuda", **options: Any) -> Plan:
    return plan(checkpoint, device, LoadOptions(**OPTIONS | options))


class FakeSelection:
    """Kernels for everything but one cache format."""

    def __init__(self, rules: str | None, on_gpu: bool) -> None:
        assert on_gpu
        self.rules = rules or ""

    def variant(self, op: str, format: str = "f32") -> None:
        if op == "attention" and format == "q8_0":
            raise KernelLibraryError("no variant")
        if self.rules:
            raise KernelLibraryError(f"{self.rules} runs on the CPU")


class CpuSelection:
    """The NumPy reference."""

    def __init__(self, rules: str | None) -> None:
        del rules

    def variant(self, op: str, format: str) -> SimpleNamespace:
        del op, format
        return SimpleNamespace(name="numpy")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("device")
    return tiny.write_gguf(folder / "tiny.gguf", tiny.BASE, tiny.random_weights(tiny.BASE), "Q8_0")


@pytest.fixture
def checkpoint(path: Path) -> Iterator[Checkpoint]:
    with open_checkpoint(path) as opened:
        yield opened


@pytest.fixture(autouse=True)
def no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(devices.SETTING, raising=False)
    monkeypatch.setattr(triton_device, "INTERPRETED", False)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_device, "why_not", lambda: NO_TORCH)


@pytest.fixture
def small_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 MiB, 10 of them taken: enough for the tiny model."""
    monkeypatch.setattr(triton_device, "why_not", lambda: "")
    monkeypatch.setattr(gpu_budget, "Selection", FakeSelection)
    # The true one would find out now, and for good, which kernels there are.
    monkeypatch.setattr(plans_module, "Selection", CpuSelection)
    monkeypatch.setattr(devices, "gpu_memory", lambda: (90 * MIB, 100 * MIB))


# ---- the choice ----------------------------------------------------------------------------


def test_an_unknown_device_is_an_error_that_lists_them() -> None:
    with pytest.raises(KernelError, match="one of 'auto', 'cuda', 'cpu', got 'gpu'"):
        LLM("no such model", device="gpu")


def test_the_environment_says_what_auto_stands_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices.check_device("auto") == "auto"
    monkeypatch.setenv(devices.SETTING, "cpu")
    assert devices.check_device("auto") == "cpu"
    assert devices.check_device("cuda") == "cuda"
    monkeypatch.setenv(devices.SETTING, "tpu")
    with pytest.raises(KernelError, match="got 'tpu'"):
        devices.check_device("auto")


def test_auto_without_a_gpu_is_the_cpu_and_says_why(no_gpu: None, path: Path) -> None:
    with LLM(path, max_seqs=2) as llm:
        assert (llm.device, llm.device_note) == ("cpu", NO_TORCH)
        assert llm.model.max_batch_tokens == 512
        params = SamplingParams(temperature=0, max_tokens=3)
        want = llm.generate([1, 2], params)[0].token_ids
    with LLM(path, device="cpu", max_seqs=2) as llm:
        assert (llm.device, llm.device_note) == ("cpu", 'device="cpu" was asked for')
        assert llm.generate([1, 2], params)[0].token_ids == want


def test_cuda_without_a_gpu_is_an_error_before_anything_is_loaded(
    no_gpu: None, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyroclast.checkpoint.tensor.Tensor.rows", lambda _: pytest.fail("read"))
    with pytest.raises(KernelError, match=r'device="cuda" cannot be used: torch is not installed'):
        LLM(path, device="cuda")


def test_auto_takes_a_gpu_with_room(small_gpu: None, checkpoint: Checkpoint) -> None:
    chosen = planned(checkpoint, "auto")
    assert (chosen.device, chosen.note) == ("cuda", "there is a GPU, and the model fits")


def test_auto_stays_on_the_cpu_where_somebody_asks_for_it(
    small_gpu: None, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = planned(checkpoint, "auto", threads=2)
    assert (two.device, two.note, two.n_threads) == ("cpu", "threads=2 asks for the CPU", 2)
    assert planned(checkpoint, "auto", kernels="norm=numpy").note == "norm=numpy runs on the CPU"
    assert planned(checkpoint, "cuda", threads=2).device == "cuda"
    monkeypatch.setattr(triton_device, "INTERPRETED", True)
    interpreted = planned(checkpoint, "auto")
    assert interpreted.device == "cpu" and "interpreter" in interpreted.note


def test_auto_takes_the_cpu_where_the_model_does_not_fit(
    small_gpu: None, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "gpu_memory", lambda: (60 * MIB, 100 * MIB))
    found = planned(checkpoint, "auto")
    assert found.device == "cpu" and "90% of the 60 MiB that are free, of 100 MiB" in found.note


# ---- the plan ------------------------------------------------------------------------------


def test_the_plan_takes_what_is_left_up_to_full_contexts(
    small_gpu: None, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = planned(checkpoint)
    assert (full.kv_dtype, full.n_blocks) == ("f16", 2 * 256 // 32)
    block = block_bytes(checkpoint.config, "f16")
    assert full.n_bytes["cache"] == full.n_blocks * block
    assert full.n_bytes["weights"] > 1000 and full.n_bytes["a step"] > 1000
    fixed = sum(full.n_bytes.values()) - full.n_bytes["cache"]
    for n_blocks in (1, 7):
        free = int((fixed + n_blocks * block) / devices.GPU_SHARE) + 2
        monkeypatch.setattr(devices, "gpu_memory", lambda free=free: (free, 100 * MIB))
        assert planned(checkpoint).n_blocks == n_blocks
    monkeypatch.setattr(devices, "gpu_memory", lambda: (fixed, 100 * MIB))
    with pytest.raises(MemoryBudgetError, match=r"weights .* KiB, a step .*, 1 cache blocks"):
        planned(checkpoint)


def test_an_exact_number_of_blocks_fits_or_is_an_error(
    small_gpu: None, checkpoint: Checkpoint
) -> None:
    assert planned(checkpoint, n_blocks=3).n_blocks == 3
    assert planned(checkpoint, n_blocks=100).n_blocks == 100
    with pytest.raises(MemoryBudgetError, match=r"100000 cache blocks .* 81 MiB can be had"):
        planned(checkpoint, n_blocks=100_000)
    with pytest.raises(RequestError, match="at least 1"):
        planned(checkpoint, n_blocks=0)


def test_options_change_the_plan(small_gpu: None, checkpoint: Checkpoint) -> None:
    plain = planned(checkpoint)
    wide = planned(checkpoint, compute="float32")
    assert wide.kv_dtype == "f32"
    assert wide.n_bytes["weights"] > 3 * plain.n_bytes["weights"]
    assert planned(checkpoint, kv_dtype="bf16").kv_dtype == "bf16"
    for name in ("max_batch_tokens", "max_seqs", "max_logits"):
        more = planned(checkpoint, **{name: 64})
        assert more.n_bytes["a step"] > plain.n_bytes["a step"], name


def test_a_format_without_a_kernel_is_an_error_that_lists_the_others(
    small_gpu: None, checkpoint: Checkpoint
) -> None:
    with pytest.raises(KernelError, match="attention for a cache in q8_0; it has f32, f16, bf16"):
        planned(checkpoint, kv_dtype="q8_0")


@pytest.mark.parametrize("quant", ["F32", "Q8_0"])
@pytest.mark.parametrize("compute", ["auto", "float32"])
def test_the_plan_of_the_cpu_counts_what_loading_takes(
    tmp_path: Path, quant: str, compute: str
) -> None:
    path = tiny.write_gguf(tmp_path / "m.gguf", tiny.BASE, tiny.random_weights(tiny.BASE), quant)
    with open_checkpoint(path) as checkpoint:
        found = planned(checkpoint, "cpu", compute=compute, n_blocks=3)
        model = Model(checkpoint, found)
    vectors = [model._weights.output_norm.weight]
    for layer in model._weights.layers:
        vectors += [layer.attn_norm.weight, layer.ffn_norm.weight]
    matrices = model._weights.token_embd.n_bytes + model.weight_bytes
    assert found.n_bytes["weights"] == matrices + sum(vector.nbytes for vector in vectors)
    assert found.n_bytes["cache"] == model.kv_bytes
    assert (model.n_blocks, model.max_seq_len, model.batch.max_blocks) == (3, 96, 3)
    assert (model.max_batch_tokens, model.max_seqs, model.max_logits) == (32, 2, 8)


def test_limits_that_are_not_given_suit_the_device() -> None:
    both = {"cpu": 512, "cuda": 2048}
    for device, n_tokens in both.items():
        expected = {"max_batch_tokens": n_tokens, "max_seqs": 64, "max_logits": 256}
        assert LoadOptions().limits(device) == expected
    assert LoadOptions(max_batch_tokens=40, max_seqs=8).limits("cpu")["max_logits"] == 40
    assert LoadOptions(max_batch_tokens=40, max_seqs=50).limits("cpu")["max_logits"] == 50


def test_a_model_is_planned_once(no_gpu: None, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[Plan] = []
    plan_cpu = plans_module._plan_cpu

    def noted(*args: Any) -> Plan:
        plans.append(plan_cpu(*args))
        return plans[-1]

    monkeypatch.setattr(plans_module, "_plan_cpu", noted)
    with LLM(path, max_seqs=2) as llm:
        assert isinstance(llm.model, Model)
        assert len(plans) == 1 and llm.model.plan is plans[0]


def test_sizes_for_people() -> None:
    assert [devices.size(n) for n in (3 << 29, 12 * MIB, 5000, 0)] == [
        "1.50 GiB", "12 MiB", "5 KiB", "0 KiB"
    ]  # fmt: skip


# ---- the command line ----------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(argv)
    out, err = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


@pytest.mark.parametrize("command", ["generate", "score", "chat", "next"])
def test_commands_take_the_device(
    no_gpu: None, path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    code, out, err = run(capsys, command, "x", "-m", str(path), "--device", "cuda")
    assert (code, out) == (1, "")
    assert err == f'pyroclast: error: device="cuda" cannot be used: {NO_TORCH}\n'


def test_results_name_the_device(
    no_gpu: None, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ("generate", "x", "-m", str(path), "-n", "2", "--json")
    found = json.loads(run(capsys, *argv)[1])
    assert (found["device"], found["device_note"]) == ("cpu", NO_TORCH)
    found = json.loads(run(capsys, *argv, "--device", "cpu")[1])
    assert found["device_note"] == 'device="cpu" was asked for'


def test_kernels_show_both_sides(no_gpu: None, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "kernels")
    assert code == 0 and out.splitlines()[-1] == f"cuda: {NO_TORCH}"
    code, out, _ = run(capsys, "kernels", "--device", "cuda", "--json")
    found = json.loads(out)
    assert (code, found["device"], found["cuda"]) == (0, "cuda", NO_TORCH)
    variants = {row["variant"] for row in found["kernels"]}
    assert variants == {"triton"}
    assert {"matmul", "attention", "sample"} <= {row["op"] for row in found["kernels"]}


def test_doctor_tells_of_the_gpu(
    no_gpu: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = json.loads(run(capsys, "doctor", "--json")[1])
    assert found["gpu"] == {"device=cuda": NO_TORCH, "device=auto": NO_TORCH}
    assert found["settings"][devices.SETTING] == "not set"
    monkeypatch.setenv("TRITON_HOME", "somewhere")
    found = json.loads(run(capsys, "doctor", "--json")[1])
    assert found["caches"]["triton kernels"] == str(Path("somewhere/.triton/cache"))
