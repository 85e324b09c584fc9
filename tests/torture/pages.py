"""Cached pages and saved states that somebody made or damaged, and writers of them that are killed.

A damaged page or snapshot is passed over, so a segment never changes an answer, whatever lies in
it; a saved state is refused.  Seals are made again for half of the changes: checksums must not be
all that holds.  What is in a page is the user's own, who may forge it: then there is an answer or
an error."""

from __future__ import annotations

import random
import shutil
import signal
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

from fake_model import fake_llm
from pyroclast import LLM, SamplingParams
from pyroclast.engine.cache_options import page_format
from pyroclast.engine.pages.record import _HEADER, HEADER_BYTES, PageFormat, _sealed
from recurrent_model import recurrent_llm
from torture import mutate
from torture.campaign import Kind
from torture.cases import kind_of
from torture.nursery import Nursery
from torture.record import Record
from torture.tiny_model import tiny_llm

_GREEDY = SamplingParams(temperature=0, max_tokens=3, ignore_eos=True)
_PROMPT = list(range(40))
_KILLED_BYTES = 40_000  # a bound that the killed writers meet again and again
_SMALL: dict[str, Any] = {"n_blocks": 8, "max_seqs": 1, "threads": 1, "device": "cpu"}


def _answer(llm: LLM, prompt: list[int] = _PROMPT) -> list[int]:
    return llm.generate([prompt], _GREEDY, progress=False)[0].token_ids


class Image:
    """A file of pages: its header and its records, which can be changed and sealed again."""

    def __init__(self, content: bytes, format: PageFormat) -> None:
        self.content, self._format = content, format
        n_bytes = format.record_bytes
        self._records = [
            content[i : i + n_bytes] for i in range(HEADER_BYTES, len(content), n_bytes)
        ]

    def mutated(self, dice: random.Random, *, forges: bool) -> bytes:
        """With one change or more.  forges: what a page holds may change together with its
        checksum."""
        header, records = self.content[:HEADER_BYTES], list(self._records)
        for _ in range(dice.choice([1, 1, 2, 3])):
            at, how = dice.randrange(len(records)), dice.randrange(6 + forges)
            if how == 0:
                header = self._changed(dice, header, _HEADER.size)
            elif how == 1:
                records.insert(at, dice.choice(records))
            elif how == 2 and len(records) > 1:
                del records[at]
            elif how == 3:
                other = dice.randrange(len(records))
                records[at], records[other] = records[other], records[at]
            elif how < 6:
                n_bytes = self._format.record_header_bytes
                changed = self._changed(dice, records[at][:n_bytes], self._format.record_sum_at)
                records[at] = changed + records[at][n_bytes:]
            else:
                records[at] = self._forged(dice, dice.choice(self._records))
        content = header + b"".join(records)
        return mutate.raw(dice, content) if dice.random() < 0.3 else content

    def _changed(self, dice: random.Random, header: bytes, end: int) -> bytes:
        changed = bytearray(header)
        for _ in range(dice.choice([1, 2, 8])):
            changed[dice.randrange(end)] = dice.choice([0, 1, 127, 128, 255, dice.randrange(256)])
        sound = self._format.record_header_bytes if len(header) != HEADER_BYTES else HEADER_BYTES
        return _sealed(bytes(changed[:end]), sound) if dice.random() < 0.5 else bytes(changed)

    def _forged(self, dice: random.Random, record: bytes) -> bytes:
        start = self._format.record_header_bytes
        content = bytearray(record[start:])
        for _ in range(dice.choice([1, 8, 300])):
            content[dice.randrange(len(content))] = dice.choice([0, 0x7F, 0x80, 0xFC, 0xFF])
        page, _ = self._format.read_record(record[:start])
        return self._format.record_header(page, zlib.crc32(content)) + content


class CachePages:
    """Segments of a folder, below the fake model, whose answer shows every token that it read."""

    def __init__(self) -> None:
        self.folder = Path("pages").absolute()
        with fake_llm(cache_dir=self.folder) as llm:
            self.expected, format = _answer(llm), PageFormat(llm.model.cache_identity)
        [self.path] = self.folder.glob("*/*.pages")
        self.image = Image(self.path.read_bytes(), format)

    def draw(self, dice: random.Random) -> bytes:
        return self.image.mutated(dice, forges=False)

    def check(self, payload: bytes) -> None:
        for path in self.path.parent.iterdir():
            path.unlink()
        self.path.write_bytes(payload)
        self.path.chmod(0o600)
        with fake_llm(cache_dir=self.folder) as llm:
            assert _answer(llm) == self.expected
            assert _answer(llm) == self.expected


