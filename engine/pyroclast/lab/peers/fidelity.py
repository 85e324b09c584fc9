"""How far each weight format's fast arithmetic is from float32: the KL divergence of the next
token's distribution, for Pyroclast and for llama.cpp.

Both read the same file, the model requantized by llama.cpp.  float32 is Pyroclast's own
compute="float32" on that file, which its tests compare with transformers.  So the loss of the
format itself is not counted, only what the engine adds.  The texts are Python's own help pages,
which come with every Python; the result records their hash.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyroclast.checkpoint.open import open_checkpoint
from pyroclast.lab.peers.arguments import make_parser, read_options, told_in_a_line
from pyroclast.lab.peers.client import WORKERS, Client
from pyroclast.lab.peers.options import CompareOptions
from pyroclast.lab.peers.store import Store
from pyroclast.lab.peers.table import PEERS
from pyroclast.lab.speed.result_file import write_result
from pyroclast.lab.speed.throughput_rows import environment
from pyroclast.model.kv_cache import BLOCK_SIZE
from pyroclast.model.model import load_model
from pyroclast.progress import progress_bar

FORMATS = (
    "q8_0,q4_0,q4_1,q5_0,q5_1,q2_k,q3_k_s,q3_k_m,q4_k_s,q4_k_m,q5_k_s,q5_k_m,q6_k,iq4_nl,iq4_xs,"
    "iq3_s,bf16,f16"
)
_ROWS = 64  # distributions held in float64 at a time
Divergence = tuple[Any, Any]  # (KL divergence in nats, is the likeliest token the same?)


def texts(model: str, n_texts: int, n_tokens: int) -> tuple[list[list[int]], str]:
    """(Token ids of texts taken from all over Python's help pages, the hash of those pages)."""
    from pydoc_data.topics import topics

    whole = "\n\n".join(topics[name] for name in sorted(topics))
    with open_checkpoint(model) as checkpoint:
        tokenizer = checkpoint.tokenizer()
    starts = [len(whole) * i // n_texts for i in range(n_texts)]
    # A token has fewer than ten characters on average.
    found = [tokenizer.encode(whole[i : i + 10 * n_tokens])[:n_tokens] for i in starts]
    return found, hashlib.sha256(whole.encode()).hexdigest()[:16]


class Ours:
    """Pyroclast on a file: the logits after each token of a text."""

    def __init__(self, path: str, n_tokens: int, **options: Any) -> None:
        blocks = -(-n_tokens // BLOCK_SIZE)
        sizes: dict[str, Any] = {
            "max_batch_tokens": n_tokens,
            "max_logits": n_tokens,
            "max_seqs": 1,
        }
        with open_checkpoint(path) as checkpoint:
            self.model = load_model(checkpoint, n_blocks=blocks, **sizes, **options)

    def every_logit(self, token_ids: list[int]) -> Any:
        """float32 (n_tokens, vocab_size), valid until the next call."""
        batch, n = self.model.batch, len(token_ids)
        batch.token_ids[:n], batch.positions[:n] = token_ids, np.arange(n)
        batch.seq_index[:n], batch.seq_starts[:2] = 0, (0, n)
        n_blocks = min(self.model.n_blocks, batch.max_blocks)
        batch.block_tables[0, :n_blocks] = np.arange(n_blocks)
        batch.logit_rows[:n], batch.counts[:] = np.arange(n), (n, 1, n)
        batch.keep_states([0])
        self.model.forward()
        return self.model.logits[:n]


def divergence(reference: Any, logits: Any) -> Divergence:
    """The divergence of each row of logits from the reference's row; both (n_rows, vocab_size)."""
    found = []
    for first in range(0, len(reference), _ROWS):
        p, q = (log_softmax(x[first : first + _ROWS]) for x in (reference, logits))
        found.append((np.exp(p) * (p - q)).sum(axis=1))
    return np.concatenate(found), reference.argmax(axis=1) == logits.argmax(axis=1)


def log_softmax(logits: Any) -> Any:
    """Log-probabilities in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def summary(found: list[Divergence]) -> dict[str, float]:
    """Over all tokens of all texts."""
    kl = np.concatenate([each[0] for each in found])
    same = np.concatenate([each[1] for each in found])
    return {
        "mean_kl": float(kl.mean()),
        "standard_error": float(kl.std() / np.sqrt(len(kl))),
        "p99_kl": float(np.quantile(kl, 0.99)),
        "same_top": float(same.mean()),
        "n_tokens": len(kl),
    }


def against(ours: list[Divergence], other: list[Divergence]) -> dict[str, float]:
    """How much further from float32 we are than another engine.  The difference is taken token by
    token, so that the spread between tokens does not hide it."""
    more = np.concatenate([a[0] - b[0] for a, b in zip(ours, other, strict=True)])
    error = float(more.std() / np.sqrt(len(more)))
    return {"ours_minus_its_kl": float(more.mean()), "difference_error": error}


def compare(options: CompareOptions, path: str, tokens: list[list[int]]) -> dict[str, Any]:
    """Each engine and setting on one file; tokens: texts of the same length."""
    n_tokens = max(map(len, tokens))
    plain = Ours(path, n_tokens, threads=options.threads, compute="float32")
    references = [plain.every_logit(each).copy() for each in tokens]
    plain.model.close()
    cache = {"kv_dtype": options.kv_dtype}
    ours = Ours(path, n_tokens, threads=options.threads, kernels=options.kernels, **cache)
    pairs = zip(references, tokens, strict=True)
    divergences = [divergence(a, ours.every_logit(b)) for a, b in pairs]
    found: dict[str, Any] = {"Pyroclast": {"kv_dtype": ours.model.kv_dtype, **summary(divergences)}}
    ours.model.close()
    python = options.peers.get("llama.cpp")
    for setting, (load_options, run_options) in PEERS["llama.cpp"].settings.items():
        if python is None or run_options["kv_unified"]:  # which makes no difference to one sequence
            continue
        with Client(python, WORKERS / PEERS["llama.cpp"].script, {}) as client:
            load = {"model": path, "threads": options.threads, **load_options}
            its = peer_divergences(client, load, references, tokens)
            found[f"llama.cpp ({setting})"] = summary(its) | against(divergences, its)
    return found


def peer_divergences(
    client: Client, load: dict[str, Any], references: list[Any], tokens: list[list[int]]
) -> list[Divergence]:
    """The divergences of a worker, which writes its logits to a file."""
    room = {"n_prompt": max(map(len, tokens)), "n_gen": 0, "n_depth": 0, "n_batch": 1}
    client.ask("load", workloads=[room], **load)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for reference, token_ids in zip(references, tokens, strict=True):
            file = str(Path(folder) / "logits.npy")
            client.ask("every_logit", token_ids=token_ids, path=file)
            found.append(divergence(reference, np.load(file)))
    return found


def markdown(result: dict[str, Any]) -> str:
    """A row for each format: the mean KL divergence in nats, how often the likeliest token is that
    of float32, and how much larger our divergence is than a peer's."""
    engines = list(dict.fromkeys(name for row in result["rows"] for name in row["engines"]))
    lines = ["| format | " + " | ".join(f"{name} KL, same top" for name in engines) + " |"]
    lines.append("|---|" + "---:|" * len(engines))
    for row in result["rows"]:
        cells = []
        for name in engines:
            it = row["engines"][name]
            error = f"{it['mean_kl']:.2e} ± {it['standard_error']:.0e}"
            more = it.get("ours_minus_its_kl")
            by = "" if more is None else f" (ours {more:+.0e} ± {it['difference_error']:.0e})"
            cells.append(f"{error}, {it['same_top']:.1%}{by}")
        lines.append(f"| {row['format']} | {' | '.join(cells)} |")
    made = result["made_with"]
    n_tokens = f"{made['n_texts']} x {made['n_tokens']} tokens"
    lines += ["", f"{n_tokens}; {made['cpu']}, Pyroclast {made['commit']}, {made['date']}."]
    return "\n".join(lines)


def other_parts(path: Path) -> dict[str, Any]:
    """What bench/families.py wrote into the same file."""
    before = json.loads(path.read_text()) if path.exists() else {}
    return {key: before[key] for key in ("families",) if key in before}


def main(description: str, words: Sequence[str] | None = None) -> None:
    """The command, with its arguments or those of the process."""
    parser = make_parser(description)
    parser.set_defaults(format=FORMATS)
    parser.add_argument("--texts", type=int, default=4, metavar="N")
    parser.add_argument("--tokens", type=int, default=512, metavar="N", help="of each text")
    args = parser.parse_args(words)
    if not 1 <= args.tokens <= 512 or args.texts < 1:
        parser.error("--tokens must be 1 to 512 and --texts at least 1")
    with told_in_a_line(parser.prog):
        options = read_options(parser, args)
        store, rows = Store(options), []
        tokens, texts_hash = texts(args.model, args.texts, args.tokens)
        with progress_bar(len(options.formats), "format") as show:
            for format in options.formats:
                engines = compare(options, store.ours(format), tokens)
                rows.append({"format": format or "as the file is", "engines": engines})
                show(len(rows))
        made_with = {**environment(), "model": args.model, "n_threads": options.threads}
        made_with |= {"n_texts": args.texts, "n_tokens": args.tokens, "texts": texts_hash}
        made_with["absent"] = dict(options.missing)
        result = {"made_with": made_with, "rows": rows}
        print(markdown(result))
        if args.json:
            write_result(args.json, result | other_parts(args.json))


if __name__ == "__main__":
    main(__doc__ or "")
