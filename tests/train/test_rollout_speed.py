"""bench/rollouts.py on a tiny model: what it counts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import tiny
from pyroclast import LLM
from pyroclast.train.preference_settings import RlSettings
from training_chats import TEMPLATE

torch = pytest.importorskip("torch", reason="`make oracle-deps` installs torch")
rollout_speed = pytest.importorskip("pyroclast.train.rollout_speed")
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]  # of transformers


def test_rounds_are_the_steps_of_the_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(tiny.BASE, n_layers=1, max_seq_len=256)
    model = tiny.write_folder(tmp_path / "model", config, tiny.random_weights(config))
    (model / "chat_template.jinja").write_text(TEMPLATE)
    result, n_threads = tmp_path / "rollouts.json", torch.get_num_threads()
    words = ["--model", str(model), "--batch", "4", "--max-tokens", "4", "--repeat", "1"]
    rollout_speed.main("", [*words, "--threads", "1", "--json", str(result)])
    torch.set_num_threads(n_threads)
    rows = json.loads(result.read_text())["rows"]
    engines = ["pyroclast", "transformers", "pyroclast q8_0", "update float32", "update q8_0"]
    assert [row["engine"] for row in rows] == engines
    assert rows[1]["ratio"]["median"] == 1
    assert (rows[0]["batch"], rows[0]["group"]) == (4, RlSettings().group)
    assert "times transformers" in capsys.readouterr().out


def test_every_round_has_groups_of_other_prompts(tmp_path: Path) -> None:
    config = replace(tiny.BASE, n_layers=1, max_seq_len=256)
    model = tiny.write_folder(tmp_path / "model", config, tiny.random_weights(config))
    with LLM(model) as llm:
        rounds = rollout_speed._rounds(llm, 3, 2, 4)
    assert [len(each) for each in rounds] == [8, 8, 8]
    firsts = [each[i] for each in rounds for i in (0, 4)]
    assert len(set(map(tuple, firsts))) == 6
    assert all(each[i : i + 4] == [each[i]] * 4 for each in rounds for i in (0, 4))


def test_a_batch_is_whole_groups(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        rollout_speed.main("", ["--batch", "6", "--group", "4"])
    assert "--batch must be a multiple of --group (4), got 6" in capsys.readouterr().err


def test_what_follows_the_end_of_an_answer_is_not_counted(tmp_path: Path) -> None:
    config = replace(tiny.BASE, n_layers=1, max_seq_len=256)
    model = tiny.write_folder(tmp_path / "model", config, tiny.random_weights(config))
    with LLM(model) as llm:
        [end, *_] = sorted(llm.tokenizer.eos_token_ids)
        answers = [[7, end, end, end], [7, 7, 7, 7], [end, end, end, end]]

        class Policy:
            def generate(self, input_ids: object, **_: object) -> object:
                return torch.cat([input_ids, torch.tensor(answers)], 1)

        work = rollout_speed.Work([[[1], [1, 2], [3]]], 4, 1)
        assert rollout_speed._theirs(Policy(), llm, work, 0) == 2 + 4 + 1
