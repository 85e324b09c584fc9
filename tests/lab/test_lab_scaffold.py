"""`pyroclast kernels new`: every file it writes is right, or says that it is not written yet."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyroclast_kernels
from pyroclast.cli import main as cli
from pyroclast.errors import KernelError
from pyroclast.lab.scaffold import scaffold
from pyroclast.lab.speed.child import Child
from pyroclast_kernels import user_variants
from pyroclast_kernels.errors import KernelError as KernelLibraryError
from pyroclast_kernels.native import compile as native_compile
from pyroclast_kernels.registry import OP_NAMES, folder_of, get_op
from pyroclast_kernels.selection import FUSED, Selection, all_variants

# Technologies whose templates run here; those of Triton run in tests/gpu/test_lab.py.
COMPILED = ("numba", "cython", "cpp")
TEMPLATES = Path(scaffold.__file__).parent / "templates"


def ops_of(technology: str) -> set[str]:
    """The ops that have a template."""
    return {op for op in OP_NAMES if scaffold.template(op, technology).is_file()}


WRITTEN = [(op, technology) for technology in COMPILED for op in sorted(ops_of(technology))]


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder of one's own variants."""
    folder = tmp_path / "own"
    folder.mkdir()
    monkeypatch.setenv("PYROCLAST_KERNEL_PATH", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    return folder


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Child]]:
    """A folder of variants and one process that checks them: a process takes a second to start."""
    with Child(1) as child:
        yield tmp_path_factory.mktemp("shared"), child


def test_what_has_a_template() -> None:
    """All but `sample`, whose reference has twelve stages, what other ops do too, and the ops that
    a step has only on request, with experts or with recurrent layers; in Triton, five."""
    without = {"sample", "low_rank", "gather_rows", *FUSED}
    without |= {op for op in OP_NAMES if folder_of(op) in ("route", "experts")}
    without |= {"conv1d", "l2_norm", "delta_rule", "gated_norm", "sigmoid_gate", "ssm"}
    without |= {"layer_input", "altup_predict", "altup_correct", "match_rms", "sparse_gate"}
    for technology in COMPILED:
        assert set(OP_NAMES) - ops_of(technology) == without
    assert ops_of("triton") == {"softmax", "norm", "glu", "rope", "matmul"}
    known = {scaffold.template(op, technology) for op, technology in WRITTEN}
    known |= {scaffold.template(op, "triton") for op in ops_of("triton")}
    files = {path for path in TEMPLATES.glob("*/*") if path.parent.name != "__pycache__"}
    assert {path for path in files if path.is_file()} == known


@pytest.mark.parametrize(("op", "technology"), WRITTEN, ids=map("-".join, WRITTEN))
def test_a_file_stands_alone(op: str, technology: str) -> None:
    """What templates share is pasted in, once, and nothing of a placeholder is left."""
    text = scaffold.source(op, "mine", technology)
    assert "$contract" not in text and "templates" not in text and "../" not in text
    uses_it = "quantize_block(y" in text or op == "quantize"
    definition = {
        "numba": "def quantize_block(",
        "cython": "cdef void quantize_block(",
        "cpp": "void quantize_block(",
    }
    assert text.count(definition[technology]) == uses_it


