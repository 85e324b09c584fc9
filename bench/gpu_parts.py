"""What bench/gpu.sh measures, the most important first, and what it aims at.

A step is one request to one process (gpu_worker.py).  Steps of a process share what it has loaded:
a model is made once for all its rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from gpu_sizes import FORMATS, Sizes
from pyroclast.checkpoint import dummy as shapes
from pyroclast.families.registry import FAMILIES
from pyroclast.model.kv_cache import BLOCK_SIZE


@dataclass(frozen=True)
class Target:
    """What a row aims at: its value, its share of a ceiling, or another number of it."""

    what: str  # "share", or the key of a number in the row
    bound: float
    at_least: bool = True

    def met(self, row: dict[str, Any]) -> bool | None:
        """None where there is no number to hold against it."""
        number = row.get(self.what)
        if number is None:
            return None
        return number >= self.bound if self.at_least else number <= self.bound

    def __str__(self) -> str:
        if self.what == "ok":
            return "holds"
        sign = ">=" if self.at_least else "<="
        bound = f"{self.bound:.0%}" if self.what == "share" else f"{self.bound:g}"
        return f"{sign} {bound}"


@dataclass(frozen=True)
class Step:
    """A request.  share_of: the ceiling that its rows are held against.  ahead: it compiles, which
    takes long, and measures nothing: all of these are asked for at once, while the tests run, and
    waited for before anything is measured.  repeats: asked for until nothing comes.  quick: also
    of a --quick run."""

    part: str
    test: str
    worker: str
    do: str
    arguments: dict[str, Any] = field(default_factory=dict)
    limit_s: float = 40
    share_of: str = ""
    target: Target | None = None
    ahead: bool = False
    repeats: bool = False
    quick: bool = False


def share(bound: float) -> Target:
    return Target("share", bound)


def steps(sizes: Sizes) -> list[Step]:
    """All of them, in their order; build, tests and comparisons are not among them."""
    largest, *others = (_peer_steps(size, sizes) for size in sizes.models)
    return [
        Step("ceilings", "ceilings", "ceilings", "measure", limit_s=60, quick=True),
        *_first_steps(sizes),
        *_kernel_steps(sizes),
        *largest,
        *_truth_steps(sizes),
        *(step for peer in others for step in peer),
        *_more_steps(sizes),
        Step(
            "suite", "suite", "ops", "suite", {
                "seconds": 0.05,
                "ops": _list(sizes.suite_ops),
                "cases": _list(sizes.suite_cases),
            },
            limit_s=45, share_of="cold", repeats=True,
        ),
    ]  # fmt: skip


def _list(names: tuple[str, ...] | None) -> list[str] | None:
    return None if names is None else list(names)


# ---- the engine --------------------------------------------------------------------------------


def _decode(part: str, label: str, sizes: Sizes, batch: int, depth: int | None = None) -> Step:
    depth = sizes.depth if depth is None else depth
    name = f"{label} decode b{batch}" + (f" @ {depth}" if depth != sizes.depth else "")
    arguments = {"n_batch": batch, "n_depth": depth, "n_gen": sizes.n_gen}
    return Step(part, name, f"engine {label}", "decode", arguments, 45, "copy")


def _first_steps(sizes: Sizes) -> list[Step]:
    """Every model: loading, one sequence; of the largest, all that has a target."""
    found = []
    least = {
        "8B BF16": 0.80, "1B BF16": 0.60, "8B int8": 0.65, "8B 4-bit": 0.50,
    }  # fmt: skip
    for size, model in sizes.models.items():
        for name in sizes.formats:
            label, format = f"{size} {name}", FORMATS[name]
            one = _decode(label, label, sizes, 1)
            if label in least:
                one = replace(one, target=share(least[label]))
            loading = _loading(label, f"{model}@{format}", sizes)
            found += [replace(loading, quick=size == "8B"), replace(one, quick=size == "8B")]
            if size == "8B":
                found += [_ops(label, sizes, 1), _decode(label, label, sizes, sizes.most)]
            if label == "8B BF16":
                found[-1] = replace(found[-1], quick=True)
                found += _largest_steps(label, sizes)
    if sizes.demo:
        found += [_loading("135M", sizes.demo, sizes), _decode("135M", "135M", sizes, 1)]
    return found


def _ops(label: str, sizes: Sizes, batch: int) -> Step:
    arguments = {"n_batch": batch, "n_depth": sizes.depth}
    return Step(label, f"{label} ops of a step b{batch}", f"engine {label}", "breakdown", arguments)


def _largest_steps(label: str, sizes: Sizes) -> list[Step]:
    worker, prompt = f"engine {label}", {"n_prompt": sizes.prompt, "repetitions": sizes.repetitions}
    no_more = Target("value", 50.0, at_least=False)
    return [
        _ops(label, sizes, sizes.most),
        Step(
            label, f"{label} prefill {sizes.prompt}", worker, "prefill", prompt, 60, "matmul",
            share(0.60), quick=True,
        ),
        Step(
            label, f"{label} GPU idle between steps", worker, "gaps", {"n_depth": sizes.depth}, 40,
            target=no_more, quick=True,
        ),
    ]  # fmt: skip


def _loading(label: str, model: str, sizes: Sizes) -> Step:
    """A cache for the largest of the label's rows, and a block to spare for each sequence."""
    ends = [(1, sizes.prompt + 8), (sizes.most, sizes.depth + sizes.n_gen)]
    ends += [(1, depth + sizes.n_gen) for depth in sizes.depths]
    ends += [(batch, sizes.depth + sizes.n_gen) for batch in sizes.batches]
    arguments = {
        "model": model,
        "n_blocks": max(n * (-(-(end + 8) // BLOCK_SIZE) + 1) for n, end in ends) + 8,
        "max_batch_tokens": sizes.max_batch_tokens,
        "max_seqs": sizes.max_seqs,
    }
    name, worker = f"{label} load", f"engine {label}"
    return Step(label, name, worker, "load", arguments, 120, ahead=True)


def _more_steps(sizes: Sizes) -> list[Step]:
    """Depths and batch sizes that have no target."""
    labels = [f"{size} {name}" for size in sizes.models for name in sizes.formats]
    deep = [_decode("depth", label, sizes, 1, d) for d in sizes.depths for label in labels]
    wide = [
        _decode("batches", label, sizes, batch)
        for batch in sizes.batches
        for label in labels
        if label.endswith("BF16") or batch in sizes.batches[-1:]
    ]
    return deep + wide


# ---- kernels, peers, fidelity --------------------------------------------------------------------


def _kernel_steps(sizes: Sizes) -> list[Step]:
    found = []
    for format in sizes.caches:
        target = share(0.80) if format == sizes.caches[0] else None
        arguments = {"heads": list(sizes.heads), "n_cached": sizes.cached, "n_batch": 1}
        arguments["format"] = format
        name = f"attention {format}, {sizes.cached} cached"
        found.append(
            Step("kernels", name, "ops", "attention", arguments, 60, "copy", target, quick=True)
        )
    for n_batch, most_us in ((1, 30.0), (sizes.most, 120.0)):
        common = {"vocab_size": sizes.vocabulary, "n_batch": n_batch}
        target = Target("value", most_us, at_least=False)
        for sampler in sizes.samplers:
            name = f"softmax and sampling ({sampler}) b{n_batch}"
            has_target = target if sampler in ("temperature", "top-k top-p") else None
            arguments = {**common, "sampler": sampler}
            found.append(
                Step("kernels", name, "ops", "sample", arguments, target=has_target, quick=True)
            )
        found.append(Step("kernels", f"softmax alone b{n_batch}", "ops", "softmax", common))
    return found


def hf_config(shape: str) -> dict[str, Any]:
    """A shape as config.json has it."""
    config = shapes.SHAPES[shape]
    family = FAMILIES[config.family]
    found = {key: getattr(config, name) for name, key in family.hf_keys.items()}
    found |= {"model_type": family.hf_model_type, "hidden_act": "silu"}
    scaling = config.rope_scaling
    if scaling is not None:
        found["rope_scaling"] = {
            "rope_type": scaling.kind,
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_seq_len,
        }
    return found


def _peer_steps(size: str, sizes: Sizes) -> list[Step]:
    """Loading, compiling, decoding with the weights of one of the models."""
    worker, part = f"transformers {size}", "transformers"
    shape = sizes.models[size].removeprefix(shapes.PREFIX)
    arguments = {"n_batch": 1, "n_depth": sizes.depth, "n_gen": sizes.n_gen}
    return [
        Step(part, f"{worker} load", worker, "load", {"config": hf_config(shape)}, 90, ahead=True),
        Step(part, f"{worker} compile", worker, "prepare", arguments, 100, ahead=True),
        Step(part, f"{worker} BF16 decode b1", worker, "decode", arguments, 60),
    ]


def _truth_steps(sizes: Sizes) -> list[Step]:
    small = sizes.small
    right = Target("ok", True)

    def truth(test: str, do: str, target: Target | None, **arguments: Any) -> Step:
        return Step("fidelity", test, "truth", do, arguments, 60, target=target)

    mixed = {"lengths": list(sizes.lengths), "n_gen": min(12, sizes.text)}
    scored = {"n_tokens": sizes.scored}
    exact = {"compute": "float32", "n_gen": sizes.text}
    return [
        truth("same bits in any batch, BF16", "batch", right, model=f"{small}@bf16", **mixed),
        truth("same bits in any batch, int8", "batch", right, model=f"{small}@q8_0", **mixed),
        truth("quantized products", "products", right, formats=None, pattern=sizes.pattern),
        truth("BF16 logits, KL from float32", "logits", None, model=f"{small}@bf16", **scored),
        truth("int8 logits, KL from float32", "logits", None, model=f"{small}@q8_0", **scored),
        truth("greedy text in float32", "greedy", right, model=f"{small}@q8_0", **exact),
        truth("greedy text in int8", "greedy", None, model=f"{small}@q8_0", compute="auto",
              n_gen=sizes.text),
    ]  # fmt: skip
