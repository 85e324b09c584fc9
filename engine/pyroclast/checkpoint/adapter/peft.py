"""A folder that peft wrote: adapter_config.json and adapter_model.safetensors."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from pyroclast.checkpoint.adapter.pairs import Pair, StoredPair, match_pairs, product_keys
from pyroclast.checkpoint.adapter.peft_config import PeftConfig
from pyroclast.checkpoint.parts import Naming, StoredTensor
from pyroclast.errors import ModelFileError, UnsupportedModelError
from pyroclast.families.config import ModelConfig
from pyroclast.families.family import Family
from pyroclast.families.hf_names import table_names
from pyroclast.files.safetensors import SafetensorsFile
from pyroclast.files.small_file import CONFIG_BYTES, read_small_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"


def open_weights(folder: Path) -> SafetensorsFile:
    """The file of an adapter's tensors."""
    if not (folder / WEIGHTS).exists():
        pickled = folder / "adapter_model.bin"
        hint = f" ({pickled.name} is a pickle, which can run code; convert it)"
        raise ModelFileError(f"{folder}: no {WEIGHTS}{hint if pickled.exists() else ''}")
    return SafetensorsFile(str(folder / WEIGHTS))


def peft_pairs(
    folder: Path, file: SafetensorsFile, family: Family, config: ModelConfig
) -> dict[str, Pair]:
    """What the folder adds to each weight of a model of that family and config."""
    try:
        peft = PeftConfig.read(read_small_json(folder / CONFIG, CONFIG_BYTES))
    except FileNotFoundError as error:
        raise ModelFileError(f"{folder}: no {CONFIG}") from error
    _check_targets(peft, family)
    modules = _modules(file)
    pairs: dict[str, StoredPair] = {}
    for module, (a, b) in modules.items():
        if not peft.targets_it(module):
            raise ModelFileError(f"tensor {a.name!r} is for no module in target_modules")
        if a.shape[:1] != (peft.rank_of(module),):
            raise ModelFileError(
                f"tensor {a.name!r} has shape {a.shape}, but {CONFIG} says rank "
                f"{peft.rank_of(module)}"
            )
        pairs[f"{module}.weight"] = StoredPair(a, b, peft.scale_of(module))
    found = {table: pairs[name] for name, table in table_names(family, pairs).items()}
    naming = Naming.of_folder(family)
    matched = match_pairs(config, naming, found)
    _check_complete(peft, found, product_keys(config, naming))
    return matched


def _check_targets(peft: PeftConfig, family: Family) -> None:
    """UnsupportedModelError for the embedding and the output head."""
    for name in ("token_embd", "position_embd", "output"):
        module = family.hf_tensors.get(name, "").removesuffix(".weight")
        if module and peft.targets_it(module):
            raise UnsupportedModelError(
                f"target_modules names {module!r}: only products of layers can be changed, not "
                "the embedding and the output head"
            )


def _modules(file: SafetensorsFile) -> dict[str, tuple[StoredTensor, StoredTensor]]:
    """A and B of each module of the model that was trained."""
    stored = {
        info.name: StoredTensor(
            info.name, info.shape, info.dtype, info.format, file.file, info.offset
        )
        for info in file.tensors.values()
    }
    modules = {}
    for name in stored:
        module = name.removesuffix(_A).removesuffix(_B)
        if module == name or not name.startswith(_PREFIX):
            raise UnsupportedModelError(
                f"tensor {name!r} is no matrix of plain LoRA; only {_PREFIX}...{_A} and {_B} are "
                "supported"
            )
        for other in (module + _A, module + _B):
            if other not in stored:
                raise ModelFileError(f"tensor {other!r} is missing")
        modules[module.removeprefix(_PREFIX)] = stored[module + _A], stored[module + _B]
    return modules


def _check_complete(
    peft: PeftConfig, found: Collection[str], products: Iterable[tuple[str, int]]
) -> None:
    """ModelFileError unless the file has every module that target_modules names."""
    if peft.excludes:
        return
    for key, layer in products:
        named = peft.targets_it(key.removesuffix(".weight"))
        if named and key not in found and (peft.layers is None or layer in peft.layers):
            raise ModelFileError(
                f"target_modules names {key!r} of the base model, but the file has nothing for it"
            )
