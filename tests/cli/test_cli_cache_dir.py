"""--cache-dir: the next process goes on where the last one ended."""

import json

import pytest

import tiny
from pyroclast.cli import main as cli

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
TEXT = "the theory and an answer " * 3


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache") / "tiny"
    tiny.write_folder(folder, tiny.BASE, tiny.random_weights(tiny.BASE))
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": TEMPLATE}))
    return str(folder)


def run(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    return ended.value.code, *capsys.readouterr()


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_the_second_run_reads_the_prompt_from_disk(command, model, tmp_path, capsys):
    words = [command, TEXT, "--model", model, "-t", "1", "-n", "2", "--temperature", "0", "--json"]
    flags = ["--cache-dir", tmp_path / "pages", "--cache-dir-bytes", 10**8]
    found = []
    for _ in range(2):
        code, out, _ = run(capsys, *words, *flags)
        assert code == 0
        found.append(json.loads(out))
    assert found[0]["text"] == found[1]["text"]
    cached = [each["timings"]["n_cached_tokens"] for each in found]
    assert cached[0] == 0 and cached[1] >= 32


def test_a_bound_that_is_too_small_is_an_error(model, tmp_path, capsys):
    flags = ["--cache-dir", tmp_path / "pages", "--cache-dir-bytes", 100]
    code, out, err = run(capsys, "generate", TEXT, "--model", model, *flags)
    assert (code, out) == (1, "")
    assert "cache_dir_bytes must be at least" in err and len(err.splitlines()) == 1


def test_serve_hands_the_folder_on(model, tmp_path, monkeypatch):
    from pyroclast.cli import serve

    made = {}

    class EndedError(Exception):
        pass

    def load(name, **options):
        made.update(options)
        raise EndedError

    monkeypatch.setattr("pyroclast.async_llm.AsyncLLM", load)
    args = cli.make_parser().parse_args(
        ["serve", model, "--cache-dir", str(tmp_path), "--cache-dir-bytes", "7"]
    )
    with pytest.raises(EndedError):
        serve._load(args)
    assert (made["cache_dir"], made["cache_dir_bytes"]) == (str(tmp_path), 7)
