"""Imports point one way: tests, bench -> pyroclast -> pyroclast_kernels -> numpy.

The rules are read off the source (AST), so nothing is imported; each rule is also shown to fail
on a small tree that breaks it.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE_ROOTS = {"pyroclast": "engine", "pyroclast_kernels": "kernels"}
TECHNOLOGIES = ("numba", "cython", "cpp", "triton")  # how a variant's file or folder begins
# Nobody imports these at import time.
OPTIONAL_ROOMS = ("pyroclast.server", "pyroclast.lab.evaluate.harness")
HEAVY = {"numba", "llvmlite", "torch", "triton"}  # only inside a variant's own file
ARRAYS = HEAVY | {"numpy"}
# The rooms of both packages from the top down: folders, or modules of their own, by import name.  A
# module may import what stands in a row below its own, and what is in its own room.  The longest
# name that fits counts.  Ops share one room: they use each other's pieces, without circles.
RANKS = [
    ("pyroclast.__main__",),
    ("pyroclast.cli",),
    ("pyroclast.server",),
    (
        "pyroclast.lab.gpu",
        "pyroclast.lab.report",
        "pyroclast.lab.scaffold",
        "pyroclast.lab.serving",
    ),
    ("pyroclast.lab.peers", "pyroclast.lab.profile"),
    ("pyroclast.lab.tune", "pyroclast.train"),
    ("pyroclast.lab.speed",),
    ("pyroclast.lab.check",),
    ("pyroclast.lab", "pyroclast.lens"),
    ("pyroclast",),  # the public face
    ("pyroclast.async_llm",),
    ("pyroclast.llm",),
    ("pyroclast.engine",),
    ("pyroclast.model",),
    ("pyroclast.checkpoint",),
    ("pyroclast.families",),
    ("pyroclast.text",),
    ("pyroclast.files", "pyroclast.sampling"),
    ("pyroclast.errors", "pyroclast.progress"),
    ("pyroclast_kernels",),
    ("pyroclast_kernels.listing", "pyroclast_kernels.timeline", "pyroclast_kernels.gpu"),
    ("pyroclast_kernels.OPS", "pyroclast_kernels.ceiling"),
    ("pyroclast_kernels.batch", "pyroclast_kernels.cases"),
    ("pyroclast_kernels.memory", "pyroclast_kernels.mapped_file"),
    ("pyroclast_kernels.file_loading",),
    ("pyroclast_kernels.program",),
    ("pyroclast_kernels.selection",),
    ("pyroclast_kernels.user_variants", "pyroclast_kernels.tuned"),
    ("pyroclast_kernels.cython", "pyroclast_kernels.numba"),
    ("pyroclast_kernels.registry",),
    ("pyroclast_kernels.triton",),
    ("pyroclast_kernels.weights",),
    ("pyroclast_kernels.tables", "pyroclast_kernels.native"),
    (
        "pyroclast_kernels.q8_blocks",
        "pyroclast_kernels.features",
        "pyroclast_kernels.huge_pages",
        "pyroclast_kernels.table_files",
    ),
    ("pyroclast_kernels.cache_folder", "pyroclast_kernels.whole_file"),
    ("pyroclast_kernels.errors", "pyroclast_kernels.cgroups"),
]
RANK_OF = {room: i for i, row in enumerate(RANKS) for room in row}
OPS = (
    "activation", "altup", "attention", "conv1d", "delta_rule", "embed", "experts", "gated_norm",
    "gather_rows", "l2_norm", "layer_input", "low_rank", "matmul", "norm", "qk_norm", "residual",
    "rope", "route", "sample", "scale_logits", "softmax", "sparse_gate", "ssm",
)  # fmt: skip
# The plans of a step are plain Python on plain ints.
NO_ARRAYS = (
    "pyroclast.engine.scheduler",
    "pyroclast.engine.blocks",
    "pyroclast.engine.prefix_cache",
    "pyroclast.engine.partial_blocks",
    "pyroclast.engine.speculate",
    "pyroclast.errors",
)
# Scripts that other Pythons run by path: what each imports beside the standard library, NumPy and
# the two modules that all of them share.
WORKERS = "pyroclast.lab.peers.workers"
SHARED_BY_WORKERS = {"protocol", "tokens"}
ENGINES = {
    "ctranslate2_worker": {"ctranslate2"},
    "ik_worker": set(),
    "llama_worker": {"llama_cpp"},
    "openvino_worker": {"openvino", "openvino_genai"},
    "pyroclast_worker": {"pyroclast"},
    "transformers_gpu": {"torch", "transformers"},
    "transformers_worker": {"torch", "transformers"},
}
# Times other libraries, in this process, beside our own kernels.
COMPARISON = "pyroclast.lab.speed.sampling_peers"
# Recipes run torch, transformers and peft, each inside a function.
TRAINING = "pyroclast.train"
# Runs the server in a cluster: the one module that knows Ray.
CLUSTER = "pyroclast.server.ray_app"
DISTRIBUTIONS = {  # import name -> the requirement that brings it, where the two differ
    "huggingface_hub": "huggingface-hub",
    "lm_eval": "lm-eval",
    "llama_cpp": "llama-cpp-python",
    "llvmlite": "numba",
    "markupsafe": "jinja2",
    "prometheus_client": "prometheus-client",
}


@dataclass(frozen=True)
class Import:
    """One import: the module that has it, what it asks for, and when it happens."""

    module: str
    target: str  # a module of ours by its full name, another by its first part
    line: int
    late: bool  # inside a function
    typing_only: bool  # under `if TYPE_CHECKING:`

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


def modules(root: Path) -> dict[str, Path]:
    """Every Python module of the two packages, by its import name.

    Templates are none: `kernels new` copies them to where a variant's own file belongs."""
    found = {}
    for package, folder in SOURCE_ROOTS.items():
        for path in sorted((root / folder / package).rglob("*.py")):
            if "templates" in path.relative_to(root).parts:
                continue
            parts = path.relative_to(root / folder).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def targets(node: ast.AST, module: str, is_package: bool, known: dict[str, Path]) -> list[str]:
    """The absolute names that an import statement asks for; [] for any other node."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        parts = module.split(".")
        parent = parts[: len(parts) - node.level + is_package]
        base = ".".join([*parent, *([node.module] if node.module else [])])
    full = [f"{base}.{alias.name}" for alias in node.names]
    return [name if name in known else base for name in full]


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def imports(root: Path) -> list[Import]:
    """Every import statement in the two packages; here they are read once for all rules."""
    return imports_here() if root == ROOT else read_imports(root)


@cache
def imports_here() -> list[Import]:
    return read_imports(ROOT)


def read_imports(root: Path) -> list[Import]:
    known = modules(root)
    found = []

    def walk(node: ast.AST, module: str, path: Path, late: bool, typing_only: bool) -> None:
        for name in targets(node, module, path.name == "__init__.py", known):
            ours = name.split(".")[0] in SOURCE_ROOTS
            target = name if ours else name.split(".")[0]
            found.append(Import(module, target, node.lineno, late, typing_only))
        late |= isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        typing_only |= is_type_checking(node)
        for child in ast.iter_child_nodes(node):
            walk(child, module, path, late, typing_only)

    for module, path in known.items():
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        walk(tree, module, path, late=False, typing_only=False)
    return found


def reachable(edges: dict[str, set[str]], start: str) -> set[str]:
    """Every module that importing `start` may bring in, itself excluded unless on a cycle."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        new = edges.get(waiting.pop(), set()) - seen
        seen |= new
        waiting += new
    return seen


