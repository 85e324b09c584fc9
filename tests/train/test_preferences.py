"""`prefer`, `reward` and `rl` at the smallest size that learns, and what they refuse."""

from __future__ import annotations

import json
import math
import random
import resource
import shutil
import string
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tiny
from pyroclast import LLM, SamplingParams
from pyroclast.cli.main import main
from pyroclast.errors import TemplateError, TrainingError
from pyroclast.train.preference_settings import PreferSettings, RewardSettings, RlSettings
from pyroclast.train.rewards import as_reward
from training_chats import TEMPLATE, UNMARKED

pytestmark = pytest.mark.oracle
pytest.importorskip("trl", reason="trl is not installed: pip install '.[train]'")

SIDES = ("chosen", "rejected")
LIKED, OTHERS = string.ascii_uppercase, string.ascii_lowercase + string.digits
CONFIG = replace(tiny.BASE, tie_embeddings=True, n_layers=1)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine torch's threads wait for each other: 20 times slower."""
    import torch

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "m"
    return tiny.write_folder(folder, CONFIG, tiny.random_weights(CONFIG, 1))


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def written(letters: str, rng: random.Random) -> str:
    return "".join(rng.choice(letters) for _ in range(6))


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    rng = random.Random(0)
    rows = [
        {"prompt": f"say {i}:", "chosen": written("ABCD", rng), "rejected": written("wxyz", rng)}
        for i in range(16)
    ]
    return write_lines(tmp_path / "pairs.jsonl", rows)


def liked(completions: list[str], **_: Any) -> list[float]:
    return [float(sum(each in LIKED for each in text)) for text in completions]


def test_dpo_prefers_what_was_chosen_and_resumes(model: Path, pairs: Path, tmp_path: Path) -> None:
    from pyroclast.train import prefer

    settings = PreferSettings(steps=4, batch=8, learning_rate=1e-2, save_every=2, rank=4)
    lines: list[dict[str, Any]] = []
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_disk(line: dict[str, Any]) -> None:
        lines.append(line)
        if line["step"] == 3:  # a limit on the size of files stands in for it
            resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1]))

    try:
        with pytest.raises(TrainingError, match=r"step-4: cannot be written: .*step-2 is whole"):
            prefer(model, pairs, tmp_path / "run", settings, on_line=fill_disk)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list((tmp_path / "run").glob(".*"))
    found = prefer(model, pairs, tmp_path / "run", settings, on_line=lines.append)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 3, 4]
    assert lines[2]["loss"] == lines[4]["loss"], "a resumed run computes the same steps"
    n_tokens = [round(line["tokens_per_s"] * line["seconds"]) for line in lines]
    assert n_tokens[2:4] == n_tokens[4:]
    assert found.after["margin"] > found.before["margin"] + 1
    assert found.after["accuracy"] == 1.0
    with LLM(model, adapters={"preferred": found.final}) as llm:
        assert llm.score("say 1:abc", adapter="preferred") != llm.score("say 1:abc")
    assert prefer(model, pairs, tmp_path / "run", settings) == found, "it is finished"


def test_a_loss_that_is_no_number_ends_a_run_of_trl(
    model: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaModel

    from pyroclast.train import prefer

    settings = PreferSettings(steps=3, batch=4, rank=2, save_every=1, warmup=0.0)
    forward = LlamaModel.forward

    def broken(*args: Any, **options: Any) -> Any:
        found = forward(*args, **options)
        if (tmp_path / "run" / "step-1").is_dir():
            found.last_hidden_state = found.last_hidden_state * math.nan
        return found

    monkeypatch.setattr(LlamaModel, "forward", broken)
    with pytest.raises(TrainingError, match="loss of step 2 is nan: the run has diverged"):
        prefer(model, pairs, tmp_path / "run", settings)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "run").glob("step-*")] == ["step-1"]
    found = prefer(model, pairs, tmp_path / "run", settings)
    assert math.isfinite(found.after["margin"]), "no checkpoint held it"


