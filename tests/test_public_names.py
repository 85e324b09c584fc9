import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import pyroclast

ROOT = Path(__file__).parents[1]
HEAVY = ("numpy", "numba", "tokenizers", "jinja2", "tqdm", "safetensors", "torch")

PUBLIC = {
    "LLM", "AsyncLLM", "SamplingParams", "Tokenizer", "Stream", "AsyncStream",
    "Chunk", "Completion", "Score", "Timings", "TokenLogprobs",
    "PyroclastError", "CacheFileError", "ClosedError", "ContextOverflowError", "KernelError",
    "MemoryBudgetError", "ModelFileError", "NumericalError", "QueueFullError", "ReentryError",
    "RequestError", "SamplingError", "TemplateError", "TokenizerError", "TrainingError",
    "UnsupportedModelError",
}  # fmt: skip


def test_the_public_names_are_these():
    assert set(pyroclast.__all__) == PUBLIC
    assert set(pyroclast._HOME_OF) == PUBLIC
    assert set(dir(pyroclast)) >= PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_name_is_there_and_documented(name):
    value = getattr(pyroclast, name)
    assert value.__name__ == name
    assert value.__doc__


def test_every_error_is_public_and_derives_from_one():
    errors = importlib.import_module("pyroclast.errors")
    ours = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and value.__module__ == errors.__name__
    }
    assert ours <= PUBLIC
    for name in ours:
        assert issubclass(getattr(pyroclast, name), pyroclast.PyroclastError)
        assert name in errors.__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'LLMs'"):
        _ = pyroclast.LLMs


@pytest.mark.parametrize("module", ["pyroclast", "pyroclast.cli.main"])
def test_import_loads_nothing_heavy(module):
    """What takes the time of an import is other people's packages: none of them may be loaded."""
    code = (
        f"import sys; sys.path[:0] = {[str(ROOT / 'engine'), str(ROOT / 'kernels')]!r}; "
        f"import {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.strip() == "[]"