def graph(root: Path, *, late: bool) -> dict[str, set[str]]:
    """module -> what it imports at run time; with or without the imports inside functions."""
    edges: dict[str, set[str]] = {}
    for item in imports(root):
        if not item.typing_only and (late or not item.late):
            edges.setdefault(item.module, set()).add(item.target)
    return edges


def is_variant(module: str) -> bool:
    """Whether a module belongs to one technology, and is loaded only where that runs."""
    package, _, rest = module.partition(".")
    parts = rest.split(".")
    return package == "pyroclast_kernels" and (
        parts[0] == "gpu" or any(part.startswith(TECHNOLOGIES) for part in parts)
    )


def is_worker(module: str) -> bool:
    """Whether a module is a script that the Python of another engine runs."""
    return module.rpartition(".")[0] == WORKERS


def room_of(module: str) -> str | None:
    """The room of RANKS that a module is in; None if it has no rank.

    The package's own name is the room of its __init__ alone: a new module needs a rank."""
    parts = module.split(".")
    if parts[0] == "pyroclast_kernels" and parts[1:2] and parts[1] in OPS:
        return "pyroclast_kernels.OPS"
    for n in range(len(parts), 1, -1):
        if ".".join(parts[:n]) in RANK_OF:
            return ".".join(parts[:n])
    return module if module in RANK_OF else None


