"""gpt-oss from end to end: a GGUF file with harmony's tokens and a template, asked over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import httpx
import numpy as np
import pytest

import tiny
from pyroclast import AsyncLLM
from pyroclast.families.registry import FAMILIES
from pyroclast.families.rope import RopeScaling
from pyroclast.families.tensors import template_of
from server_at import HELLO, serving

WORDS = ["analysis", "final", "assistant", "Hmm", "Hi"]
MARKS = ["<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|return|>", "<|call|>"]
TEMPLATE = (
    "<|start|>system<|message|>Reasoning: {{ reasoning_effort or 'medium' }}\n"
    "# Valid channels: analysis, commentary, final.<|end|>"
    "{% for message in messages %}<|start|>{{ message.role }}"
    "{% if message.role == 'assistant' %}<|channel|>final{% endif %}"
    "<|message|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
# What may follow a token; a prompt ends with the letter t.
NEXT = {
    "t": ["<|channel|>"],
    "assistant": ["<|channel|>"],
    "<|channel|>": ["analysis", "final"],
    "analysis": ["<|message|>"],
    "final": ["<|message|>"],
    "<|message|>": ["Hmm", "Hi"],
    "Hmm": ["<|end|>"],
    "<|end|>": ["<|start|>"],
    "<|start|>": ["assistant"],
    "Hi": ["<|return|>"],
    "!": ["Hmm"],
}
CONFIG = replace(
    tiny.BASE,
    family="gpt_oss",
    n_layers=2,
    n_heads=4,
    n_kv_heads=2,
    head_dim=32,
    d_model=128,
    d_ff=64,
    vocab_size=256 + len(WORDS) + len(MARKS),
    qkv_bias=True,
    o_bias=True,
    sliding_window=16,
    rope_scaling=RopeScaling("yarn", 4.0, original_max_seq_len=64, truncate=False),
    bos_token_id=None,
    eos_token_ids=(),
    extra={"n_experts": 6, "n_active": 2},
)


def vocabulary() -> list[str]:
    letters = tiny.vocabulary(replace(CONFIG, vocab_size=256))
    return [*letters, *WORDS, *MARKS]


def weights() -> tiny.Weights:
    """The layers change little of what the last token says: one of those that NEXT allows."""
    found, tokens = tiny.random_weights(CONFIG), vocabulary()
    for name in found:
        if name.rpartition(".")[2] in ("wo", "bo", "w_down_experts", "b_down_experts"):
            found[name] *= 0.05
    embeddings, output = found["token_embd"], np.zeros_like(found["output"])
    for token, others in NEXT.items():
        for other in others:
            output[tokens.index(other)] += embeddings[tokens.index(token)]
    found["output"] = 4 * output
    return found


def write_gguf(path: Path) -> Path:
    writer = gguf.GGUFWriter(path, "gpt-oss")
    tiny._add_gguf_config(writer, "gpt-oss", CONFIG)
    writer.add_key_length(32)
    writer.add_expert_count(6)
    writer.add_expert_used_count(2)
    writer.add_expert_feed_forward_length(64)
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(4.0)
    writer.add_rope_scaling_orig_ctx_len(64)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-4o")
    writer.add_token_list(vocabulary())
    writer.add_token_types([3 if token in MARKS else 1 for token in vocabulary()])
    writer.add_token_merges(["H i"])
    writer.add_eos_token_id(vocabulary().index("<|return|>"))
    writer.add_chat_template(TEMPLATE)
    names = FAMILIES["gpt_oss"].gguf_tensors
    for name, values in weights().items():
        template, layer = template_of(name)
        kind = gguf.GGMLQuantizationType["MXFP4" if name.startswith("w_", 9) else "F32"]
        if name.endswith("router"):
            kind = gguf.GGMLQuantizationType.F32
        stored = gguf.quants.quantize(values, kind)
        writer.add_tensor(names[template].format(i=layer), stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = write_gguf(tmp_path_factory.mktemp("gpt-oss") / "m.gguf")
    with serving({"m": AsyncLLM(path, device="cpu")}) as running:
        yield running.url


def ask(url: str, **more: Any) -> dict[str, Any]:
    body = {"messages": HELLO, "max_tokens": 60, "seed": 1} | more
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_reasoning_and_answer_are_split(url: str) -> None:
    choices = ask(url, n=24)["choices"]
    messages = [choice["message"] for choice in choices]
    found = {(m.get("reasoning"), m.get("content")) for m in messages}
    assert ("Hmm", "Hi") in found and (None, "Hi") in found
    for each in messages:
        assert "<|" not in str(each) and "final" not in str(each), each
    assert {choice["finish_reason"] for choice in choices} <= {"stop", "length"}


def test_a_format_holds_the_answer_behind_the_reasoning(url: str) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "integer"}}}
    choices = ask(url, n=24, response_format=form)["choices"]
    assert {bool(choice["message"].get("reasoning")) for choice in choices} == {True, False}
    for choice in choices:
        if choice["finish_reason"] == "length":  # it reasons to the limit
            continue
        assert choice["message"]["content"].strip().lstrip("-").isdecimal(), choice


def test_an_answer_that_is_begun_is_on_the_final_channel(url: str) -> None:
    """Its first text is content, where no header would follow."""
    begun = [*HELLO, {"role": "assistant", "content": "So!"}]
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "integer"}}}
    for seed in range(4):
        more = {"messages": begun, "seed": seed, "continue_final_message": True}
        [choice] = ask(url, **more)["choices"]
        assert choice["message"]["content"].startswith("Hmm")
        [choice] = ask(url, **more, response_format=form)["choices"]
        assert "reasoning" not in choice["message"]
        assert choice["message"]["content"].strip().lstrip("-").isdecimal(), choice
