"""The command line on a tiny model, in this process: generate, chat, score, tokenize."""

import io
import itertools
import json

import pytest

import tiny
from lora_files import random_pairs, write_peft
from pyroclast import LLM, SamplingParams
from pyroclast.cli import flags as cli_flags
from pyroclast.cli import main as cli
from pyroclast.engine.stepper import Stepper

GREEDY = ("--temperature", 0, "--threads", 1)


# ---- generate ------------------------------------------------------------------------------


def test_generate_prints_the_text_and_nothing_else(run, model):
    with LLM(model, threads=1) as llm:
        [out] = llm.generate("a prompt", SamplingParams(temperature=0, max_tokens=9))
    assert run("generate", "a prompt", "-m", model, "-n", 9, *GREEDY) == (0, out.text + "\n", "")


def test_generate_json_holds_what_is_needed_to_repeat_it(run, model):
    args = ["generate", "a prompt", "-m", model, "-n", 9, "-t", 1, "--json"]
    code, out, err = run(*args, "--logprobs", 2)
    first = json.loads(out)
    assert (code, err) == (0, "")
    assert len(first["token_ids"]) <= 9
    assert first["finish_reason"] in ("stop", "length")
    assert first["timings"]["first_token_s"] > 0
    assert first["kernels"]["sample.f32"]
    assert (first["model"], first["threads"]) == ("tiny", 1)
    assert len(first["logprobs"][0]["top"]) == 2
    again = json.loads(run(*args, "--seed", first["seed"])[1])
    assert again["token_ids"] == first["token_ids"]
    assert again["logprobs"] is None


@pytest.mark.parametrize(
    ("flags", "params"),
    [
        (["--temperature", 0.5], {"temperature": 0.5}),
        (["--top-p", 0.5], {"top_p": 0.5}),
        (["--top-k", 3], {"top_k": 3}),
        (["--min-p", 0.3], {"min_p": 0.3}),
        (["--typical-p", 0.3], {"typical_p": 0.3}),
        (["--top-n-sigma", 1], {"top_n_sigma": 1}),
        (["--repetition-penalty", 1.5], {"repetition_penalty": 1.5}),
        (["--presence-penalty", 1], {"presence_penalty": 1}),
        (["--frequency-penalty", 1], {"frequency_penalty": 1}),
        (["--seed", 5], {"seed": 5}),
        (["--min-tokens", 3], {"min_tokens": 3}),
        (["--logprobs", 3], {"logprobs": 3}),
        (["--structured", '{"choice": ["a", "b"]}'], {"structured": {"choice": ["a", "b"]}}),
        (["-n", 3], {"max_tokens": 3}),
        (["--stop", "a", "--stop", "b"], {"stop": ("a", "b")}),
        (["--ignore-eos"], {"ignore_eos": True}),
        ([], {}),
    ],
    ids=str,
)
def test_every_flag_sets_its_parameter(flags, params):
    for command, default in (("generate", cli_flags.DEFAULT_MAX_TOKENS), ("chat", None)):
        args = cli.make_parser().parse_args([command, "x", *map(str, flags)])
        expected = SamplingParams(**{"max_tokens": default, **params})
        assert cli_flags.sampling_params(args) == expected


def test_min_tokens_above_the_default_limit_raises_it():
    args = cli.make_parser().parse_args(["generate", "x", "--min-tokens", "1000"])
    assert cli_flags.sampling_params(args).max_tokens == 1000