# ---- the rules: each yields what breaks it -------------------------------------------------------
def kernels_know_no_engine(root: Path) -> Iterator[str]:
    for item in imports(root):
        if item.module.startswith("pyroclast_kernels") and (
            item.target.split(".")[0] == "pyroclast"
        ):
            yield str(item)


def heavy_only_in_variants(root: Path) -> Iterator[str]:
    for item in imports(root):
        exempt = item.typing_only or is_variant(item.module) or is_worker(item.module)
        exempt |= item.module == COMPARISON and item.late
        exempt |= room_of(item.module) == TRAINING and item.late
        if item.target in HEAVY and not exempt:
            yield str(item)


def variants_are_loaded_late(root: Path) -> Iterator[str]:
    """No module brings a heavy package in just by being imported, but a variant's own file."""
    edges = graph(root, late=False)
    for module in modules(root):
        found = reachable(edges, module) & HEAVY
        if found and not is_variant(module) and not is_worker(module):
            yield f"{module} brings in {', '.join(sorted(found))}"


def every_module_has_a_rank(root: Path) -> Iterator[str]:
    for module in modules(root):
        if room_of(module) is None:
            yield f"{module} has no rank: give its folder a row in RANKS"


def imports_point_down(root: Path) -> Iterator[str]:
    """Late imports and imports for typing count: they tie rooms together as much."""
    for item in imports(root):
        here, there = room_of(item.module), room_of(item.target)
        ours = item.target.split(".")[0] in SOURCE_ROOTS
        if not ours or here is None or there is None or here == there:
            continue
        if RANK_OF[there] <= RANK_OF[here] and item.module not in SOURCE_ROOTS:
            yield f"{item}: {there} does not stand below {here}"


def no_circles(root: Path) -> Iterator[str]:
    """No module needs itself in the end, late imports and imports for typing included.

    The face of a package names what it hands on, and is left out."""
    edges: dict[str, set[str]] = {}
    for item in imports(root):
        if item.module not in SOURCE_ROOTS and item.target != item.module:
            edges.setdefault(item.module, set()).add(item.target)
    for module in modules(root):
        if module in reachable(edges, module):
            yield f"{module} imports itself in the end"


def plain_modules_have_no_arrays(root: Path) -> Iterator[str]:
    edges = graph(root, late=False)
    for module in NO_ARRAYS:
        found = reachable(edges, module) & ARRAYS
        if found:
            yield f"{module} brings in {', '.join(sorted(found))}"


