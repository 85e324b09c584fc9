"""What the documents say, held against the code: commands, paths, names and the example."""

from __future__ import annotations

import calendar
import contextlib
import importlib.util
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from demo import demo_path
from documents import (
    DECISIONS,
    DOCUMENTS,
    MADE_LATER,
    NOTES,
    README,
    ROOT,
    blocks,
    code_words,
    commands,
    is_path,
    missing,
)
from pyroclast.checkpoint import dummy as shapes
from pyroclast.cli import main as cli
from pyroclast.families.registry import FAMILIES
from pyroclast_kernels import matmul
from pyroclast_kernels.registry import OP_NAMES, folder_of
from pyroclast_kernels.selection import FUSED, Selection, all_variants
from pyroclast_kernels.weights import formats


def test_readme_opens_with_install_run_and_test() -> None:
    lines = [line for body in blocks(README, "sh", "console") for line in body.splitlines()]
    assert [shlex.split(line, comments=True) for line in lines[:3]] == [
        ["pip", "install", "pyroclast-lm[server]"],
        ["make", "run"],
        ["make", "test"],
    ]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_named_make_targets_exist(path: Path) -> None:
    targets = re.findall(r"^([a-z0-9-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
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
            command = [sys.executable, str(ROOT / words[1]), "--help"]
            shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            known = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", shown))
            flags = {word for word in words if re.fullmatch("--?[a-z-]+", word)}
            assert flags and flags <= known


# ---- README --------------------------------------------------------------------------------


def test_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 150


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


@pytest.mark.parametrize(
    ("technology", "folders"),
    [
        ("numba", set()),
        (
            "cython",
            {
                "route",
                "experts",
                "conv1d",
                "delta_rule",
                "gated_norm",
                "l2_norm",
                "layer_input",
                "altup",
                "sparse_gate",
                "ssm",
            },
        ),
    ],
)
def test_readme_says_which_ops_have_no_such_variant(technology: str, folders: set[str]) -> None:
    without = {op for op in OP_NAMES if technology not in all_variants(op)} - FUSED.keys()
    assert {folder_of(op) for op in without} == folders
    assert not folders or "and for experts, recurrent layers, per-layer" in README.read_text()


def test_the_example_runs() -> None:
    demo_path()  # skips without the demo model
    [example] = blocks(README, "python")
    assert len(example.strip().splitlines()) <= 11  # ten, and a blank one
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        exec(compile(example, "README.md", "exec"), {"__name__": "example"})
    assert "Paris" in shown.getvalue()


def test_readme_says_which_formats_numba_and_cython_lack() -> None:
    line = r"^- Numba and Cython kernels for (.*?), Cython kernels for\s(.*?), and for"
    [rows] = re.findall(line, README.read_text(), re.M | re.S)
    both, only_cython = (set(re.findall(r"`(\w+)`", row)) for row in rows)
    variants = all_variants("matmul")
    assert both == set(matmul.FORMATS) - set(variants["numba"].formats)
    assert both | only_cython == set(matmul.FORMATS) - set(variants["cython"].formats)


# ---- figures -------------------------------------------------------------------------------

RESULT = re.compile(r"bench/results/[\w.-]+\.json")
FIGURE = re.compile(r"\d (tokens/s|Gop/s|GB/s)|\d x|\d times")


def test_readme_has_figures_only_beside_their_json() -> None:
    text = README.read_text()
    [inside] = re.findall(r"<!-- bench:begin -->\n(.*?)<!-- bench:end -->", text, re.DOTALL)
    assert RESULT.search(inside) and FIGURE.search(inside)
    assert not FIGURE.search(text.replace(inside, ""))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_named_results_exist(path: Path) -> None:
    named = [name for name in RESULT.findall(path.read_text()) if not name.endswith("_local.json")]
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_every_chapter_of_figures_on_the_speed_page_names_its_json() -> None:
    chapters = (ROOT / "docs" / "speed.md").read_text().split("\n## ")[1:]
    with_figures = [chapter for chapter in chapters if FIGURE.search(chapter)]
    without_file = [c.splitlines()[0] for c in with_figures if not RESULT.search(c)]
    # The figures of the missed targets are those of the table before them.
    assert without_file == ["Targets that are missed"]


# ---- decisions and notes -------------------------------------------------------------------


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.name)
def test_a_decision_has_its_four_parts(path: Path) -> None:
    text = path.read_text()
    number = int(path.name.split("-")[0])
    assert text.startswith(f"# {number}. ")
    parts = re.findall(r"^\*\*(\w+)\.\*\* ", text, re.MULTILINE)
    assert parts == ["Context", "Decision", "Alternatives", "Consequence"]
    assert len(text.splitlines()) <= 20, "a decision is short; a log belongs in docs/notes/"


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = [int(path.name.split("-")[0]) for path in DECISIONS]
    assert numbers == list(range(1, len(DECISIONS) + 1)) and numbers


@pytest.mark.parametrize("path", NOTES, ids=lambda path: path.name)
def test_a_note_has_a_date_and_a_decision(path: Path) -> None:
    year, month = re.fullmatch(r"(20\d\d)-(\d\d)-[a-z0-9-]+\.md", path.name).groups()
    title = path.read_text().splitlines()[0]
    assert title.endswith(f"({calendar.month_name[int(month)]} {year})")
    linking = [each for each in DECISIONS if f"../notes/{path.name}" in each.read_text()]
    assert linking, "no decision links to this note"