def test_speculation_changes_how_tokens_come_and_not_which(run, model):
    args = ("generate", "a prompt", "-m", model, "-n", 60, "--ignore-eos", *GREEDY, "--json")
    found = {how: json.loads(run(*args, "--speculation", how)[1]) for how in ("auto", "off")}
    assert found["auto"]["token_ids"] == found["off"]["token_ids"]
    timings = found["auto"]["timings"]
    assert 0 < timings["n_accepted_tokens"] <= timings["n_drafted_tokens"]
    assert found["off"]["timings"]["n_drafted_tokens"] == 0
    second = json.loads(run(*args, "--speculation", "draft", "--draft", model)[1])
    assert second["token_ids"] == found["off"]["token_ids"]
    code, out, err = run(*args, "--speculation", "eagle")
    assert (code, out) == (1, "")
    assert "speculation must be one of 'auto', 'off', 'suffix', 'draft', 'mtp', got 'eagle'" in err
    code, out, err = run(*args, "--speculation", "mtp")
    assert (code, out) == (1, "")
    assert "has no head that predicts further tokens" in err


def test_prompt_from_standard_input(run, model):
    args = ("-m", model, "-n", 4, *GREEDY, "--json")
    given = json.loads(run("generate", "für mich\n", *args)[1])
    for stdin in ("für mich\n\n", "für mich\n\r\n"):
        read = json.loads(run("generate", "-", *args, stdin=stdin.encode())[1])
        assert read["prompt_token_ids"] == given["prompt_token_ids"]


def test_text_comes_as_it_is_made(run, model, monkeypatch):
    """In one process, for who comes first between two is the machine's choice."""
    happened, step = [], Stepper.step

    def noted_step(self):
        happened.append("step")
        return step(self)

    class Noted(io.StringIO):
        def flush(self):
            if len(self.getvalue()) > sum(type(each) is int for each in happened):
                happened.append(len(self.getvalue()))

    monkeypatch.setattr(Stepper, "step", noted_step)
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", Noted())
        alone = ("--ignore-eos", "--speculation", "off")  # with drafts, a step has several tokens
        code, _, err = run("generate", "x", "-m", model, "-n", 40, *alone, *GREEDY)
    assert (code, err) == (0, "")
    written = [i for i, each in enumerate(happened) if type(each) is int]
    assert len(written) > 10
    between = [happened[a:b].count("step") for a, b in itertools.pairwise(written)]
    assert sum(n > 0 for n in between) > len(between) // 2


# ---- chat ----------------------------------------------------------------------------------


def test_chat_answers_one_message(run, model):
    messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"}]
    with LLM(model, threads=1) as llm:
        [out] = llm.chat(messages, SamplingParams(temperature=0, max_tokens=5))
    args = ("chat", "hello", "--system", "be kind", "-m", model, "-n", 5, *GREEDY)
    assert run(*args) == (0, out.text + "\n", "")
    found = json.loads(run(*args, "--json")[1])
    assert (found["text"], found["messages"]) == (out.text, messages)


def test_chat_remembers_until_reset(run, model):
    lines = b"one\ntwo\n/reset\nthree\n\n/help\n/exit\nnever\n"
    args = ("chat", "-m", model, "-n", 3, *GREEDY, "--json")
    code, out, err = run(*args, stdin=lines)
    answers = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert (code, err) == (0, "")
    asked = [[m["content"] for m in a["messages"] if m["role"] == "user"] for a in answers]
    assert asked == [["one"], ["one", "two"], ["three"]]
    assert answers[1]["messages"][1] == {"role": "assistant", "content": answers[0]["text"]}


def test_chat_ends_with_its_input(run, model):
    code, out, err = run("chat", "-m", model, "-n", 3, *GREEDY, stdin=b"one")
    assert (code, err) == (0, "")
    assert out.endswith("\n")


def test_a_full_conversation_is_told_and_can_be_reset(run, model):
    lines = b"x" * 300 + b"\n/reset\nshort\n"
    code, out, err = run("chat", "-m", model, "-n", 3, *GREEDY, stdin=lines)
    assert (code, err) == (0, "")
    assert "the conversation is full" in out.splitlines()[0]
    assert len(out.splitlines()) >= 2


# ---- score, tokenize -----------------------------------------------------------------------


