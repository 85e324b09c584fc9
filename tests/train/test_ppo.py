"""PPO: its arithmetic against sums written out, and runs of the smallest model that learns."""

from __future__ import annotations

import json
import math
import string
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from pyroclast import LLM
from pyroclast.errors import TrainingError
from pyroclast.train.advantages import advantages, clipped_loss, token_rewards, whitened
from pyroclast.train.preference_settings import RlSettings

pytestmark = pytest.mark.oracle
torch = pytest.importorskip("torch", reason="`make oracle-deps` installs torch")
pytest.importorskip("trl", reason="trl is not installed: pip install '.[train]'")

CONFIG = replace(tiny.BASE, tie_embeddings=True, n_layers=1)
MASK = np.array([[1.0, 1, 1, 0], [1, 1, 0, 0]])
SETTINGS = RlSettings(
    algorithm="ppo", steps=4, batch=8, group=2, max_tokens=6, learning_rate=1e-2, held_out=0.25,
    samples=8, save_every=2, warmup=0.01,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "m"
    return tiny.write_folder(folder, CONFIG, tiny.random_weights(CONFIG, 1))


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"say {i}" * i}) + "\n" for i in range(1, 9)))
    return path


def capitals(completions: list[str], **_: Any) -> list[float]:
    return [float(sum(each in string.ascii_uppercase for each in text)) for text in completions]


def test_the_reward_of_a_token_is_the_way_from_the_start() -> None:
    log_ratio = np.array([[0.1, -0.2, 0.3, 9.0], [1.0, 2.0, 9.0, 9.0]])
    found = token_rewards(np.array([5.0, -1.0]), log_ratio, MASK, 0.5)
    np.testing.assert_allclose(found, [[-0.05, 0.1, 4.85, 0], [-0.5, -2.0, 0, 0]], atol=1e-15)


@pytest.mark.parametrize("decay", [0.0, 0.7, 1.0])
def test_advantages_are_the_sums_of_later_errors(decay: float) -> None:
    draw = np.random.default_rng(0)
    rewards, values = draw.normal(size=(2, 2, 4)) * MASK
    found = advantages(rewards, values, MASK, decay)
    for row, n_tokens in enumerate((3, 2)):
        after = [*values[row, 1:n_tokens], 0.0]
        errors = [rewards[row, t] + after[t] - values[row, t] for t in range(n_tokens)]
        for t in range(n_tokens):
            want = sum(decay ** (k - t) * errors[k] for k in range(t, n_tokens))
            assert found[row, t] == pytest.approx(want, abs=1e-12)
    assert not found[MASK == 0].any()
    if decay == 1:  # what came, less what was expected
        want = np.cumsum(rewards[:, ::-1], axis=1)[:, ::-1] - values
        np.testing.assert_allclose(found, want * MASK, atol=1e-12)
    white = whitened(found, MASK)
    assert white[MASK > 0].mean() == pytest.approx(0, abs=1e-12)
    assert white[MASK > 0].std() == pytest.approx(1, abs=1e-6)


def test_a_token_gains_nothing_beyond_the_clip() -> None:
    ratio = torch.tensor([[1.5, 0.5, 1.5, 0.5, 1.1]]).log().requires_grad_()
    advantage, mask = torch.tensor([[1.0, -1.0, -1.0, 1.0, 1.0]]), torch.ones(1, 5)
    loss, clipped = clipped_loss(ratio, advantage, mask, 0.2)
    assert float(loss.detach()) == pytest.approx((-1.2 + 0.8 + 1.5 - 0.5 - 1.1) / 5)
    assert float(clipped) == pytest.approx(2 / 5)
    loss.backward()
    assert [bool(each) for each in ratio.grad[0]] == [False, False, True, True, True]


def test_a_padded_batch_reads_as_each_row_alone(model: Path) -> None:
    """And as the engine does, whatever the lengths of prompts and answers."""
    from pyroclast.train.on_policy import engine_logprobs
    from pyroclast.train.trl_run import load_trained
    from pyroclast.train.value_head import ValueHead, read

    policy, _ = load_trained(model)
    head = ValueHead(CONFIG.d_model)
    head.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    prompts, answers = [[5], [1, 2, 3, 4], [7, 7]], [[1, 2, 3], [4], [9, 8]]
    with torch.no_grad():
        together = read(policy.eval(), head, prompts, answers, 0)
        for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            alone = read(policy, head, [prompt], [answer], 0)
            for name in ("logprobs", "values", "entropies"):
                got = getattr(together, name)[i, : len(answer)]
                torch.testing.assert_close(got, getattr(alone, name)[0], atol=1e-5, rtol=1e-5)
    with LLM(model, compute="float32") as llm:
        theirs = engine_logprobs(llm, prompts, answers)
    for i, row in enumerate(theirs):
        np.testing.assert_allclose(together.logprobs[i, : len(row)], row, atol=1e-4)
    assert together.entropies.max() <= math.log(CONFIG.vocab_size)


