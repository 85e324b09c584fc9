"""bench/rollouts.py on a tiny model: what it counts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import tiny
from pyroclast import LLM
from training_chats import TEMPLATE

torch = pytest.importorskip("torch", reason="`make oracle-deps` installs torch")
rollout_speed = pytest.importorskip("pyroclast.train.rollout_speed")
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]  # of transformers


def test_both_kinds_of_answers_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(tiny.BASE, n_layers=1, max_seq_len=256)
    model = tiny.write_folder(tmp_path / "model", config, tiny.random_weights(config))
    (model / "chat_template.jinja").write_text(TEMPLATE)
    result, n_threads = tmp_path / "rollouts.json", torch.get_num_threads()
    words = ["--model", str(model), "--group", "2", "--max-tokens", "4", "--repeat", "1"]
    rollout_speed.main("", [*words, "--threads", "1", "--json", str(result)])
    torch.set_num_threads(n_threads)
    rows = json.loads(result.read_text())["rows"]
    assert [(row["engine"], row.get("answers")) for row in rows] == [
        (engine, answers)
        for answers in ("full", "ended")
        for engine in ("pyroclast", "transformers", "pyroclast q8_0")
    ] + [("update float32", None), ("update q8_0", None)]
    assert rows[1]["ratio"]["median"] == 1 and rows[0]["n_prompts"] == 8
    assert "times transformers" in capsys.readouterr().out


def test_what_follows_the_end_of_an_answer_is_not_counted(tmp_path: Path) -> None:
    config = replace(tiny.BASE, n_layers=1, max_seq_len=256)
    model = tiny.write_folder(tmp_path / "model", config, tiny.random_weights(config))
    with LLM(model) as llm:
        [end, *_] = sorted(llm.tokenizer.eos_token_ids)
        answers = [[7, end, end, end], [7, 7, 7, 7], [end, end, end, end]]

        class Policy:
            def generate(self, input_ids: object, **_: object) -> object:
                return torch.cat([input_ids, torch.tensor(answers)], 1)

        work = rollout_speed.Work([[1], [1, 2], [3]], 4, is_open=True)
        assert rollout_speed._theirs(Policy(), llm, work, 0) == 2 + 4 + 1
