"""Examples: what is refused, and which tokens count in the loss."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tiny
from pyroclast.errors import TemplateError, TrainingError
from pyroclast.text.tokenizer import Tokenizer
from pyroclast.train.examples import NO_LOSS, encode, example_of, longest_answer, read_examples
from pyroclast.train.task import examples
from training_chats import CHAT, FORGETFUL, TEMPLATE, UNMARKED


def tokenizer_of(folder: Path, template: str | None) -> Tokenizer:
    tiny.write_hf_tokenizer(folder, tiny.BASE)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return Tokenizer.from_folder(folder)


def answers_of(tokenizer: Tokenizer, value: dict[str, object]) -> list[str]:
    """The runs of tokens that count in the loss, as text."""
    encoded = encode(tokenizer, example_of(value, "x"), 512)
    runs: list[list[int]] = []
    for before, label in zip([NO_LOSS, *encoded.labels], encoded.labels, strict=False):
        if label != NO_LOSS:
            if before == NO_LOSS:
                runs.append([])
            runs[-1].append(label)
    assert all(label in (NO_LOSS, i) for i, label in zip(encoded.ids, encoded.labels, strict=True))
    return [tokenizer.decode(run, skip_special_tokens=False) for run in runs]


def test_only_answers_count_each_with_its_end(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, TEMPLATE)
    assert answers_of(tokenizer, CHAT) == ["an<|eos|>", "the an<|eos|>"]
    encoded = encode(tokenizer, example_of(CHAT, "x"), 512)
    whole = tokenizer.encode_chat(CHAT["messages"], add_generation_prompt=False)
    assert encoded.ids == whole[: len(encoded.ids)]
    assert longest_answer([encoded]) == sum(label != NO_LOSS for label in encoded.labels)


def test_a_completion_follows_the_prompt_as_generate_reads_it(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, None)
    value = {"prompt": "the in", "completion": " the"}
    assert answers_of(tokenizer, value) == [" the<|eos|>"]
    encoded = encode(tokenizer, example_of(value, "x"), 512)
    prompt = tokenizer.encode("the in")
    assert encoded.ids[: len(prompt)] == prompt


@pytest.mark.parametrize("template", [UNMARKED, FORGETFUL])
def test_a_template_that_marks_no_answers_is_refused(tmp_path: Path, template: str) -> None:
    tokenizer = tokenizer_of(tmp_path, template)
    with pytest.raises(TemplateError, match=r"line 3: .* does not mark where an answer begins"):
        encode(tokenizer, example_of(CHAT, "d.jsonl, line 3"), 512)


def test_a_model_without_a_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match=r'^x: has messages, but .*give "prompt" and "compl'):
        encode(tokenizer_of(tmp_path, None), example_of(CHAT, "x"), 512)


def test_what_a_template_refuses_is_named_with_its_line(tmp_path: Path) -> None:
    picky = "{% if m is undefined %}{{ raise_exception('no such turn') }}{% endif %}"
    with pytest.raises(TemplateError, match=r"^d\.jsonl, line 3: .*no such turn"):
        encode(tokenizer_of(tmp_path, picky), example_of(CHAT, "d.jsonl, line 3"), 512)


def test_a_long_example_is_refused(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, TEMPLATE)
    n_tokens = len(encode(tokenizer, example_of(CHAT, "x"), 512).ids)
    assert len(encode(tokenizer, example_of(CHAT, "x"), n_tokens).ids) == n_tokens
    with pytest.raises(TrainingError, match=f"has {n_tokens} tokens, more than max_tokens"):
        encode(tokenizer, example_of(CHAT, "x"), n_tokens - 1)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2: not valid JSON"),
        ("[1]", "line 2: must be a JSON object"),
        ('{"prompt": "a"}', "line 2: its keys are 'prompt'; a line is"),
        ('{"prompt": "a", "completion": ""}', "line 2: completion must be a text that is not"),
        ('{"prompt": 1, "completion": "b"}', "line 2: prompt must be a text"),
        ('{"messages": []}', "line 2: messages must be a list of at least two"),
        ('{"messages": {"role": "user"}}', "line 2: messages must be a list"),
        (
            '{"messages": [{"role": "user"}, {"role": "assistant"}]}',
            "role and content of each message",
        ),
        ('{"messages": 5}', "line 2: messages must be a list"),
        ('{"messages": [{"content": "a"}, {"role": "assistant", "content": "b"}]}', "role and"),
        (json.dumps({"messages": CHAT["messages"][1:3]}), "line 2: the last message must be an"),
    ],
)
def test_a_line_that_is_no_example_is_named(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n' + line + "\n")
    with pytest.raises(TrainingError, match=words):
        read_examples(path)


def test_missing_and_empty_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"none\.jsonl: no such file"):
        read_examples(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(TrainingError, match=r"empty\.jsonl: holds no examples; a line is"):
        read_examples(tmp_path / "empty.jsonl")


def test_the_default_task_has_different_sentences_and_their_answers() -> None:
    found = examples(200, seed=1)
    sentences = {each["messages"][1]["content"] for each in found}
    assert len(sentences) == len(found) == 200
    assert found == examples(200, seed=1) != examples(200, seed=2)
    for each in found:
        order = json.loads(each["messages"][2]["content"])
        words = each["messages"][1]["content"]
        assert all(order[key] in words for key in ("name", "item", "city", "day"))
        assert list(order) == ["count", "name", "item", "city", "day"]
        assert 2 <= order["count"] <= 12