@pytest.mark.slow
@pytest.mark.parametrize(("op", "technology"), WRITTEN, ids=map("-".join, WRITTEN))
def test_a_new_variant_is_right_as_it_is_written(
    op: str, technology: str, shared: tuple[Path, Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, child = shared
    monkeypatch.setenv("PYROCLAST_KERNEL_PATH", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    why = native_compile.why_not(technology) if technology != "numba" else ""
    if why:
        pytest.skip(why)
    written = scaffold.new_variant(op, "mine", technology, None)
    job = {"do": "check", "op": op, "variant": written["variant"], "pattern": None}
    if op == "softmax":  # 530 cases: those of one size are enough
        job["pattern"] = "-17-"
    found = child.ask(job, 240)
    assert found["failures"] == [] and found["n_cases"] >= 2


@pytest.mark.parametrize("technology", [*COMPILED, "triton"])
@pytest.mark.parametrize("op", OP_NAMES)
def test_every_file_has_the_contract_and_parses(op: str, technology: str) -> None:
    text = scaffold.source(op, "mine", technology)
    words = " ".join(re.sub(r"^(#|//) ?", "", line) for line in text.splitlines())
    for line in (get_op(op).reference.__doc__ or "").splitlines():
        assert " ".join(line.split()) in " ".join(words.split())
    assert ", ".join(get_op(op).parameters[:3]) in words
    assert max(map(len, text.splitlines())) <= 100
    if technology in ("numba", "triton"):
        names = {n.name for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef)}
        unfinished = op not in ops_of(technology)
        assert (f"{op}_f32" in names) != unfinished
        assert ("NOT WRITTEN YET" in text) == unfinished


@pytest.mark.parametrize(
    ("technology", "struct", "field"),
    [
        ("cpp", r"struct Args {(.*?)};", r"(\w+);"),
        ("cython", r"cdef struct Args:(.*?)\n\n", r"(\w+)$"),
        ("numba", r"one field of 8 bytes a parameter\.\n\((.*?)\) = range\(0, ", r"(\w+),"),
        ("triton", r"\ndef (?!to_device)\w+_f32\((.*?)\):", r"(\w+),"),
    ],
)
def test_a_template_has_the_parameters_of_the_reference(
    technology: str, struct: str, field: str
) -> None:
    for op in ops_of(technology):
        body = re.search(struct, scaffold.source(op, "mine", technology), re.DOTALL)
        assert body is not None, op
        fields = re.findall(field, body[1], re.MULTILINE)
        assert tuple(map(str.lower, fields)) == get_op(op).parameters, op


def test_a_file_that_is_not_written_yet_is_listed_with_the_reason(own: Path) -> None:
    written = scaffold.new_variant("sample", "mine", "numba", None)
    assert Path(written["path"]) == own / "sample" / "numba_mine.py"
    assert "says what to write" in written["note"]
    variant = all_variants("sample")["numba-mine"]
    assert "write the kernel in" in variant.unavailable
    with pytest.raises(KernelLibraryError, match="write the kernel in"):
        Selection("sample=numba-mine").variant("sample")


def test_nothing_is_overwritten(own: Path) -> None:
    path = Path(scaffold.new_variant("norm", "mine", "cpp", None)["path"])
    path.write_text("// mine\n// OP = norm\n// FORMATS = f32\n")
    with pytest.raises(KernelError, match="cpp-mine already"):
        scaffold.new_variant("norm", "mine", "cpp", None)
    path = own / "norm" / "cpp_other.cc"
    path.write_text("no variant at all\n")
    with pytest.raises(KernelError, match="cpp-other already"):
        scaffold.new_variant("norm", "other", "cpp", None)
    assert path.read_text() == "no variant at all\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("conv", "mine", "numba"), "unknown op 'conv'; there are embed, norm"),
        (("norm", "mine", "fortran"), "unknown technology 'fortran'; there are numba, cython, cpp"),
        (("norm", "My Kernel", "numba"), "lower-case letters"),
        (("norm", "../../x", "numba"), "lower-case letters"),
    ],
)
def test_a_wrong_name_says_what_there_is(
    words: tuple[str, str, str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    op, name, technology = words
    with pytest.raises(SystemExit) as end:
        cli.main(["kernels", "new", op, name, "--tech", technology])
    assert end.value.code == 1
    assert message in capsys.readouterr().err


def test_where_the_file_goes(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = scaffold.new_variant("norm", "a", "numba", str(tmp_path / "new"))
    assert Path(given["path"]) == tmp_path / "new" / "norm" / "numba_a.py"
    assert given["options"] == f" --dir {tmp_path / 'new'}"
    assert own in Path(scaffold.new_variant("norm", "b", "numba", None)["path"]).parents
    monkeypatch.setenv("PYROCLAST_KERNEL_PATH", "")
    # In a checkout, the op's own folder; elsewhere somebody has to say.
    package = tmp_path / "checkout" / "kernels" / "pyroclast_kernels"
    package.mkdir(parents=True)
    monkeypatch.setattr(pyroclast_kernels, "__file__", str(package / "__init__.py"))
    with pytest.raises(KernelError, match="--dir FOLDER"):
        scaffold.new_variant("norm", "c", "numba", None)
    (tmp_path / "checkout" / "pyproject.toml").touch()
    inside = scaffold.new_variant("norm", "c", "numba", None)
    assert Path(inside["path"]) == package / "norm" / "numba_c.py"


def test_the_command_tells_what_comes_next(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["kernels", "new", "norm", "mine", "--tech", "cython", "--json"])
    assert end.value.code == 0
    said = json.loads(capsys.readouterr().out)
    assert said["variant"] == "cython-mine" and Path(said["path"]).exists()


# ---- how such files are found --------------------------------------------------------------------
def test_a_variant_comes_and_goes_with_its_file(own: Path) -> None:
    path = Path(scaffold.new_variant("norm", "mine", "numba", None)["path"])
    assert "numba-mine" in all_variants("norm")
    assert user_variants.path_of("norm", "numba-mine") == path
    path.unlink()
    assert "numba-mine" not in all_variants("norm")
    assert user_variants.path_of("norm", "numba-mine") is None


def test_a_file_beside_the_packages_own_is_read_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_variants, "_PACKAGE", tmp_path)
    path = tmp_path / folder_of("norm") / "numba_helper.py"
    path.parent.mkdir()
    path.write_text("# of others\n")
    assert "numba-helper" not in all_variants("norm")
    path.write_text('OP = "norm"\nFORMATS = ("f32",)\n')
    assert "numba-helper" in all_variants("norm")
    path.unlink()
    assert "numba-helper" not in all_variants("norm")
    path.symlink_to(tmp_path / "nothing")
    with pytest.raises(KernelLibraryError, match=r"numba_helper\.py cannot be read"):
        all_variants("norm")


def test_files_without_the_two_lines_are_left_alone(own: Path) -> None:
    (own / "numba_helper.py").write_text("raise SystemExit('imported')\n")
    (own / "numba_half.py").write_text('OP = "norm"\n')
    assert not {"numba-helper", "numba-half"} & set(all_variants("norm"))


def test_a_file_in_the_op_s_folder_without_the_two_lines_says_so(own: Path) -> None:
    (own / "softmax").mkdir()
    path = own / "softmax" / "numba_mine.py"
    path.write_text("def softmax_f32(args, part, n_parts): pass\n")
    with pytest.raises(KernelLibraryError, match='lacks the lines OP = "softmax" and FORMATS ='):
        Selection("softmax=numba-mine").kernel("softmax")
    assert not any(str(path) in each.unavailable for each in all_variants("norm").values())


def test_what_numba_cannot_compile_is_one_error(own: Path) -> None:
    path = own / "numba_broken.py"
    head = 'OP = "softmax"\nFORMATS = ("f32",)\n'
    path.write_text(head + "def softmax_f32(args, part, n_parts):\n    args + missing\n")
    with pytest.raises(KernelLibraryError) as raised:
        Selection("softmax=numba-broken").kernel("softmax")
    assert str(raised.value).startswith(f"{path}: Numba cannot compile softmax_f32: TypingError: ")
    assert "name 'missing' is not defined" in str(raised.value)


def test_a_rule_without_the_technology_is_told_the_whole_name(own: Path) -> None:
    (own / "numba_rows.py").write_text('OP = "softmax"\nFORMATS = ("f32",)\n')
    with pytest.raises(KernelLibraryError, match="'rows'; did you mean numba-rows"):
        Selection("softmax=rows")


def test_two_files_of_one_name_are_refused(own: Path) -> None:
    (own / "norm").mkdir()
    for folder in (own, own / "norm"):
        (folder / "numba_twin.py").write_text('OP = "norm"\nFORMATS = ("f32",)\n')
    with pytest.raises(KernelLibraryError, match="numba-twin already"):
        all_variants("norm")
    (own / "norm" / "numba_twin.py").unlink()
    assert "numba-twin" in all_variants("norm")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("numba_a.py", 'OP = "norm"\nFORMATS = ("f32",)\nimport nothing_like_it\n', "nothing_like"),
        ("numba_b.py", 'OP = "norm"\nFORMATS = ("f32",)\n', "defines no function norm_f32"),
        ("cpp_c.cc", "// OP = norm\n// FORMATS = f32\nint x = ;\n", "does not compile"),
        ("cpp_d.cc", "// OP = norm\n// FORMATS = f32\n", "exports no function norm_f32"),
    ],
)
def test_a_file_that_cannot_be_bound_says_why(
    own: Path, name: str, text: str, message: str
) -> None:
    if name.startswith("cpp") and native_compile.why_not("cpp"):
        pytest.skip(native_compile.why_not("cpp"))
    (own / name).write_text(text)
    variant = user_variants.variant_name(own / name)
    with pytest.raises(KernelLibraryError, match=message) as error:
        Selection(f"norm={variant}").kernel("norm")
    assert str(own / name) in str(error.value)


def test_a_format_that_the_op_has_not_is_told(own: Path) -> None:
    (own / "numba_a.py").write_text('OP = "norm"\nFORMATS = ("q4_0",)\n')
    assert "norm has f32" in all_variants("norm")["numba-a"].unavailable


def test_a_folder_that_does_not_exist_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYROCLAST_KERNEL_PATH", "/no/such/folder")
    with pytest.raises(KernelLibraryError, match="/no/such/folder, which is not a folder"):
        all_variants("norm")


@pytest.mark.slow
def test_a_changed_source_is_compiled_again(own: Path) -> None:
    if native_compile.why_not("cpp"):
        pytest.skip(native_compile.why_not("cpp"))
    path = Path(scaffold.new_variant("norm", "mine", "cpp", None)["path"])
    first = native_compile.shared_object(path)
    assert first == native_compile.shared_object(path) and first.exists()
    path.write_text(path.read_text() + "// changed\n")
    assert native_compile.shared_object(path) != first
