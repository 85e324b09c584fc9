"""What the documents say, held against the code: commands, paths, names and the example."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import demo_path
from pyroclast.checkpoint import dummy as shapes
from pyroclast.cli import main as cli
from pyroclast.families.registry import FAMILIES
from pyroclast_kernels import matmul
from pyroclast_kernels.registry import OP_NAMES
from pyroclast_kernels.selection import FUSED, Selection, all_variants
from pyroclast_kernels.weights import formats

ROOT = Path(__file__).resolve().parent.parent
README, ARCHITECTURE, CONTRIBUTING, CHANGELOG = (
    ROOT / f"{name}.md" for name in ("README", "ARCHITECTURE", "CONTRIBUTING", "CHANGELOG")
)
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
GPU = ROOT / "docs" / "gpu.md"
DOCUMENTS = [README, ARCHITECTURE, CONTRIBUTING, CHANGELOG, GPU, *DECISIONS]
SUFFIXES = (".py", ".pyx", ".pxd", ".cpp", ".h", ".md", ".toml", ".txt")
MADE_LATER = {"bench/results/", ".venv/bin/python"}  # by a benchmark, by make
# The roots of home and working folders: a path below one is a path of somebody's machine.
LOCAL_PATH = re.compile(r"(?<![\w.~<>*-])/(?:home|Users|root|work|workspace|opt|mnt|tmp)/[\w.]")


def blocks(path: Path, *languages: str) -> list[str]:
    """The fenced blocks of a document in one of the languages."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)
    return [body for language, body in found if language in languages]


