"""The recipe `tokenizer`: a byte-level BPE vocabulary, trained on text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pyroclast.errors import TrainingError, reason_of
from pyroclast.train.settings import TokenizerSettings
from pyroclast.train.texts import read_texts
from pyroclast_kernels.whole_file import write_text

END_OF_TEXT = "<|endoftext|>"


def tokenizer(
    texts: Sequence[str | Path], out: str | Path, settings: TokenizerSettings | None = None
) -> Path:
    """Writes tokenizer.json and tokenizer_config.json into the folder `out`, and returns it.

    Every text can be encoded: the vocabulary begins with the 256 bytes and one token for the end of
    a text.  A short text gives fewer tokens than settings.vocab_size."""
    settings = TokenizerSettings() if settings is None else settings
    folder = Path(out)
    _check_no_model(folder)
    learned = learn(read_texts(texts), settings.vocab_size)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in learned.items():
            write_text(folder / name, text)
    except OSError as error:
        raise TrainingError(f"{folder}: cannot be written: {reason_of(error)}") from error
    return folder


def _check_no_model(folder: Path) -> None:
    """TrainingError for the folder of a model, which would be read with another vocabulary."""
    for pattern in ("config.json", "*.safetensors"):
        found = next(iter(sorted(folder.glob(pattern))), None)
        if found is not None:
            raise TrainingError(
                f"{folder}: holds {found.name!r}, a model that has its own vocabulary; give a new "
                "folder"
            )


def learn(texts: Sequence[str], vocab_size: int) -> dict[str, str]:
    """Name -> content of the two files of a tokenizer that is trained on the texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
    }
    return {
        "tokenizer.json": backend.to_str(pretty=True),
        "tokenizer_config.json": json.dumps(config, indent=1) + "\n",
    }