def test_the_value_head_works_in_the_scale_of_the_rewards() -> None:
    from pyroclast.train.value_head import ValueHead

    head = ValueHead(4)
    head.follow(np.array([90.0, 110.0]))
    assert head.rewards_of(np.array([0.0, 1.0])).tolist() == pytest.approx([100, 110])
    assert head.units_of(np.array([100.0, 110.0])).tolist() == pytest.approx([0, 1])
    head.follow(np.array([200.0, 200.0]))
    assert head.rewards_of(0.0) == pytest.approx(110), "a tenth of the way"


def test_held_out_prompts_are_rewarded_more_and_a_stopped_run_gives_the_same_bits(
    model: Path, asked: Path, tmp_path: Path
) -> None:
    from pyroclast.train import rl

    def run(out: str, on_line: Any = None) -> Any:
        settings = replace(SETTINGS, steps=8, beside="q8_0")
        return rl(model, asked, tmp_path / out, reward=capitals, settings=settings, on_line=on_line)

    def stop(line: dict[str, Any]) -> None:
        if line["step"] == 3:
            raise KeyboardInterrupt

    lines: list[dict[str, Any]] = []
    found = run("whole", lines.append)
    assert found.after["reward"] > found.before["reward"] + 1
    assert 0 < found.after["kl"] < 5
    assert [line["step"] for line in lines] == list(range(1, 9))
    for line in lines:
        assert line["rollout_max_logprob_diff"] <= 1e-4
        assert line["rollout_kl"] < 1e-8 < line["rollout_kl_q8_0"]
        assert 0 <= line["clip_fraction"] < 1
        assert math.isfinite(line["value_loss"]) and math.isfinite(line["kl"])
    assert lines[0]["kl"] < 1e-8 < lines[-1]["kl"], "it begins at the start"
    with pytest.raises(KeyboardInterrupt):
        run("stopped", stop)
    assert (tmp_path / "stopped" / "step-2").is_dir()
    run("stopped")
    whole, resumed = (
        (tmp_path / out / "final" / "model.safetensors").read_bytes()
        for out in ("whole", "stopped")
    )
    assert whole == resumed
    with LLM(found.final) as llm:
        assert llm.generate("say")


def test_equal_rewards_leave_the_values_in_scale(
    model: Path, asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyroclast.train import ppo, rl

    def none(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [0.0] * len(completion_ids)

    def watched(log_ratio: Any, *rest: Any) -> Any:
        ratios.append(float(log_ratio.detach().abs().max()))
        return clipped_loss(log_ratio, *rest)

    ratios: list[float] = []
    lines: list[dict[str, Any]] = []
    monkeypatch.setattr(ppo, "clipped_loss", watched)
    settings = replace(SETTINGS, steps=3)
    rl(model, asked, tmp_path / "run", reward=none, settings=settings, on_line=lines.append)
    assert ratios[0] <= 1e-4, "the policy that sampled is the one that learns"
    assert all(line["kl"] > 0 for line in lines[1:]), "returns hold the KL reward alone"
    assert all(line["value_loss"] < 10 for line in lines)


def test_an_adapter_learns_from_quantized_rollouts_and_no_number_ends_the_run(
    model: Path, asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyroclast.train import ppo, rl

    settings = replace(
        SETTINGS, steps=3, save_every=1, method="lora", rank=2, rollouts="q8_0", batch=4, group=1
    )

    def run() -> Any:
        return rl(model, asked, tmp_path / "run", reward=capitals, settings=settings)

    def broken(log_ratio: Any, *rest: Any) -> Any:
        loss, share = clipped_loss(log_ratio, *rest)
        is_second = (tmp_path / "run" / "step-1").is_dir()
        return loss * (math.nan if is_second else 1.0), share

    monkeypatch.setattr(ppo, "clipped_loss", broken)
    with pytest.raises(TrainingError, match="loss of step 2 is nan: the run has diverged"):
        run()
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "run").glob("step-*")] == ["step-1"]
    kept = torch.load(tmp_path / "run" / "step-1" / "training_state.pt", weights_only=True)
    assert all(bool(each.isfinite().all()) for each in kept["weights"].values())
    assert {"value_head.weight", "value_head.scale"} < set(kept["weights"])
    assert all("lora" in name or "value_head" in name for name in kept["weights"])
    found = run()
    assert found.after["kl"] > 0, "the adapter has changed"
    assert found.about["rollout_max_logprob_diff"] > 1e-4, "quantized"
    with LLM(model, adapters={"policy": found.final}) as llm:
        assert llm.score("say", adapter="policy") != llm.score("say")


def test_answers_are_compared_by_grpo_alone() -> None:
    with pytest.raises(TrainingError, match=r"^group must be at least 2 for grpo.* got 1$"):
        RlSettings(group=1)
    assert RlSettings(algorithm="ppo", group=1).group == 1