def test_all_weights_of_a_gguf_file(pairs: Path, tmp_path: Path) -> None:
    """trl loads the start a second time, from the folder that the file became."""
    from pyroclast.train import prefer

    file = tiny.write_gguf(tmp_path / "m.gguf", CONFIG, tiny.random_weights(CONFIG, 1), "Q8_0")
    settings = PreferSettings(steps=2, batch=4, learning_rate=1e-2, method="full", warmup=0.0)
    found = prefer(file, pairs, tmp_path / "run", settings)
    assert found.after["margin"] > found.before["margin"]
    with LLM(found.final) as trained, LLM(file) as start:
        assert trained.score("say") != start.score("say")


def test_a_folder_without_its_class_is_refused(model: Path, pairs: Path, tmp_path: Path) -> None:
    from pyroclast.train import prefer

    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    del config["architectures"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(TrainingError, match=r'add "architectures": \["LlamaForCausalLM"\]'):
        prefer(folder, pairs, tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "value"),
    [("hidden_size", 192), ("hidden_size", "x"), ("num_hidden_layers", [1]), ("rope_scaling", 3)],
)
def test_a_damaged_folder_is_refused(model: Path, tmp_path: Path, name: str, value: Any) -> None:
    from pyroclast.train.base_model import open_base

    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, name: value}))
    with pytest.raises(TrainingError, match=r"model: transformers cannot load it: \S"):
        open_base(folder, tmp_path)


def test_the_full_circle(model: Path, tmp_path: Path) -> None:
    """Sample, rate, train the reward, train the policy, sample again."""
    from pyroclast.train import reward, rl

    prompts = [f"say {i}:" for i in range(8)]
    with LLM(model) as llm:
        sampled = llm.generate(prompts, SamplingParams(max_tokens=8, n=16, seed=1))
    rows = []
    for one, two in zip(sampled[::2], sampled[1::2], strict=True):
        rating = liked([one.text, two.text])
        if rating[0] != rating[1]:
            answers = [one.text, two.text] if rating[0] > rating[1] else [two.text, one.text]
            prompt = prompts[one.prompt_index]
            rows.append({"prompt": prompt, "chosen": answers[0], "rejected": answers[1]})
    rng = random.Random(1)
    rows += [
        {"prompt": p, "chosen": written(LIKED, rng), "rejected": written(OTHERS, rng)}
        for p in prompts * 6
    ]
    rng.shuffle(rows)
    rated = write_lines(tmp_path / "rated.jsonl", rows)
    judge = reward(model, rated, tmp_path / "reward", RewardSettings(
        steps=24, batch=16, learning_rate=3e-3, held_out=0.2,
    ))  # fmt: skip
    assert judge.after["accuracy"] >= 0.7

    asked = write_lines(tmp_path / "prompts.jsonl", [{"prompt": each} for each in prompts])
    lines: list[dict[str, Any]] = []
    settings = RlSettings(
        steps=12, batch=16, group=8, max_tokens=8, learning_rate=1e-2, held_out=0.25,
        samples=16, beside="q8_0", save_every=100, warmup=0.01,
    )  # fmt: skip
    found = rl(
        model, asked, tmp_path / "rl", reward=judge.final, settings=settings, on_line=lines.append
    )
    assert found.after["reward"] > found.before["reward"]
    assert 0 < found.after["kl"] < 5
    assert len(lines) == 12
    for line in lines:
        assert line["rollout_max_logprob_diff"] <= 1e-4
        assert line["rollout_kl"] < 1e-8 < line["rollout_kl_q8_0"] < 0.1
    with LLM(found.final) as llm:
        again = llm.generate(prompts, SamplingParams(max_tokens=8, n=16, seed=1))
    before, after = ([text.text for text in each] for each in (sampled, again))
    assert sum(liked(after)) > sum(liked(before))