def test_score(run, model):
    with LLM(model, threads=1) as llm:
        [score] = llm.score(["the end"], n_top=2)
    code, out, err = run("score", "the end", "-m", model, "-t", 1, "--top", 2)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].startswith(f"perplexity {score.perplexity:.4f}")
    assert len(out.splitlines()) == 2 + len(score.token_ids) + 2 * (len(score.token_ids) - 1)
    for token in score.logprobs[1:]:
        assert f"{token.token_id:>7}  {token.logprob:>9.4f}  {token.rank:>6}" in out
    found = json.loads(run("score", "the end", "-m", model, "-t", 1, "--json")[1])
    assert found["perplexity"] == pytest.approx(score.perplexity)
    assert found["token_ids"] == score.token_ids
    assert len(found["pieces"]) == len(score.token_ids)


def test_an_adapter_is_used_by_the_one_request(run, model, tmp_path):
    adapter = write_peft(tmp_path / "adapter", random_pairs(tiny.BASE, 3))
    flags = ("-m", model, "--threads", 1)
    named = (*flags, "--adapter", f"mine={adapter}")
    params = SamplingParams(temperature=0, max_tokens=9)
    with LLM(model, threads=1, adapters={"x": adapter}) as llm:
        [text] = llm.generate("a prompt", params, adapter="x")
        [reply] = llm.chat([{"role": "user", "content": "a prompt"}], params, adapter="x")
        [scored] = llm.score(["a prompt"], adapter="x")
        assert text.text != llm.generate("a prompt", params)[0].text
    greedy = ("-n", 9, "--temperature", 0)
    assert run("generate", "a prompt", *named, *greedy) == (0, text.text + "\n", "")
    assert run("chat", "a prompt", *named, *greedy) == (0, reply.text + "\n", "")
    found = json.loads(run("score", "a prompt", *named, "--json")[1])
    assert (found["adapter"], found["logprob"]) == ("mine", scored.logprob)
    assert "adapter" not in json.loads(run("score", "a prompt", *flags, "--json")[1])


def test_score_after_a_context(run, model):
    with LLM(model, threads=1) as llm:
        [score] = llm.score("the end", " of it")
    argv = ("score", " of it", "--context", "the end", "-m", model, "-t", 1)
    found = json.loads(run(*argv, "--json")[1])
    assert (found["context"], found["token_ids"]) == ("the end", score.token_ids)
    assert found["logprob"] == score.logprob
    assert run(*argv)[1].splitlines()[-1].startswith(f"perplexity {score.perplexity:.4f}")


def test_tokenize(run, model):
    code, out, err = run("tokenize", "the ü", "-m", model)
    assert (code, err) == (0, "")
    found = json.loads(run("tokenize", "the ü", "-m", model, "--json")[1])
    plain = json.loads(run("tokenize", "the ü", "-m", model, "--json", "--no-special")[1])
    assert found["ids"][-len(plain["ids"]) :] == plain["ids"]
    assert plain["pieces"] == ["the", " ", "\ufffd", "\ufffd"]
    assert plain["count"] == 4
    assert "b'\\xc3'" in out
    assert out.splitlines()[-1] == f"{found['count']} tokens"


def test_score_says_where_nothing_is_scored(run, model):
    _, out, _ = run("score", "x", "-m", model, "-t", 1)
    assert out.endswith(
        "nothing is scored: the only token has no context; --context gives it one\n"
    )


def test_logprobs_stand_below_a_text(run, model):
    argv = ("generate", "a", "-m", model, "-t", 1, "-n", 2, "--temperature", 0, "--logprobs", 1)
    rows = json.loads(run(*argv, "--json")[1])["logprobs"]
    assert rows[0]["top_texts"][0] == rows[0]["text"] != ""  # greedy: the likeliest
    table = run(*argv)[1].partition("  token    logprob    rank  text\n")[2].splitlines()
    assert [float(line.split()[1]) for line in table[::2]] == [
        pytest.approx(row["logprob"], abs=1e-4) for row in rows
    ]
