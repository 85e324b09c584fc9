"""Kinds of torture that change a file and then use it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import tiny
from pyroclast.families.read_hf import hyperparameters_from_hf
from pyroclast.families.registry import FAMILIES, config_of
from pyroclast.files.small_file import CONFIG_BYTES, read_small_json
from pyroclast.text.tokenizer import Tokenizer
from torture import bases, mutate, others, use
from torture.cases import kind_of
from torture.gguf_image import mutated
from torture.packed_image import PackedImage, mutated_packed
from torture.tokenizer_parts import TOKENIZERS

# ---- GGUF ----------------------------------------------------------------------------------

_KEYS = sorted(
    {f"{f.gguf_architecture}.{key}" for f in FAMILIES.values() for key in f.gguf_keys.values()}
    | {f"llama.{key}" for key in (
        "rope.scaling.type", "rope.scaling.factor", "rope.scale_linear", "expert_count",
        "rope.scaling.original_context_length", "rope.scaling.attn_factor",
        "rope.scaling.yarn_log_multiplier", "rope.scaling.yarn_beta_fast",
        "rope.scaling.yarn_attn_factor", "attention.value_length", "rope.dimension_count",
    )}
    | {f"tokenizer.ggml.{key}" for key in (
        "model", "pre", "tokens", "merges", "scores", "token_type", "bos_token_id", "eos_token_id",
        "eot_token_id", "eom_token_id", "unknown_token_id", "padding_token_id",
        "seperator_token_id", "cls_token_id", "mask_token_id", "add_bos_token", "add_eos_token",
        "add_space_prefix", "precompiled_charsmap", "remove_extra_whitespaces",
    )}
    | {"general.alignment", "general.architecture", "split.count", "split.no",
       "split.tensors.count", "tokenizer.chat_template", "tokenizer.chat_template.tool_use"}
)  # fmt: skip
KEYS = [key.encode() for key in _KEYS]


class GGUFFiles:
    """Whole files: header, metadata, table of tensors, blocks of every format."""

    def __init__(self) -> None:
        self.images = [*bases.gguf_images(Path()), *others.gguf_images()]
        self.path = Path("case.gguf")

    def draw(self, dice: Random) -> bytes:
        return mutated(dice, dice.choice(self.images), KEYS)

    def check(self, payload: bytes) -> None:
        self.path.write_bytes(payload)
        use.use_model(self.path, payload)


class ConvertedFiles(GGUFFiles):
    """Whole files as the input of `convert`."""

    def check(self, payload: bytes) -> None:
        self.path.write_bytes(payload)
        use.use_converter(self.path, Path("converted.gguf"), payload)


class Vocabularies(GGUFFiles):
    """Metadata of vocabularies, byte-level and SentencePiece."""

    def __init__(self) -> None:
        super().__init__()
        both = [
            self.images[0],
            next(i for i in self.images if b"tokenizer.ggml.scores" in i.values),
            *others.gguf_images(),
        ]
        self.images = [
            replace(i, keys=[pair for pair in i.keys if pair[0].startswith(b"tokenizer.")])
            for i in both
        ]

    def draw(self, dice: Random) -> bytes:
        image = replace(dice.choice(self.images), tensors=[], data=b"")
        return mutated(dice, image, [key for key in KEYS if key.startswith(b"tokenizer.")])

    def check(self, payload: bytes) -> None:
        self.path.write_bytes(payload)
        use.use_tokenizer(Tokenizer.from_gguf(self.path))


class SplitFiles:
    """A model in three parts, one of which was changed."""

    def __init__(self) -> None:
        whole = bases.gguf_images(Path())[0]
        self.parts = bases.parts_of(whole, 3)
        self.paths = [Path(f"m-{i:05}-of-00003.gguf") for i in (1, 2, 3)]
        self.sound = [part.to_bytes() for part in self.parts]
        for path, data in zip(self.paths, self.sound, strict=True):
            path.write_bytes(data)

    def draw(self, dice: Random) -> bytes:
        number = dice.randrange(3)
        return b"%d" % number + mutated(dice, self.parts[number], KEYS)

    def check(self, payload: bytes) -> None:
        number = int(payload[:1])
        self.paths[number].write_bytes(payload[1:])
        try:
            use.use_model(self.paths[0], payload)
        finally:
            self.paths[number].write_bytes(self.sound[number])


class PackedFiles:
    """Packed files: prefix, keys, table of entries, packed blocks; most with a true digest."""

    def __init__(self) -> None:
        self.images = [PackedImage.read(path) for path in bases.packed_files(Path())]
        self.path = Path("case.pyro")

    def draw(self, dice: Random) -> bytes:
        return mutated_packed(dice, dice.choice(self.images), KEYS)

    def check(self, payload: bytes) -> None:
        self.path.unlink(missing_ok=True)  # a mapping may still be there
        self.path.write_bytes(payload)
        use.use_model(self.path, payload)


# ---- folders -------------------------------------------------------------------------------


class Folder:
    """Folders of which one file at a time is changed: payload is the file's path, a newline, and
    what it holds."""

    def __init__(self) -> None:
        bases.write_folder(Path("folder"))
        self.trees = self.make_trees()
        self.words = mutate.words_of(*self.trees.values())
        self.sound = {str(path): path.read_bytes() for path in Path().glob("*/*")}

    def make_trees(self) -> Mapping[str, Any]:
        """The file's path, or that, ":" and a number -> a JSON tree to begin with."""
        return {}

    def draw(self, dice: Random) -> bytes:
        name = dice.choice(list(self.trees))
        data = mutate.json_bytes(dice, self.trees[name], self.words)
        return name.partition(":")[0].encode() + b"\n" + data

    def check(self, payload: bytes) -> None:
        name, _, data = payload.partition(b"\n")
        path = Path(name.decode())
        path.write_bytes(data)
        try:
            self.use(path.parent, payload)
        finally:
            if str(path) in self.sound:
                path.write_bytes(self.sound[str(path)])
            else:
                path.unlink()

    def use(self, folder: Path, payload: bytes) -> None:
        use.use_model(folder, payload)