def test_an_adapter_learns_from_quantized_rollouts(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyroclast.train import reinforcement, rl

    asked = write_lines(tmp_path / "prompts.jsonl", [{"prompt": "a"}, {"prompt": "b"}])
    lines: list[dict[str, Any]] = []
    settings = RlSettings(
        steps=2, batch=4, group=4, max_tokens=4, method="lora", rank=2, rollouts="q8_0",
        learning_rate=1e-2, samples=2, warmup=0.0,
    )  # fmt: skip

    def run() -> Any:
        return rl(
            model, asked, tmp_path / "run", reward=liked, settings=settings, on_line=lines.append
        )

    monkeypatch.setattr(reinforcement, "measured", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run()
    monkeypatch.undo()
    trained = tmp_path / "run" / "final" / "adapter_model.safetensors"
    before = trained.read_bytes()
    found = run()
    assert trained.read_bytes() == before, "all steps were done: no other one is"
    assert [line["step"] for line in lines] == [1, 2]
    assert all(line["rollout_max_logprob_diff"] > 1e-4 for line in lines), "quantized"
    assert found.after["kl"] > 0, "the adapter has changed"


def test_a_reward_model_learns_from_pairs_that_are_cut(
    model: Path, pairs: Path, tmp_path: Path
) -> None:
    from pyroclast.train import reward
    from pyroclast.train.base_model import context_of
    from pyroclast.train.prompts import read_pairs

    # Every pair has more tokens.
    settings = RewardSettings(steps=1, batch=14, micro_batch=7, max_tokens=10)
    lines: list[dict[str, Any]] = []
    assert reward(model, pairs, tmp_path / "cut", settings, on_line=lines.append).after
    n_tokens = round(lines[0]["tokens_per_s"] * lines[0]["seconds"])
    assert n_tokens == 2 * 10 * 14, "none was left out"

    long = [{**row, "prompt": row["prompt"] + "x" * 10} for row in read_pairs(pairs)]
    said = r"long\.jsonl, pair 1: its answers are the same in the 10 tokens"
    with pytest.raises(TrainingError, match=said):
        reward(model, write_lines(tmp_path / "long.jsonl", long), tmp_path / "long", settings)
    assert not (tmp_path / "long" / "run.json").exists(), "other settings may be tried"
    row = {**long[0], "prompt": "x" * context_of(model)}
    with pytest.raises(TrainingError, match=f"in the {context_of(model)} tokens"):
        reward(model, write_lines(tmp_path / "long.jsonl", [row] * 2), tmp_path / "context")


def test_a_reward_model_scores_the_tokens_of_its_training(model: Path, tmp_path: Path) -> None:
    """trl ends a text, and leaves to the template which special tokens begin messages."""
    import torch
    import trl
    from datasets import Dataset
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from pyroclast.train.trl_run import quiet_libraries

    folder = tmp_path / "judge"
    judge = AutoModelForSequenceClassification.from_pretrained(
        model, num_labels=1, dtype=torch.float32
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    bos = tokenizer.bos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)]
    )
    # Another token than that of the end, which would be passed over as if it filled the row.
    tokenizer.pad_token, tokenizer.chat_template = "Z", TEMPLATE
    judge.config.pad_token_id = tokenizer.pad_token_id
    judge.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    texts = [GOOD, {**GOOD, "chosen": "a longer answer"}]
    chats = [
        {"prompt": [USER]} | {s: [{"role": "assistant", "content": row[s]}] for s in SIDES}
        for row in texts
    ]
    score = as_reward(folder)
    for rows in (texts, chats):
        with quiet_libraries():
            config = trl.RewardConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False)
            trainer = trl.RewardTrainer(
                judge,
                args=config,
                train_dataset=Dataset.from_list(rows),
                processing_class=tokenizer,
            )
        found = score(
            prompts=[row["prompt"] for row in rows], completions=[row["chosen"] for row in rows]
        )
        for row, number in zip(trainer.train_dataset, found, strict=True):
            assert row["chosen_ids"].count(tokenizer.bos_token_id) == (1 if rows is texts else 2)
            with torch.no_grad():
                wanted = judge(torch.tensor([row["chosen_ids"]])).logits[0, 0]
            assert number == pytest.approx(float(wanted), abs=1e-5)


