"""Checkpoints of tiny models in both file formats."""

from pathlib import Path

import tiny


def gguf_file(folder: Path, name: str = "llama", quant: str = "F32") -> Path:
    config = tiny.CONFIGS[name]
    return tiny.write_gguf(folder / f"{name}.gguf", config, tiny.random_weights(config), quant)


def hf_folder(folder: Path, name: str = "llama", dtype: str = "float32", n_files: int = 1) -> Path:
    config = tiny.CONFIGS[name]
    return tiny.write_folder(folder / name, config, tiny.random_weights(config), dtype, n_files)
