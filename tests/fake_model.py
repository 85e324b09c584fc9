"""A model without a network: its logits are a hash of the tokens that it finds in its cache.

The cache holds token ids, written and read through the block tables of the batch, so a wrong
table, position, chunk or a block given to two sequences changes the text.  The tokenizer maps
bytes to ids.
"""

import codecs
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import numpy as np

from pyroclast import SamplingParams
from pyroclast.engine.cache_options import CacheOptions
from pyroclast.llm import LLM, assemble
from pyroclast.model.cache_identity import CacheIdentity
from pyroclast_kernels.batch import Batch
from pyroclast_kernels.memory import HostMemory
from pyroclast_kernels.sample.reference import sample

EOS, BOS, VOCAB_SIZE = 256, 257, 260


class ByteTokenizer:
    """Ids 0 to 255 are bytes; EOS and BOS are control tokens spelt <eos> and <bos>."""

    vocab_size = VOCAB_SIZE
    eos_token_ids = frozenset([EOS])
    bos_token_id = BOS

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        if text == "<eos>":
            return [EOS]
        return [BOS] * add_special_tokens + list(text.encode())

    def encode_chat(self, messages: Any, **variables: Any) -> list[int]:
        spoken = "".join(f"{m['role']}: {m['content']}\n" for m in messages)
        return [BOS, *spoken.encode(), *"".join(variables).encode()]

    def decode(self, ids: Iterable[int]) -> str:
        return bytes(i for i in ids if i < 256).decode(errors="replace")

    def decoder(
        self, skip_special_tokens: bool = True, continuation: bool = False
    ) -> "ByteDecoder":
        return ByteDecoder()


class ByteDecoder:
    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def step(self, token_id: int) -> str:
        return self._decoder.decode(bytes([token_id]) if token_id < 256 else b"")

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


def hashed(history: Sequence[int]) -> np.ndarray:
    """Logits that depend on every token of the history and on their order."""
    seed = zlib.crc32(np.asarray(history, np.int32).tobytes())
    return np.random.default_rng(seed).standard_normal(VOCAB_SIZE).astype(np.float32) * 3


def spells(text: str | bytes, n_prompt: int) -> Callable[[Sequence[int]], np.ndarray]:
    """Logits that make the model write `text`, then EOS, after a prompt of `n_prompt` tokens."""
    answer = [*(text.encode() if isinstance(text, str) else text), EOS]

    def logits(history: Sequence[int]) -> np.ndarray:
        found = np.zeros(VOCAB_SIZE, np.float32)
        i = len(history) - n_prompt
        found[answer[i] if 0 <= i < len(answer) else EOS] = 50.0
        return found

    return logits


class FakeModel:
    block_size = 4
    weight_bytes = 1000
    n_threads = 1
    device, device_note, n_warm_ups, n_slots = "cpu", "", 0, 0
    adapters = SimpleNamespace(n_slots=0)
    memory = HostMemory()

    def __init__(
        self,
        logits_of: Callable[[Sequence[int]], np.ndarray] = hashed,
        *,
        n_blocks: int = 64,
        max_seq_len: int = 128,
        max_batch_tokens: int = 16,
        max_seqs: int = 8,
        max_logits: int = 8,
    ) -> None:
        self.logits_of = logits_of
        self.kernels = {"sample.f32": "numpy"}
        self.table = "defaults"
        self.n_blocks, self.max_seq_len = n_blocks, min(max_seq_len, n_blocks * self.block_size)
        self.max_batch_tokens, self.max_seqs, self.max_logits = (
            max_batch_tokens,
            max_seqs,
            max_logits,
        )
        max_blocks = -(-self.max_seq_len // self.block_size)
        self.batch = Batch(max_batch_tokens, max_seqs, max_blocks, max_logits)
        self.logits = np.zeros((max_logits, VOCAB_SIZE), np.float32)
        self.cache = np.full((n_blocks, self.block_size), -1)
        self.steps: list[tuple[int, int, int]] = []  # tokens, sequences, rows of each step
        self.zeroed: set[int] = set()
        self.before_step: Callable[[], None] = lambda: None
        self.closed = False
        self.native_seconds = 0.0

    @property
    def kv_bytes(self) -> int:
        return int(self.cache.nbytes)

    @property
    def cache_identity(self) -> CacheIdentity:
        page_bytes = self.cache[0].nbytes
        return CacheIdentity(b"m" * 16, b"k" * 16, "f32", self.block_size, page_bytes)

    def block_arrays(self, block: int) -> list[np.ndarray]:
        return [self.cache[block]]

    def slot_arrays(self, slot: int) -> list[np.ndarray]:
        return []

    def attach_sampler(self, **arguments: Any) -> None:
        self._sample_arguments = arguments

    def warm_up(self, show: Callable[[int], None]) -> None:
        raise AssertionError("it has nothing to warm up")

    def forward(self, sample: bool = False) -> None:
        self.before_step()
        batch = self.batch
        self.steps.append((batch.n_tokens, batch.n_seqs, batch.n_logits))
        assert batch.n_tokens <= self.max_batch_tokens
        assert batch.n_logits <= self.max_logits
        histories = []
        for i in range(batch.n_seqs):
            for t in range(batch.seq_starts[i], batch.seq_starts[i + 1]):
                assert batch.seq_index[t] == i
                position = batch.positions[t]
                blocks = batch.block_tables[i, : position // self.block_size + 1]
                self.cache[blocks[-1], position % self.block_size] = batch.token_ids[t]
                histories.append(self.cache[blocks].ravel()[: position + 1].copy())
        for row, t in enumerate(batch.logit_rows[: batch.n_logits]):
            self.logits[row] = self.logits_of(histories[t].tolist())
        if sample:
            self.sample()

    def sample(self) -> None:
        sample(logits=self.logits, **self._sample_arguments)

    def find_non_finite(self) -> str:
        return "layer 3 (matmul)"

    def zero_blocks(self, block_ids: Sequence[int]) -> None:
        self.zeroed.update(block_ids)
        self.cache[list(block_ids)] = 0

    def close(self) -> None:
        self.closed = True


def fake_llm(
    *args: Any, speculation: str = "off", draft: FakeModel | None = None, **options: Any
) -> LLM:
    names = [field.name for field in fields(CacheOptions)]
    cache = {name: options.pop(name) for name in names if name in options}
    model = FakeModel(*args, **options)
    return assemble(model, ByteTokenizer(), "fake", speculation, draft=draft, **cache)


def free_blocks(llm: LLM) -> int:
    return llm._loop.stepper.scheduler.pool.n_available


PROMPTS = ["one", "a longer prompt, read in several chunks", [1, 2, 3], "x"]
GREEDY = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)


def by_hand(token_ids: list[int], n: int) -> list[int]:
    """Greedy decoding of the fake model without any engine."""
    history = list(token_ids)
    for _ in range(n):
        history.append(int(np.argmax(hashed(history))))
    return history[len(token_ids) :]