def code_words(path: Path) -> list[str]:
    """What stands in `backticks`, on one line, outside fenced blocks."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)


def commands(path: Path, program: str) -> Iterator[list[str]]:
    """The words of every command line that a document shows, comments and prompts removed."""
    shown = [line for body in blocks(path, "sh", "console") for line in body.splitlines()]
    for line in [*shown, *code_words(path)]:
        words = line.removeprefix("$ ")
        if words.split(" ")[0] == program:
            yield shlex.split(words, comments=True)


def is_path(word: str) -> bool:
    """Whether a word in backticks names a file or folder of the repository."""
    if not re.fullmatch(r"[\w.<>*/-]+", word):
        return False
    return word.endswith((*SUFFIXES, "/")) or word in ("Makefile", ".ci/run", "bench/results")


def missing(word: str) -> bool:
    """`<op>` and `*` stand for anything; a bare file name may lie anywhere in the source."""
    pattern = re.sub(r"<\w+>", "*", word).rstrip("/")
    if any(ROOT.glob(pattern)):
        return False
    folders = ("engine", "kernels", "tests", "bench")
    return "/" in word or not any(any((ROOT / each).rglob(pattern)) for each in folders)


def test_readme_opens_with_run_and_test() -> None:
    lines = [line for body in blocks(README, "sh", "console") for line in body.splitlines()]
    assert [shlex.split(line, comments=True) for line in lines[:2]] == [
        ["make", "run"],
        ["make", "test"],
    ]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_named_make_targets_exist(path: Path) -> None:
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = {words[1] for words in commands(path, "make") if len(words) > 1}
    assert named <= {*targets, "PYTHON=..."}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_named_paths_and_links_exist(path: Path) -> None:
    words = [word for word in code_words(path) if is_path(word) and word not in MADE_LATER]
    assert [word for word in words if missing(word)] == []
    links = re.findall(r"\]\(([^)#\s]+)", path.read_text())
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (path.parent / link).exists()] == []


def test_the_path_check_sees_a_missing_file() -> None:
    assert is_path("engine/pyroclast/model/model.py") and not is_path("n_heads")
    assert not missing("engine/pyroclast/model/model.py")
    assert not missing("kernels/pyroclast_kernels/<op>/reference.py")
    assert missing("engine/pyroclast/gone.py") and missing("gone.py")
    assert missing("kernels/pyroclast_kernels/<op>/gone.py")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_named_modules_and_names_exist(path: Path) -> None:
    for word in code_words(path):
        if re.fullmatch(r"pyroclast(_kernels)?(\.\w+)+", word):
            module, _, name = word.rpartition(".")
            if importlib.util.find_spec(module) is None:
                pytest.fail(f"{word}: there is no module {module}")
            owner = importlib.import_module(module)
            found = hasattr(owner, name) or (
                hasattr(owner, "__path__") and importlib.util.find_spec(word) is not None
            )
            assert found, word


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_parse(path: Path) -> None:
    parser = cli.make_parser()
    for words in commands(path, "pyroclast"):
        if len(words) > 1:
            args = parser.parse_args(cli.join_words(words[1:]))
            rules = getattr(args, "kernels", None) or ""
            assert args.command == cli.join_words(words[1:])[0]
            assert "<op>" in rules or Selection(rules).rules == rules


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_named_benchmarks_have_these_flags(path: Path) -> None:
    for words in commands(path, ".venv/bin/python"):
        if words[1].startswith("bench/"):
            source = (ROOT / words[1]).read_text()
            if "arguments.add(" in source:  # flags that several scripts share
                source += (ROOT / "bench" / "peers" / "arguments.py").read_text()
            flags = {word for word in words if re.fullmatch("--?[a-z]+", word)}
            assert [flag for flag in flags if f'"{flag}"' not in source] == []


def named_commands() -> set[str]:
    """Those that the README names."""
    lines = commands(README, "pyroclast")
    return {cli.join_words(words[1:])[0] for words in lines if len(words) > 1}


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_is_in_the_readme_and_has_help(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command in named_commands()
    with pytest.raises(SystemExit) as end:
        cli.make_parser().parse_args([command, "--help"])
    assert end.value.code == 0
    assert f"pyroclast {command}" in capsys.readouterr().out


def test_no_command_in_the_readme_is_unknown() -> None:
    named = named_commands()
    assert named <= set(cli.COMMANDS)


def test_readme_names_every_family_format_and_shape() -> None:
    words = set(code_words(README))
    quantized = set(formats.FORMATS) - set(matmul.FORMATS)
    assert {*FAMILIES, *matmul.FORMATS, *quantized, *shapes.SHAPES} <= words
    row = next(line for line in README.read_text().splitlines() if "computed as they are |" in line)
    assert set(re.findall(r"`(\w+)`", row)) == set(matmul.FORMATS)


@pytest.mark.parametrize("technology", ["numba", "cython"])
def test_readme_says_which_ops_have_no_such_variant(technology: str) -> None:
    lines = [x for x in README.read_text().splitlines() if x.startswith("- Numba and Cython var")]
    without = {op for op in OP_NAMES if technology not in all_variants(op)} - FUSED.keys()
    assert set(re.findall(r"`(\w+)`", " ".join(lines))) == without


def test_the_example_runs() -> None:
    demo_path()  # skips without the demo model
    [example] = blocks(README, "python")
    assert len(example.strip().splitlines()) <= 12
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        exec(compile(example, "README.md", "exec"), {"__name__": "example"})
    assert "Paris" in shown.getvalue()


def test_figures_have_their_json() -> None:
    """A table in the marked block of the README, and in no other place there, names its file."""
    text = README.read_text()
    inside = re.findall(r"<!-- bench:begin -->\n(.*?)<!-- bench:end -->", text, re.DOTALL)
    assert len(inside) == 1
    named = re.findall(r"bench/results/[\w.-]+\.json", inside[0])
    assert [name for name in named if not (ROOT / name).is_file()] == []
    assert named or not re.search(r"\d", inside[0]), "figures without the JSON they come from"
    assert not re.search(r"\d (tokens/s|Gop/s|GB/s)", text.replace(inside[0], ""))


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.name)
def test_a_decision_has_its_four_parts(path: Path) -> None:
    text = path.read_text()
    number = int(path.name.split("-")[0])
    assert text.startswith(f"# {number}. ")
    parts = re.findall(r"^\*\*(\w+)\.\*\* ", text, re.MULTILINE)
    assert parts == ["Context", "Decision", "Alternatives", "Consequence"]


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = [int(path.name.split("-")[0]) for path in DECISIONS]
    assert numbers == list(range(1, len(DECISIONS) + 1)) and numbers


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    done = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip("not a git checkout")
    found = []
    for name in filter(None, done.stdout.split("\0")):
        path = ROOT / name
        if path.is_file():
            for i, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
                if LOCAL_PATH.search(line):
                    found.append(f"{name}:{i}")
    assert found == []


@pytest.mark.parametrize("folder", ["home", "Users", "work", "opt"])
def test_the_search_finds_such_a_place(folder: str) -> None:
    assert LOCAL_PATH.search(f"see '/{folder}/somebody/model.gguf'")
    assert not LOCAL_PATH.search(f"https://example.org/{folder}/x and a/{folder}/b")