class CacheSnapshots:
    """Segments of recurrent layers' states, below the fake model that looks whether a state is that
    of its pages.  The pages are whole."""

    def __init__(self) -> None:
        self.folder = Path("snapshots").absolute()
        with recurrent_llm(cache_dir=self.folder) as llm:
            self.expected, format = _answer(llm), page_format(llm.model).snapshots
            _answer(llm, _PROMPT[:21])
        assert format is not None
        [self.path] = (self.folder / format.digest.hex()).glob("*.pages")
        self.image = Image(self.path.read_bytes(), format)

    def draw(self, dice: random.Random) -> bytes:
        return self.image.mutated(dice, forges=False)

    def check(self, payload: bytes) -> None:
        for path in self.path.parent.iterdir():
            path.unlink()
        self.path.write_bytes(payload)
        self.path.chmod(0o600)
        with recurrent_llm(cache_dir=self.folder) as llm:
            assert _answer(llm) == self.expected
            assert _answer(llm) == self.expected


class SavedStates:
    """Saved states of a real network."""

    def __init__(self) -> None:
        self.path = Path("state").absolute()
        self.llm = tiny_llm(**_SMALL)
        self.llm.save_state(self.path, list(range(100)))
        self.image = Image(self.path.read_bytes(), PageFormat(self.llm.model.cache_identity))
        self.llm.close()

    def draw(self, dice: random.Random) -> bytes:
        return self.image.mutated(dice, forges=True)

    def check(self, payload: bytes) -> None:
        self.path.write_bytes(payload)
        with tiny_llm(**_SMALL) as llm:
            n_positions = llm.load_state(self.path)
            assert n_positions % 32 == 0
            _answer(llm, list(range(100)))


# ---- writers that are killed ---------------------------------------------------------------------

_WRITE = """
import random, sys
from fake_model import fake_llm
from recurrent_model import recurrent_llm
from torture.pages import _GREEDY, _KILLED_BYTES
rng = random.Random(int(argv[1]))
print("begun", flush=True)
while True:
    make = rng.choice([fake_llm, recurrent_llm])
    with make(cache_dir=argv[0], cache_dir_bytes=_KILLED_BYTES) as llm:
        for _ in range(3):
            first = rng.randrange(50)
            llm.generate([list(range(first, first + 60))], _GREEDY)
"""
_CHECK = """
from fake_model import fake_llm
from recurrent_model import recurrent_llm
from torture.pages import _KILLED_BYTES, _answer
for make in (fake_llm, recurrent_llm):
    with make(cache_dir=argv[0], cache_dir_bytes=_KILLED_BYTES) as llm, fake_llm() as plain:
        for first in range(0, 50, 7):
            prompt = list(range(first, first + 60))
            assert _answer(llm, prompt) == _answer(plain, prompt), prompt
        print(llm.n_disk_pages)
"""


def _kill_writers(seed: int, deadline: float, record: Record) -> None:
    """Two at a time in one folder, until the deadline."""
    folder, number = Path(tempfile.mkdtemp(prefix="pages-")), 0
    with Nursery() as one, Nursery() as two:
        while time.monotonic() < deadline or not number:
            rng = random.Random(f"{seed} {number}")
            with record.case():
                for nursery in (one, two):
                    nursery.start(_WRITE, folder, rng.randrange(2**32))
                for nursery in (one, two):
                    nursery.said("begun")
                    time.sleep(rng.random() * 0.1)
                    nursery.send(signal.SIGKILL)
                    nursery.end()
                ended = one.run(_CHECK, folder)
                if ended.code != 0 or "Traceback" in ended.err:
                    record.finding(f"after a killed writer: {ended}")
                n_bytes = sum(path.stat().st_size for path in folder.glob("*/*"))
                if n_bytes > _KILLED_BYTES:
                    record.finding(f"{n_bytes} bytes in a folder of {_KILLED_BYTES}")
            number += 1
    shutil.rmtree(folder)


PAGES = [
    kind_of("cache-pages", CachePages),
    kind_of("cache-snapshots", CacheSnapshots),
    kind_of("saved-states", SavedStates),
]
PAGE_KILLS = Kind("page-kill", _kill_writers, memory_bytes=None)