class _Args:
    temperature, top_k, top_p, min_p, repetition_penalty = 1.0, 0, 1.0, None, 1.0
    max_completion_length, per_device_train_batch_size = 4, 2


class _Tokenizer:
    pad_token_id = 0

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": list(text.encode())}

    def apply_chat_template(self, messages: Any, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": list(messages[-1]["content"].encode())}


@pytest.fixture
def trainer(model: Path) -> Any:
    import torch
    import transformers

    class Fake:
        accelerator = type("A", (), {"unwrap_model": staticmethod(lambda model: model)})
        state = type("S", (), {"global_step": 0})
        args, processing_class = _Args, _Tokenizer()

    fake = Fake()
    fake.model = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    return fake


def test_rollouts_follow_the_trainer_and_its_seed(model: Path, trainer: Any) -> None:
    from pyroclast.train import Rollouts

    checks: list[dict[str, float]] = []
    with LLM(model, compute="float32") as llm:
        rollouts = Rollouts(llm, seed=3, on_check=checks.append)
        prompts = ["one", "three", [{"role": "user", "content": "one"}]]
        first, second = rollouts(prompts, trainer), rollouts(prompts, trainer)
        assert first["prompt_ids"][0] == first["prompt_ids"][2]
        assert first["completion_ids"] != second["completion_ids"], "each call draws anew"
        again = Rollouts(llm, seed=3)(prompts, trainer)
        assert again["completion_ids"] == first["completion_ids"]
        assert Rollouts(llm, seed=4)(prompts, trainer)["completion_ids"] != first["completion_ids"]
        for parameter in trainer.model.parameters():
            parameter.data.mul_(1.1)
        trainer.state.global_step = 1
        rollouts(prompts, trainer)  # with the weights of this step: else the check would raise
        assert [check["step"] for check in checks] == [0, 0, 1]
        trainer.model.lm_head.weight.data.mul_(1.1)  # behind the engine's back
        with pytest.raises(TrainingError, match=r"off policy.*allowed is 0\.0001"):
            rollouts(prompts, trainer)
        Rollouts(llm, tolerance=None)._check(
            1, [[1]], [[2]], [[-1.0]], [[-9.0]]
        )  # which nobody refuses


GOOD = {"prompt": "p", "chosen": "a", "rejected": "b"}
USER = {"role": "user", "content": "hi"}


def test_runs_that_cannot_begin(model: Path, pairs: Path, tmp_path: Path) -> None:
    from pyroclast.train import prefer, reward, rl

    one = write_lines(tmp_path / "one.jsonl", [GOOD])
    two = write_lines(tmp_path / "two.jsonl", [{"prompt": "a"}, {"prompt": "b"}])
    with pytest.raises(TrainingError, match="at least 2"):
        prefer(model, one, tmp_path / "run")
    with pytest.raises(TrainingError, match="holds no lines"):
        prefer(model, write_lines(tmp_path / "none.jsonl", []), tmp_path / "run")
    with pytest.raises(TrainingError, match="no such file"):
        rl(model, tmp_path / "there is none", tmp_path / "run", reward="json")
    with pytest.raises(TrainingError, match="multiple of group, got 6 and 4"):
        rl(model, two, tmp_path / "run", reward="json", settings=RlSettings(batch=6, group=4))
    with pytest.raises(TrainingError, match="float32; leave out @q8_0"):
        rl(f"{model}@q8_0", two, tmp_path / "run", reward="json", settings=RlSettings(batch=4))
    with pytest.raises(
        TrainingError, match="prompts to train on: 1, beside those held out, but a batch of 8"
    ):
        rl(model, two, tmp_path / "run", reward="json")
    with pytest.raises(TrainingError, match="no reward model"):
        as_reward(model)
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingError, match="empty: transformers cannot load it"):
        as_reward(tmp_path / "empty")
    with pytest.raises(TrainingError, match="empty: transformers cannot load it"):
        prefer(tmp_path / "empty", pairs, tmp_path / "of-nothing")
    chats = write_lines(tmp_path / "c.jsonl", [{**GOOD, "prompt": [USER]}, GOOD])
    for recipe in (prefer, reward):
        with pytest.raises(TemplateError, match=r"c\.jsonl: has prompts that are messages"):
            recipe(model, chats, tmp_path / recipe.__name__)
    with pytest.raises(TemplateError, match=r"c\.jsonl: has prompts that are messages"):
        rl(model, chats, tmp_path / "rl", reward="json", settings=RlSettings(batch=4))
    long = write_lines(tmp_path / "long.jsonl", [GOOD, {**GOOD, "prompt": "xyz" * 200}])
    with pytest.raises(TrainingError, match=r"long\.jsonl, pair 2: its prompt has .* have 256"):
        prefer(model, long, tmp_path / "long")
    for n_tokens, limit in ((193, 64), (256, 1)):
        tight = write_lines(tmp_path / "tight.jsonl", [{"prompt": "a"}, {"prompt": "x" * n_tokens}])
        settings = RlSettings(batch=2, group=2, steps=1, max_tokens=limit)
        said = rf"tight\.jsonl, prompt 2: has {n_tokens} tokens, .* lower max_tokens"
        with pytest.raises(TrainingError, match=said):
            rl(model, tight, tmp_path / "tight", reward="json", settings=settings)
    with pytest.raises(TrainingError, match=r"finite number for each of 4 completions, got \[nan"):
        rl(
            model, two, tmp_path / "nan", reward=lambda completions, **_: [float("nan")] * 4,
            settings=RlSettings(steps=1, batch=4, group=4, max_tokens=2),
        )  # fmt: skip


