"""Kernel rules that a model has no use for are told when it is loaded; broken kernels end it."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny
from pyroclast import LLM, KernelError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("rules") / "tiny"
    tiny.write_folder(folder, tiny.BASE, tiny.random_weights(tiny.BASE))
    return str(folder)


def test_rules_without_effect(model: str, caplog: pytest.LogCaptureFixture) -> None:
    rules = "softmax=numpy,norm=numpy,matmul.q6_k=numpy,*=numpy"
    with LLM(model, kernels=rules, threads=1, device="cpu"):
        pass
    found = [each.getMessage() for each in caplog.records if "kernel rule" in each.getMessage()]
    assert found == [
        "tiny: the kernel rule softmax=numpy has no effect: the model never runs softmax",
        "tiny: the kernel rule matmul.q6_k=numpy has no effect: the model never runs matmul.q6_k",
    ]


def test_a_broken_kernel_is_an_error_of_pyroclast(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = 'OP = "norm"\nFORMATS = ("f32",)\n'
    (tmp_path / "numba_broken.py").write_text(head + "def norm_f32(a, b, c):\n    a + missing\n")
    monkeypatch.setenv("PYROCLAST_KERNEL_PATH", str(tmp_path))
    with pytest.raises(KernelError, match="Numba cannot compile norm_f32"):
        LLM(model, kernels="norm=numba-broken", threads=1, device="cpu")
