"""Kinds of torture that change an adapter and then open it for its base."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import lora_files
import tiny
from pyroclast.checkpoint.adapter.open import open_adapter
from pyroclast.families.registry import config_of
from torture import mutate
from torture.cases import kind_of
from torture.gguf_image import Image, mutated

_CONFIG = config_of(tiny.BASE)
_KEYS = [
    b"general.type", b"general.architecture", b"adapter.type", b"adapter.lora.alpha",
    b"adapter.alora.invocation_tokens", b"general.alignment",
]  # fmt: skip
_MORE_FIELDS: Mapping[str, Any] = {
    "rank_pattern": {"q_proj": 2, "^model.layers.1.mlp.down_proj": 2},
    "alpha_pattern": {"self_attn.q_proj": 4.5},
    "layers_to_transform": [0, 1],
    "layers_pattern": "layers",
    "exclude_modules": ["lm_head"],
    "init_lora_weights": True,
    "lora_bias": False,
    "target_parameters": None,
}


def _use(path: Path) -> None:
    adapter = open_adapter(path, _CONFIG)
    try:
        adapter.read()
    finally:
        adapter.close()


class AdapterFolders:
    """adapter_config.json, or the header of adapter_model.safetensors; payload: which, and it."""

    def __init__(self) -> None:
        pairs = lora_files.random_pairs(tiny.BASE, 2, ("wq", "w_down"))
        self.folder = lora_files.write_peft(Path("adapter"), pairs, config=_MORE_FIELDS)
        names = ("adapter_config.json", "adapter_model.safetensors")
        self.config, self.weights = (self.folder / name for name in names)
        self.sound = {path: path.read_bytes() for path in (self.config, self.weights)}
        data = self.sound[self.weights]
        length = int.from_bytes(data[:8], "little")
        self.header, self.data = json.loads(data[8 : 8 + length]), data[8 + length :]
        self.fields = json.loads(self.sound[self.config])
        self.words = mutate.words_of(self.header, self.fields)

    def draw(self, dice: Random) -> bytes:
        if dice.random() < 0.5:
            return b"c" + mutate.json_bytes(dice, self.fields, self.words)
        header = mutate.json_bytes(dice, self.header, self.words)
        return b"w" + len(header).to_bytes(8, "little") + header + self.data

    def check(self, payload: bytes) -> None:
        path = self.config if payload[:1] == b"c" else self.weights
        path.write_bytes(payload[1:])
        try:
            _use(self.folder)
        finally:
            path.write_bytes(self.sound[path])


class AdapterFiles:
    """GGUF files of type adapter, in F32 and in Q8_0."""

    def __init__(self) -> None:
        self.path, self.images = Path("adapter.gguf"), []
        for quant, rank in (("F32", 2), ("Q8_0", 32)):
            pairs = lora_files.random_pairs(tiny.BASE, rank, ("wq", "w_down"))
            lora_files.write_gguf(self.path, tiny.BASE, pairs, quant=quant)
            self.images.append(Image.read(self.path))

    def draw(self, dice: Random) -> bytes:
        return mutated(dice, dice.choice(self.images), _KEYS)

    def check(self, payload: bytes) -> None:
        self.path.write_bytes(payload)
        _use(self.path)


ADAPTERS = [
    kind_of("adapter-folder", AdapterFolders),
    kind_of("adapter-gguf", AdapterFiles),
]