def test_templates_that_cannot_write_a_prompt_are_refused(model: Path, tmp_path: Path) -> None:
    from pyroclast.train import prefer, reward, rl

    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    pairs = write_lines(tmp_path / "pairs.jsonl", [{**GOOD, "prompt": [USER]}] * 3)
    small = RlSettings(batch=2, group=2, steps=1, max_tokens=2)
    for template, recipes, said in (
        (UNMARKED, (prefer, rl), "1: the model's template does not mark where an answer begins"),
        ("{{ raise_exception('not so') }}", (prefer, reward, rl), "1: not so"),
    ):
        (folder / "chat_template.jinja").write_text(template)
        for recipe in recipes:
            out, options = tmp_path / "run" / recipe.__name__, {}
            if recipe is rl:
                options = {"reward": "json", "settings": small}
            with pytest.raises(TemplateError, match=said):
                recipe(folder, pairs, out, **options)
            assert not list(out.glob("step-*"))


def test_the_commands_say_what_is_wrong(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = write_lines(tmp_path / "two.jsonl", [GOOD, GOOD])
    out = ["--out", str(tmp_path / "run")]
    for command, code, said in (
        (["train", "rl", str(model), str(two), "--reward", "nothing", *out], 1, "length:N"),
        (
            ["train", "rl", str(model), str(two), "--reward", "json", "--group", "1", *out],
            2,
            "--group",
        ),
        (["train", "prefer", str(model), str(two), "--beta", "0", *out], 2, "--beta must be"),
        (["train", "reward", str(model), str(tmp_path / "no"), *out], 1, "no such file"),
    ):
        with pytest.raises(SystemExit, match=str(code)):
            main(command)
        assert said in capsys.readouterr().err
