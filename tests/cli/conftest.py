"""A tiny model that chats, and commands that run in this process."""

import gc
import io
import json

import pytest

import tiny
from pyroclast.cli import main as cli

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
        try:
            with pytest.raises(SystemExit) as ended:
                cli.main([str(arg) for arg in argv])
        finally:
            gc.unfreeze()  # a command freezes what it loaded, and this process has other tests
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return call
