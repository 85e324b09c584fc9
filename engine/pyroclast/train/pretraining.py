"""The recipe `pretrain`: a model from random weights, trained to predict the next token of a text.

Pyroclast itself reads each checkpoint that is measured: its perplexity on held-out text, and what
it writes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyroclast.errors import TrainingError
from pyroclast.sampling.params import SamplingParams
from pyroclast.train.base_model import tokenizer_files
from pyroclast.train.curve import draw
from pyroclast.train.extra import needed
from pyroclast.train.log import RunLog, read_lines
from pyroclast.train.loop import Loop
from pyroclast.train.measure import load, measure, text_items
from pyroclast.train.result import Result, read_result, speed_of, write_result
from pyroclast.train.run_folder import RunFolder
from pyroclast.train.settings import PretrainSettings
from pyroclast.train.shapes import n_parameters, random_model, save_model, transformers_quietly
from pyroclast.train.texts import fingerprint, read_texts, split
from pyroclast.train.vocabulary import END_OF_TEXT, learn

if TYPE_CHECKING:
    from pyroclast.text.tokenizer import Tokenizer

_SHOWN_AT = (100, 1000)  # steps whose text is kept, beside the first and the last
_PROMPT_TOKENS, _SAMPLE_TOKENS = 8, 96
_MIN_HELD_TOKENS = 8  # of a text whose perplexity is measured


def pretrain(
    texts: Sequence[str | Path],
    out: str | Path,
    settings: PretrainSettings | None = None,
    *,
    tokenizer: str | Path | None = None,
    on_line: Callable[[dict[str, Any]], None] | None = None,
) -> Result:
    """Trains a model on text files, in the folder `out`; `LLM` loads what Result.final names.

    tokenizer: a folder or model whose vocabulary is used; None trains one on the part of the text
    that is not held out.  The same call resumes a run that was stopped.  on_line gets each line of
    the log."""
    settings = PretrainSettings() if settings is None else settings
    read = read_texts(texts)
    train, held = split(read, settings.held_out)
    identity = {
        "texts": fingerprint(read),
        "tokenizer": None if tokenizer is None else str(tokenizer),
    }
    with RunFolder(out, "pretrain", settings.as_dict() | identity) as folder:
        done = read_result(folder.path)
        if done is not None:
            return done
        transformers_quietly()
        if tokenizer is None:
            files = learn(train, settings.vocab_size)
        else:
            files = tokenizer_files(tokenizer)
        return _Run(settings, folder, files, held, train).result(on_line)


class _Run:
    """The parts of one run that its callbacks share."""

    def __init__(
        self,
        settings: PretrainSettings,
        folder: RunFolder,
        files: dict[str, str],
        held: list[str],
        train: list[str],
    ) -> None:
        self.settings, self.folder, self.files = settings, folder, files
        vocabulary = _tokenizer_of(files, folder)
        self.end_of_text = _end_of_text(vocabulary)
        self.tokens = _joined(vocabulary, train, self.end_of_text)
        if len(self.tokens) < settings.context + 2:
            raise TrainingError(
                f"the text has {len(self.tokens)} tokens to train on; context {settings.context} "
                f"needs at least {settings.context + 2}: give more text or a smaller context"
            )
        ids = {text: vocabulary.encode(text, add_special_tokens=False) for text in held}
        self.held = [text for text, each in ids.items() if len(each) >= _MIN_HELD_TOKENS]
        if not self.held:
            raise TrainingError(
                f"held_out {settings.held_out:g} leaves too little text to measure; give more text "
                "or a larger held_out"
            )
        self.prompt = ids[self.held[0]][: min(_PROMPT_TOKENS, settings.context // 2)]
        self.model = random_model(settings, vocabulary.vocab_size, self.end_of_text)

    def result(self, on_line: Callable[[dict[str, Any]], None] | None) -> Result:
        loop = Loop(
            model=self.model,
            settings=self.settings,
            folder=self.folder,
            batch_of=self.batch,
            save=self.save,
            after=self.after,
            stops=_SHOWN_AT,
        )
        loop.run(on_line)
        with self.folder.writing("final") as part:
            self.save(part)
        samples, lines = (
            read_lines(self.folder.path / name) for name in ("samples.jsonl", "log.jsonl")
        )
        draw(self.folder.path / "curve.svg", lines, samples)
        names = ("perplexity", "bits_per_byte")
        before, after = ({name: line[name] for name in names} for line in (samples[0], samples[-1]))
        about = {
            "parameters": n_parameters(self.model),
            "training_tokens": len(self.tokens),
            "precision": loop.precision,
            **speed_of(lines),
        }
        found = Result(str(self.folder.final), before, after, about)
        write_result(self.folder.path, found)
        return found

    def batch(self, step: int) -> dict[str, Any]:
        """Windows of the text that begin anywhere."""
        torch, settings = needed("torch"), self.settings
        draw_at = np.random.default_rng([settings.seed, step])
        starts = draw_at.integers(0, len(self.tokens) - settings.context, settings.batch)
        rows = np.stack([self.tokens[at : at + settings.context + 1] for at in starts])
        return {
            "input_ids": torch.from_numpy(rows[:, :-1].copy()),
            "labels": torch.from_numpy(rows[:, 1:].copy()),
        }

    def save(self, folder: Path) -> None:
        save_model(self.model, self.files, folder)

    def after(self, step: int, checkpoint: Path, log: RunLog) -> None:
        """Has Pyroclast read the checkpoint, and keeps what it writes."""
        n_tokens = min(_SAMPLE_TOKENS, self.settings.context - len(self.prompt))
        sampled = SamplingParams(temperature=0.8, max_tokens=n_tokens, seed=self.settings.seed)
        with load(checkpoint) as llm:
            found, _ = measure(llm, text_items(self.held), 1)
            [completion] = llm.generate([self.prompt], sampled)
            text = llm.tokenizer.decode([*self.prompt, *completion.token_ids])
        log.sample(step, text, **found)


def _tokenizer_of(files: dict[str, str], folder: RunFolder) -> Tokenizer:
    """The tokenizer of the files, which stay in the run's folder."""
    from pyroclast.text.tokenizer import Tokenizer

    with folder.writing("tokenizer") as part:
        for name, text in files.items():
            (part / name).write_text(text, encoding="utf-8")
    return Tokenizer.from_folder(folder.path / "tokenizer")


def _end_of_text(vocabulary: Tokenizer) -> int:
    ids = sorted(vocabulary.eos_token_ids)
    if not ids:
        raise TrainingError(
            f"the tokenizer has no token that ends a text, such as {END_OF_TEXT}; use another, or "
            "none: then one is trained"
        )
    return ids[0]


def _joined(vocabulary: Tokenizer, texts: Sequence[str], end_of_text: int) -> Any:
    """The tokens of all texts, int64, each text with the token that ends it."""
    ids: list[int] = []
    for text in texts:
        ids += vocabulary.encode(text, add_special_tokens=False, parse_special=False)
        ids.append(end_of_text)
    return np.array(ids, np.int64)