class Configs(Folder):
    """config.json of every family, and generation_config.json."""

    def make_trees(self) -> Mapping[str, Any]:
        generation = {"eos_token_id": [257, 256], "bos_token_id": 256, "temperature": 0.5}
        keys = {key: 1 for family in FAMILIES.values() for key in family.hf_keys.values()}
        keys |= {"layer_types": ["full_attention"], "rope_scaling": {"type": "yarn", "factor": 2.0}}
        trees = {f"folder/config.json:{i}": config for i, config in enumerate(bases.configs())}
        trees |= {f"folder/generation_config.json:{i}": generation | keys for i in range(9)}
        for folder in bases.family_folders():
            for i, rope in enumerate(bases.ROPES):
                config = json.loads((folder / "config.json").read_bytes())
                trees[f"{folder}/config.json:{i}"] = config
                trees[f"{folder}/config.json:rope{i}"] = config | {"rope_parameters": rope}
        return trees | _of_others("config.json") | _of_others("generation_config.json")

    def use(self, folder: Path, payload: bytes) -> None:
        # First alone: most are refused here, which saves opening the weights.
        paths = (folder / "config.json", folder / "generation_config.json")
        trees = [read_small_json(path, CONFIG_BYTES) if path.exists() else {} for path in paths]
        config_of(hyperparameters_from_hf(trees[0], trees[1]))
        use.use_model(folder, payload, load_every=4)


class TokenizerFiles(Folder):
    """tokenizer.json and what is beside it."""

    def make_trees(self) -> Mapping[str, Any]:
        base = json.loads(Path("folder/tokenizer.json").read_bytes())
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        token = {"content": "<|bos|>", "special": True, **flags}
        config = {
            "bos_token": token, "eos_token": "<|eos|>", "pad_token": None, "add_bos_token": True,
            "add_eos_token": False, "additional_special_tokens": ["<|eos|>", token],
            "extra_special_tokens": {"image_token": "<|unused_270|>"},
            "added_tokens_decoder": {"256": token, "257": {"content": "<|eos|>", "special": True}},
            "chat_template": [{"name": "default", "template": "{{ messages[0].content }}"}],
        }  # fmt: skip
        trees = {f"folder/tokenizer.json:{i}": base | steps for i, steps in enumerate(TOKENIZERS)}
        names = ("folder/tokenizer_config.json", "folder/special_tokens_map.json")
        trees |= {f"{name}:{i}": config for name in names for i in range(4)}
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            trees |= _of_others(name)
        return trees

    def use(self, folder: Path, payload: bytes) -> None:
        use.use_tokenizer(Tokenizer.from_folder(folder))


def _of_others(name: str) -> dict[str, Any]:
    """What other programs wrote to files of that name, in the place of ours."""
    trees = others.json_trees(name)
    return {f"folder/{name}:other{i}": tree for i, tree in enumerate(trees)}


# ---- safetensors ---------------------------------------------------------------------------


class Safetensors(Folder):
    """Header and data of model.safetensors."""

    def make_trees(self) -> Mapping[str, Any]:
        name = "folder/model.safetensors"
        data = Path(name).read_bytes()
        length = int.from_bytes(data[:8], "little")
        self.data = data[8 + length :]
        own = json.loads(data[8 : 8 + length])
        headers = {f"{name}:{i}": tree for i, tree in enumerate(others.safetensors_headers())}
        return {f"{name}:": own, **headers}

    def draw(self, dice: Random) -> bytes:
        name, _, _ = (key := dice.choice(list(self.trees))).partition(":")
        header = mutate.json_bytes(dice, self.trees[key], self.words)
        data, length = self.data, len(header)
        if dice.random() < 0.15:
            length = mutate.integer(dice, length) % (1 << 64)
        if dice.random() < 0.15:
            filler = dice.choice([b"", b"\xff" * 64, b"\x7f" * 9999])
            data = data[: dice.randrange(len(data))] + filler
        return name.encode() + b"\n" + length.to_bytes(8, "little") + header + data


class Index(Folder):
    """model.safetensors.index.json over two files."""

    def make_trees(self) -> Mapping[str, Any]:
        weights = tiny.random_weights(bases.SMALL)
        tiny.write_folder(Path("folder"), bases.SMALL, weights, n_files=2)
        Path("folder/model.safetensors").unlink()
        path = Path("folder/model.safetensors.index.json")
        names = {"metadata": {"config.json": [".", "..", "folder"]}}
        return {str(path): json.loads(path.read_bytes()) | names}

    def use(self, folder: Path, payload: bytes) -> None:
        use.use_model(folder, payload, tokenizer_every=64, load_every=64)


FILES = [
    kind_of("gguf", GGUFFiles, weight=2),
    kind_of("gguf-split", SplitFiles),
    kind_of("gguf-vocabulary", Vocabularies),
    kind_of("convert", ConvertedFiles),
    kind_of("packed", PackedFiles),
    kind_of("config", Configs, weight=2),
    kind_of("tokenizer", TokenizerFiles, weight=2),
    kind_of("safetensors", Safetensors),
    kind_of("index", Index),
]
