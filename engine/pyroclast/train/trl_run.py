"""What the recipes over trl share: settings of its trainers, checkpoints, the log, and the end."""

from __future__ import annotations

import importlib
import json
import logging
import math
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyroclast.checkpoint.find import find_model
from pyroclast.errors import TrainingError
from pyroclast.train.base_model import loaded
from pyroclast.train.disk import WRITE_ERRORS, cannot_write
from pyroclast.train.export import export
from pyroclast.train.extra import needed
from pyroclast.train.log import OnLine, RunLog, read_lines
from pyroclast.train.preference_settings import TrainerSettings
from pyroclast.train.result import speed_of
from pyroclast.train.run_folder import RunFolder
from pyroclast.train.shapes import n_parameters, transformers_quietly
from pyroclast.train.trl_curve import draw_figures

_CURVES = {
    "loss": "loss",
    "rewards/margins": "margin",
    "accuracy": "accuracy",
    "reward": "reward",
    "kl": "KL from the start",
    "value_loss": "loss of the values",
    "rollout_max_logprob_diff": "rollout, difference",
}
_OUR_NAMES = {"grad_norm": "gradient_norm", "clip_ratio/region_mean": "clip_fraction"}
_WORK = ".trl.part"  # trl writes a checkpoint there, and the run takes it when it is whole


def arguments(settings: TrainerSettings, folder: RunFolder) -> dict[str, Any]:
    """Arguments that all configs of trl's trainers take."""
    n_rows = _micro_batch(settings)
    return {
        "output_dir": str(folder.path / _WORK),
        "max_steps": settings.steps,
        "per_device_train_batch_size": n_rows,
        "gradient_accumulation_steps": settings.batch // n_rows,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": round(settings.warmup * settings.steps),
        "max_grad_norm": settings.clip,
        "seed": settings.seed,
        "save_strategy": "steps",
        "save_steps": settings.save_every,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
    }


def _micro_batch(settings: TrainerSettings) -> int:
    """The rows of a pass: trl's micro-batches all have the same size, but for the last one of an
    epoch, which weighs as much as the others."""
    sizes = range(min(settings.micro_batch, settings.batch), 0, -1)
    return next(size for size in sizes if settings.batch % size == 0)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Without the bars, advice and warnings of transformers and trl, where our bar stands."""
    transformers_quietly()
    needed("datasets").disable_progress_bars()
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # trl warns of what `rl` means to do
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def base_folder(model: str | Path, folder: RunFolder) -> Path:
    """The model as a Hugging Face folder; a GGUF file is dequantized into the run's."""
    path, to_format = find_model(str(model))
    if to_format is not None:
        raise TrainingError(f"{model}: a model is trained in float32; leave out @{to_format}")
    if path.is_dir():
        return path
    base = folder.path / "base"
    if not base.is_dir():
        with folder.writing(base.name) as part:
            export(path, part)
            _name_class(part / "config.json")
    return base


def _name_class(path: Path) -> None:
    """Adds what trl reads where it loads the start of a run a second time."""
    names = importlib.import_module("transformers.models.auto.modeling_auto")
    config = json.loads(path.read_text(encoding="utf-8"))
    found = names.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config["model_type"])
    if found is not None:
        path.write_text(json.dumps(config | {"architectures": [found]}, indent=1) + "\n", "utf-8")


def load_trained(folder: Path) -> tuple[Any, Any]:
    """(model in float32, tokenizer) of a Hugging Face folder."""
    model = loaded("AutoModelForCausalLM", folder)
    if not model.config.architectures:
        raise TrainingError(
            f"{folder / 'config.json'}: names no architectures, which trl reads; add "
            f'"architectures": ["{type(model).__name__}"]'
        )
    return model, load_tokenizer(folder)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder, with a token to pad with."""
    tokenizer = loaded("AutoTokenizer", folder)
    if tokenizer.eos_token is None:
        raise TrainingError(f"{folder}: the tokenizer has no token that ends a text")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def lora(method: str, rank: int, base: str | Path) -> Any:
    """peft's config of an adapter of all products; None where the whole model is trained."""
    if method == "full":
        return None
    return needed("peft").LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(base),
    )


def train(
    trainer: Any,
    settings: TrainerSettings,
    folder: RunFolder,
    on_line: OnLine | None,
    *,
    kept: Iterable[str],
    more: Callable[[], dict[str, Any]] = dict,
) -> None:
    """Runs a trainer to its last step, from the newest checkpoint on.  kept: what of trl's log goes
    into a line of ours; more gives what else belongs there."""
    checkpoint = folder.checkpoint()
    first = 0 if checkpoint is None else checkpoint[0]
    with RunLog(folder.path, settings.steps, first, on_line) as log:
        trainer.remove_callback(needed("transformers").PrinterCallback)
        trainer.add_callback(_callback(folder, log, tuple(kept), more))
        path = None if checkpoint is None else str(checkpoint[1])
        if first < settings.steps:
            with _disk_errors(folder):
                trainer.train(resume_from_checkpoint=path)
        else:  # `train` would do one step more
            trainer._load_from_checkpoint(path)  # noqa: SLF001 - there is no public way


@contextmanager
def _disk_errors(folder: RunFolder) -> Iterator[None]:
    """What a checkpoint raises that cannot be written is a TrainingError.  The callback takes those
    that are whole, so one that is still there was being written."""
    try:
        yield
    except WRITE_ERRORS as error:
        begun = next((folder.path / _WORK).glob("checkpoint-*"), None)
        if begun is None:
            raise
        target = folder.path / begun.name.replace("checkpoint", "step")
        raise cannot_write(target, error, folder.resume_hint()) from error
    finally:
        shutil.rmtree(folder.path / _WORK, ignore_errors=True)


def save_final(model: Any, tokenizer: Any, folder: RunFolder) -> dict[str, Any]:
    """Writes what was trained: a model, or an adapter.  Gives the facts of the run."""
    with folder.writing("final") as part:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
    lines = read_lines(folder.path / "log.jsonl")
    draw_figures(folder.path / "curve.svg", lines, _CURVES)
    return {
        "parameters": n_parameters(model),
        "precision": "float32",
        **speed_of(lines),
    }


def _callback(
    folder: RunFolder,
    log: RunLog,
    kept: tuple[str, ...],
    more: Callable[[], dict[str, Any]],
) -> Any:
    n_before = 0

    class Callback(needed("transformers").TrainerCallback):  # type: ignore[misc]
        """Takes trl's checkpoints into the run's folder, and its log into the run's."""

        def on_train_begin(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
            nonlocal n_before
            n_before = int(state.num_input_tokens_seen)  # where the trainer resumes its count

        def on_save(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
            found = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            folder.take_step(state.global_step, found)
            log.pause()

        def on_log(self, _: Any, state: Any, __: Any, logs: Any = None, **___: Any) -> None:
            nonlocal n_before
            if logs is None or "loss" not in logs:
                return
            loss = float(logs["loss"])
            if not math.isfinite(loss) or not math.isfinite(float(logs.get("grad_norm", 0.0))):
                raise TrainingError(
                    f"the loss of step {state.global_step} is {loss}: the run has diverged; lower "
                    "learning_rate and use a new folder"
                )
            n_all = int(logs.get("num_tokens", 0))
            line = {
                _OUR_NAMES.get(name, name): float(logs[name])
                for name in ("grad_norm", *kept)
                if logs.get(name) is not None
            }
            log.step(state.global_step, loss, n_all - n_before, **line, **more())
            n_before = n_all

    return Callback()
