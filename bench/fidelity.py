"""How far each weight format's fast arithmetic is from float32 on the same file: the KL divergence
of the next token's distribution, ours and llama.cpp's.

    python bench/fidelity.py --peers ENVIRONMENTS --json bench/results/fidelity.json

The file of each format is the model requantized by llama.cpp.  float32 is Pyroclast's own
compute="float32", which dequantizes that file's weights (its tests hold it against transformers).
So the loss of the format itself is not counted, only what the engine adds.  The texts are Python's
own help pages, which come with every Python (the result has their hash).
"""

import argparse
import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / folder) for folder in ("engine", "kernels")]

from peers import arguments  # noqa: E402
from peers.arena import WORKERS  # noqa: E402
from peers.client import Client, PeerError  # noqa: E402
from peers.store import Store  # noqa: E402
from peers.table import PEERS  # noqa: E402
from pyroclast.checkpoint.open import open_checkpoint  # noqa: E402
from pyroclast.errors import PyroclastError  # noqa: E402
from pyroclast.lab.speed.throughput_rows import environment  # noqa: E402
from pyroclast.model.kv_cache import BLOCK_SIZE  # noqa: E402
from pyroclast.model.model import load_model  # noqa: E402
from pyroclast.progress import progress_bar  # noqa: E402

FORMATS = "q8_0,q4_0,q4_1,q5_0,q5_1,q2_k,q3_k_s,q3_k_m,q4_k_s,q4_k_m,q5_k_s,q5_k_m,q6_k,bf16,f16"
_ROWS = 64  # distributions that are held in float64 at a time
Divergence = tuple[Any, Any]  # (KL divergence in nats, whether the likeliest token is the same)


def texts(model: str, n_texts: int, n_tokens: int) -> tuple[list[list[int]], str]:
    """(Token ids of texts from all over Python's help pages, the hash of those pages)."""
    from pydoc_data.topics import topics

    whole = "\n\n".join(topics[name] for name in sorted(topics))
    with open_checkpoint(model) as checkpoint:
        tokenizer = checkpoint.tokenizer()
    starts = [len(whole) * i // n_texts for i in range(n_texts)]
    # Some ten characters a token are more than enough.
    found = [tokenizer.encode(whole[i : i + 10 * n_tokens])[:n_tokens] for i in starts]
    return found, hashlib.sha256(whole.encode()).hexdigest()[:16]


class Ours:
    """Pyroclast on a file: the logits after each token of a text."""

    def __init__(self, path: str, n_tokens: int, **options: Any) -> None:
        blocks = -(-n_tokens // BLOCK_SIZE)
        sizes = {"max_batch_tokens": n_tokens, "max_logits": n_tokens, "max_seqs": 1}
        with open_checkpoint(path) as checkpoint:
            self.model = load_model(checkpoint, n_blocks=blocks, **sizes, **options)

    def every_logit(self, token_ids: list[int]) -> Any:
        """float32 (n_tokens, vocab_size), good until the next call."""
        batch, n = self.model.batch, len(token_ids)
        batch.token_ids[:n], batch.positions[:n] = token_ids, np.arange(n)
        batch.seq_index[:n], batch.seq_starts[:2] = 0, (0, n)
        n_blocks = min(self.model.n_blocks, batch.max_blocks)
        batch.block_tables[0, :n_blocks] = np.arange(n_blocks)
        batch.logit_rows[:n], batch.counts[:] = np.arange(n), (n, 1, n)
        self.model.forward()
        return self.model.logits[:n]


def divergence(reference: Any, logits: Any) -> Divergence:
    """Of each row of logits from the reference's row; (n_rows, vocab_size) each."""
    found = []
    for first in range(0, len(reference), _ROWS):
        p, q = (log_softmax(x[first : first + _ROWS]) for x in (reference, logits))
        found.append((np.exp(p) * (p - q)).sum(axis=1))
    return np.concatenate(found), reference.argmax(axis=1) == logits.argmax(axis=1)


def log_softmax(logits: Any) -> Any:
    """In float64."""
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
    """How much further from float32 we are than another engine: token by token, so that the spread
    between tokens does not drown the difference."""
    more = np.concatenate([a[0] - b[0] for a, b in zip(ours, other, strict=True)])
    error = float(more.std() / np.sqrt(len(more)))
    return {"ours_minus_its_kl": float(more.mean()), "difference_error": error}


def compare(args: argparse.Namespace, path: str, tokens: list[list[int]]) -> dict[str, Any]:
    """Each engine and setting on one file."""
    plain = Ours(path, args.tokens, threads=args.threads, compute="float32")
    references = [plain.every_logit(each).copy() for each in tokens]
    plain.model.close()
    options = {"threads": args.threads, "kernels": args.kernels, "kv_dtype": args.kv_dtype}
    ours = Ours(path, args.tokens, **options)
    pairs = zip(references, tokens, strict=True)
    divergences = [divergence(a, ours.every_logit(b)) for a, b in pairs]
    found = {"Pyroclast": {"kv_dtype": ours.model.kv_dtype, **summary(divergences)}}
    ours.model.close()
    peer = PEERS["llama.cpp"]
    python = args.peer.get("llama.cpp")
    for setting, (options, run_options) in peer.settings.items():
        if python is None or run_options["kv_unified"]:  # one sequence has no use for that
            continue
        with Client(python, WORKERS / peer.script, {}) as client:
            its = peer_divergences(client, args, path, references, tokens, options)
            found[f"llama.cpp ({setting})"] = summary(its) | against(divergences, its)
    return found


def peer_divergences(
    client: Client,
    args: argparse.Namespace,
    path: str,
    references: list[Any],
    tokens: list[list[int]],
    options: dict[str, Any],
) -> list[Divergence]:
    """A worker's, whose logits come by a file."""
    workload = {"n_prompt": args.tokens, "n_gen": 0, "n_depth": 0, "n_batch": 1}
    client.ask("load", model=path, workloads=[workload], threads=args.threads, **options)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for reference, token_ids in zip(references, tokens, strict=True):
            file = str(Path(folder) / "logits.npy")
            client.ask("every_logit", token_ids=token_ids, path=file)
            found.append(divergence(reference, np.load(file)))
    return found


def markdown(result: dict[str, Any]) -> str:
    """A row for each format: mean KL divergence in nats, how often the top token is float32's, and
    by how much our divergence is above a peer's."""
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add(parser)
    parser.add_argument("--texts", type=int, default=4, metavar="N")
    parser.add_argument("--tokens", type=int, default=512, metavar="N", help="of each text")
    args = parser.parse_args()
    args.format = args.format or FORMATS
    arguments.check(parser, args)
    if not 1 <= args.tokens <= 512 or args.texts < 1:
        parser.error("--tokens must be 1 to 512 and --texts at least 1")
    store, rows = Store(args), []
    tokens, texts_hash = texts(args.model, args.texts, args.tokens)
    with progress_bar(len(args.formats), "format") as show:
        for format in args.formats:
            engines = compare(args, store.ours(format), tokens)
            rows.append({"format": format or "as the file is", "engines": engines})
            show(len(rows))
    made_with = {**environment(), "model": args.model, "n_threads": args.threads}
    made_with |= {"n_texts": args.texts, "n_tokens": args.tokens, "texts": texts_hash}
    made_with["absent"] = args.missing
    result = {"made_with": made_with, "rows": rows}
    print(markdown(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except (PyroclastError, PeerError) as error:
        sys.exit(f"fidelity.py: error: {error}")