def third_party_is_declared(root: Path) -> Iterator[str]:
    """At import time only core dependencies; inside a function, and in a room that belongs to an
    extra, those of an extra, too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [r for names in project["optional-dependencies"].values() for r in names]
    core = {requirement_name(r) for r in project["dependencies"]}
    any_extra = core | {requirement_name(r) for r in extras}
    for item in imports(root):
        if item.target.split(".")[0] in SOURCE_ROOTS or item.target in sys.stdlib_module_names:
            continue
        if is_worker(item.module):  # see workers_stand_alone
            continue
        late = item.late or item.typing_only or is_variant(item.module)
        is_optional = item.module.startswith(OPTIONAL_ROOMS)
        allowed = any_extra if late or is_optional else core
        if DISTRIBUTIONS.get(item.target, item.target) not in allowed:
            yield f"{item}, which is not a declared {'' if late else 'core '}dependency"


def ray_is_for_the_cluster(root: Path) -> Iterator[str]:
    """Ray takes seconds to import, and few have it."""
    for item in imports(root):
        if item.target == "ray" and not (item.module == CLUSTER and item.late):
            yield str(item)


def workers_stand_alone(root: Path) -> Iterator[str]:
    """A worker runs where there may be no Pyroclast, and nobody else imports its engine."""
    for item in imports(root):
        name = item.target.removeprefix(f"{WORKERS}.")
        if is_worker(item.module):
            engine = ENGINES.get(item.module.rpartition(".")[2], set())
            allowed = sys.stdlib_module_names | {"numpy"} | SHARED_BY_WORKERS | engine
            if item.target.split(".")[0] not in allowed:
                yield f"{item}, which its Python may not have"
        elif is_worker(item.target) and name not in SHARED_BY_WORKERS:
            yield f"{item}, which only another Python runs"


def requirement_name(requirement: str) -> str:
    """numpy of "numpy>=1.26"."""
    return re.split(r"[<>=!~ \[;]", requirement, maxsplit=1)[0]


RULES: list[Callable[[Path], Iterator[str]]] = [
    kernels_know_no_engine,
    heavy_only_in_variants,
    variants_are_loaded_late,
    every_module_has_a_rank,
    imports_point_down,
    no_circles,
    plain_modules_have_no_arrays,
    third_party_is_declared,
    ray_is_for_the_cluster,
    workers_stand_alone,
]
# For each rule a tree that breaks it: {file: source}, and words of the message.
BREAKERS: dict[str, tuple[dict[str, str], str]] = {
    "kernels_know_no_engine": (
        {"kernels/pyroclast_kernels/registry.py": "def f():\n    from pyroclast import errors\n"},
        "pyroclast_kernels.registry:2 imports pyroclast",
    ),
    "heavy_only_in_variants": (
        {"engine/pyroclast/model/model.py": "def f():\n    import torch.nn\n"},
        "pyroclast.model.model:2 imports torch",
    ),
    "variants_are_loaded_late": (
        {
            "kernels/pyroclast_kernels/softmax/numba.py": "import numba\n",
            "kernels/pyroclast_kernels/softmax/__init__.py": "from . import numba\n",
        },
        "pyroclast_kernels.softmax brings in numba",
    ),
    "every_module_has_a_rank": (
        {"engine/pyroclast/helper.py": ""},
        "pyroclast.helper has no rank",
    ),
    "imports_point_down": (
        {
            "engine/pyroclast/families/config.py": "def f():\n    import pyroclast.llm\n",
            "engine/pyroclast/llm.py": "",
        },
        "pyroclast.families.config:2 imports pyroclast.llm",
    ),
    "no_circles": (
        {
            "engine/pyroclast/model/a.py": "def f():\n    from pyroclast.model import b\n",
            "engine/pyroclast/model/b.py": "if TYPE_CHECKING:\n    from .a import x\n",
        },
        "pyroclast.model.a imports itself",
    ),
    "plain_modules_have_no_arrays": (
        {
            "engine/pyroclast/engine/blocks.py": "import pyroclast.engine.batch_writer\n",
            "engine/pyroclast/engine/batch_writer.py": "import numpy as np\n",
        },
        "pyroclast.engine.blocks brings in numpy",
    ),
    "third_party_is_declared": (
        {"engine/pyroclast/llm.py": "import starlette\n"},
        "not a declared core dependency",
    ),
    "ray_is_for_the_cluster": (
        {"engine/pyroclast/server/ray_app.py": "import ray\n"},
        "pyroclast.server.ray_app:1 imports ray",
    ),
    "workers_stand_alone": (
        {
            "engine/pyroclast/lab/peers/workers/protocol.py": "import json\n",
            "engine/pyroclast/lab/peers/workers/llama_worker.py": (
                "import llama_cpp\nfrom protocol import serve\nfrom pyroclast import errors\n"
            ),
        },
        "llama_worker:3 imports pyroclast, which its Python may not have",
    ),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_source_keeps_the_rule(rule: Callable[[Path], Iterator[str]]) -> None:
    assert len(modules(ROOT)) > len(SOURCE_ROOTS)
    assert list(rule(ROOT)) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rule_sees_a_breach(rule: Callable[[Path], Iterator[str]], tmp_path: Path) -> None:
    files, message = BREAKERS[rule.__name__]
    for name, source in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)
    assert any(message in breach for breach in rule(tmp_path))


def test_only_another_python_runs_an_engine(tmp_path: Path) -> None:
    """What the package itself may import of the workers is what all of them share."""
    folder = tmp_path / "engine" / "pyroclast" / "lab" / "peers"
    (folder / "workers").mkdir(parents=True)
    for name in ("llama_worker", "tokens"):
        (folder / "workers" / f"{name}.py").write_text("")
    (folder / "arena.py").write_text(f"from {WORKERS} import llama_worker, tokens\n")
    [breach] = workers_stand_alone(tmp_path)
    assert breach == (
        f"pyroclast.lab.peers.arena:1 imports {WORKERS}.llama_worker, which only another Python "
        "runs"
    )


def test_importing_the_package_brings_in_nothing_heavy() -> None:
    """The start-up budget: arrays, compilers and tokenizers are loaded when first used."""
    late = sorted(ARRAYS | {"tokenizers", "jinja2", "tqdm", "safetensors", "asyncio"})
    code = f"import pyroclast, sys; print([name for name in {late} if name in sys.modules])"
    paths = [str(ROOT / folder) for folder in SOURCE_ROOTS.values()]
    run = [sys.executable, "-c", f"import sys; sys.path[:0] = {paths}\n{code}"]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
