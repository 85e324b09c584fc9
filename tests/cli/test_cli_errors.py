"""Wrong usage and errors are one line each; help has examples, and terminals colours."""

import io
import shlex

import pytest

from pyroclast.cli import main as cli
from pyroclast.cli import terminal

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


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["generate", "x", "-m", "no/such/file.gguf"], "no such file"),
        (["generate", "x", "-m", __file__], "test_cli_errors.py"),
        (["tokenize", "x", "-m", "no/such/file.gguf"], "no such file"),
        (["generate", "", "-m", "MODEL"], "empty"),
        (["generate", "x", "-m", "MODEL", "-n", "9999"], "the context holds 256"),
        (["generate", "x", "-m", "MODEL", "--kernels", "norm"], "op[.format]=variant"),
        (["generate", "x", "-m", "MODEL", "--compute", "int3"], "compute must be"),
        (
            ["generate", "x", "-m", "MODEL", "--adapter", "a=no/file"],
            "'a': no/file: cannot be read",
        ),
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


def test_a_file_that_cannot_be_written_is_one_line(run, model, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "out.json")

    monkeypatch.setattr("pyroclast.cli.text.tokenize", full)
    code, out, err = run("tokenize", "x", "-m", model)
    assert (code, out) == (1, "")
    assert err == "pyroclast: error: out.json: No space left on device\n"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        *(
            ([*argv, "--threads", given], f"--threads/-t: must be between 1 and 1024, got {given}")
            for argv in (["generate", "x"], ["serve"], ["bench"], ["tune"], ["profile"])
            for given in (0, 1025, "2.0", 10**9)
        ),
        (["score", "x", "--top", 129], "--top must be between 0 and 128, got 129"),
        (["score", "-", "--context", "-"], "standard input can be TEXT or --context, not both"),
        (["chat", " "], "the message is empty"),
        (["info", "a", "--colour"], "arguments: --colour (see `pyroclast info --help`)"),
        (["generate", "x", "--structured", "{a"], "--structured: not JSON: "),
        (["generate", "x", "--structured", "null"], "must be a JSON object, got 'null'"),
        (["generate", "x", "--structured", '{"jsn": 1}'], "got the keys: jsn"),
        (["eval", "a", "--logprobs", 2], "unrecognized arguments: --logprobs 2"),
    ],
)
def test_wrong_usage_is_told_before_a_model_is_loaded(run, argv, words):
    code, out, err = run(*argv, "-m", "no-model")
    assert (code, out) == (2, "")
    assert words in err


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


def test_help_tells_the_temperature_that_is_used(run):
    assert "0: greedy; 1 (default)" in run("generate", "--help")[1]
    assert "0 (default): greedy; 1:" in run("eval", "--help")[1]


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
