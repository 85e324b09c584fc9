"""Fine-tuning a tiny model: the adapter and the model that it writes, and what it refuses."""

from __future__ import annotations

import json
import resource
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tiny
from pyroclast import LLM, SamplingParams
from pyroclast.errors import ModelFileError, PyroclastError, TrainingError
from pyroclast.train import FinetuneSettings, finetune
from pyroclast.train.descent import indices
from pyroclast.train.log import read_lines
from training_chats import CHAT, TEMPLATE, UNMARKED

torch = pytest.importorskip("torch", reason="`make oracle-deps` installs torch")
peft = pytest.importorskip("peft", reason="`make oracle-deps` installs it")
transformers = pytest.importorskip("transformers", reason="`make oracle-deps` installs it")
pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore"),  # torch's, peft's and transformers' own
]
SETTINGS = FinetuneSettings(
    steps=12, batch=2, rank=4, learning_rate=0.02, save_every=5, held_out=0.25, precision="float32"
)
IDS = list(range(60, 100))


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads only wait for each other at these sizes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    config = replace(tiny.BASE, n_layers=1)
    tiny.write_folder(folder, config, tiny.random_weights(config))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every question has the same answer: what 12 steps can learn."""
    path = tmp_path_factory.mktemp("data") / "data.jsonl"
    answer = {"role": "assistant", "content": "the"}
    values = [{"messages": [{"role": "user", "content": c}, answer]} for c in "abcdefgh"]
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in read_lines(out / "log.jsonl")]


def test_an_adapter_is_served_as_peft_computes_it(base: Path, data: Path, tmp_path: Path) -> None:
    result = finetune(base, data, tmp_path / "run", SETTINGS)
    assert (result.before["exact_match"], result.after["exact_match"]) == (0.0, 1.0)
    assert [line["text"] for line in read_lines(tmp_path / "run" / "samples.jsonl")][1] == "the"
    first, *_, last = losses(tmp_path / "run")
    assert first > 2 and last < 0.5
    assert result.about["held_out"] == 2 and result.about["examples"] == 6
    config = json.loads((Path(result.final) / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base) and config["r"] == 4
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        adapted = peft.PeftModel.from_pretrained(model, result.final)
        want = adapted(input_ids=torch.tensor([IDS])).logits[0].numpy()
    greedy = SamplingParams(temperature=0, max_tokens=8)
    with LLM(base, compute="float32", adapters={"mine": result.final}) as llm:
        got = llm.logits(IDS, adapter="mine")
        [answer] = llm.chat([{"role": "user", "content": "a"}], greedy, adapter="mine")
    assert np.abs(got - want).max() < 1e-4 * np.abs(want).max()
    assert answer.text == "the"


def test_all_weights_of_a_gguf_file_resumed_bit_for_bit(data: Path, tmp_path: Path) -> None:
    config = replace(tiny.BASE, n_layers=1)
    file = tiny.write_gguf(tmp_path / "m.gguf", config, tiny.random_weights(config), "Q8_0")
    plain = tmp_path / "plain.jsonl"
    lines = [json.dumps({"prompt": f"{c} in", "completion": " the"}) for c in "abcd"]
    plain.write_text("\n".join(lines))
    settings = replace(SETTINGS, method="full", steps=6, learning_rate=0.005)
    result = finetune(file, plain, tmp_path / "whole", settings)

    def stop(line: dict[str, float]) -> None:
        if line["step"] == 6:
            raise KeyboardInterrupt

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:  # a limit on the size of files stands in for a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
        with pytest.raises(TrainingError, match=r"run: cannot be written: .*the same command"):
            finetune(file, plain, tmp_path / "run", settings)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list((tmp_path / "run").glob(".*"))
    with pytest.raises(KeyboardInterrupt):
        finetune(file, plain, tmp_path / "run", settings, on_line=stop)
    again = finetune(file, plain, tmp_path / "run", settings)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    logits = []
    for model in (file, result.final, again.final):
        with LLM(model, compute="float32") as llm:
            logits.append(llm.logits(IDS))
    np.testing.assert_array_equal(logits[1], logits[2])
    assert np.abs(logits[1] - logits[0]).max() > 0.1


def test_every_epoch_reads_every_example_in_another_order() -> None:
    read = [i for step in range(1, 11) for i in indices(5, 3, 0, step)]
    epochs = [read[at : at + 5] for at in range(0, 30, 5)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert Counter(map(tuple, epochs)).most_common(1)[0][1] < len(epochs)
    assert read[:3] == indices(5, 3, 0, 1) != indices(5, 3, 3, 1)


def test_an_adapter_of_another_base_is_refused(base: Path, data: Path, tmp_path: Path) -> None:
    result = finetune(base, data, tmp_path / "run", replace(SETTINGS, steps=1, held_out=0.0))
    assert result.before == {} == result.after
    config = replace(tiny.BASE, n_layers=1, d_model=48, n_heads=3, n_kv_heads=1)
    other = tiny.write_folder(tmp_path / "other", config, tiny.random_weights(config))
    with pytest.raises(ModelFileError, match="lora_A"):
        LLM(other, adapters={"mine": result.final})
    with pytest.raises(TrainingError, match="holds a run with model "):
        finetune(other, data, tmp_path / "run", replace(SETTINGS, steps=1, held_out=0.0))


@pytest.mark.parametrize(
    ("content", "template", "words"),
    [
        ("{}\n", TEMPLATE, "line 1: its keys are none"),
        (json.dumps(CHAT), UNMARKED, "line 1: the model's template does not mark"),
        ('{"prompt": "a", "completion": "b"}', TEMPLATE, "leave none to train on"),
        (
            json.dumps({"prompt": "xyz" * 100, "completion": "b"}),
            TEMPLATE,
            "line 1: it has .* tokens, and the model's context holds 256",
        ),
    ],
)
def test_data_that_cannot_be_trained_on_is_refused(
    base: Path, tmp_path: Path, content: str, template: str, words: str
) -> None:
    config = replace(tiny.BASE, n_layers=1)
    tiny.write_folder(tmp_path / "model", config, tiny.random_weights(config))
    (tmp_path / "model" / "chat_template.jinja").write_text(template)
    (tmp_path / "data.jsonl").write_text(content)
    settings = replace(SETTINGS, held_out=0.9 if '"a"' in content else 0.0)
    with pytest.raises(PyroclastError, match=words):
        finetune(tmp_path / "model", tmp_path / "data.jsonl", tmp_path / "run", settings)


def test_a_format_after_the_model_is_refused(base: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="trained in float32; leave out @q8_0"):
        finetune(f"{base}@q8_0", data, tmp_path / "run", SETTINGS)
