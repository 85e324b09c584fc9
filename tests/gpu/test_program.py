"""Memory and step programs of a GPU, without a model: what is sent, captured and replayed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from pyroclast_kernels.batch import Batch
from pyroclast_kernels.errors import KernelError
from pyroclast_kernels.gpu.arena import MAX_PATCHES
from pyroclast_kernels.gpu.bounds import Bounds, all_bounds, round_longest, round_tokens
from pyroclast_kernels.gpu.memory import DeviceMemory
from pyroclast_kernels.gpu.program import DeviceProgram, Graphs, Launches
from pyroclast_kernels.matmul import FORMATS
from pyroclast_kernels.memory import device_weight_bytes
from pyroclast_kernels.program import OpCall
from pyroclast_kernels.q8_blocks import Q8_BLOCK
from pyroclast_kernels.sample import PENALTY
from pyroclast_kernels.selection import Kernel
from pyroclast_kernels.triton import device as triton_device
from pyroclast_kernels.triton.launch import Limits
from pyroclast_kernels.weights import formats

MAX_SEQ_LEN = 5000
RNG = np.random.default_rng(5)


@pytest.fixture
def memory() -> DeviceMemory:
    return DeviceMemory()


def on_device(memory: DeviceMemory, array: Any) -> np.ndarray:
    return memory.tensor(array).cpu().numpy()


# ---- memory --------------------------------------------------------------------------------


def test_inputs_are_there_after_begin_and_not_before(memory: DeviceMemory) -> None:
    a, b = memory.inputs((3,), np.int32), memory.inputs((2, 5), np.float64)
    a[:], b[:] = [1, 2, 3], 7.5
    assert not on_device(memory, a).any()
    memory.begin()
    np.testing.assert_array_equal(on_device(memory, a), a)
    np.testing.assert_array_equal(on_device(memory, b), b)
    np.testing.assert_array_equal(on_device(memory, a[1:2]), [2])


def test_more_inputs_than_a_chunk_holds(memory: DeviceMemory) -> None:
    arrays = [memory.inputs((n,), np.int32) for n in (10, 1 << 20, 3)]
    for i, array in enumerate(arrays):
        array[:] = i + 1
    memory.begin()
    for i, array in enumerate(arrays):
        assert (on_device(memory, array) == i + 1).all()


def test_outputs_come_back_with_end_and_rare_ones_when_fetched(memory: DeviceMemory) -> None:
    often, rarely = memory.outputs((4,), np.int32), memory.outputs((4, 2), np.int32, rarely=True)
    memory.tensor(often).fill_(5)
    memory.tensor(rarely).fill_(6)
    memory.end()
    memory.wait()
    assert (often == 5).all() and not rarely.any()
    memory.fetch(rarely, 3)
    np.testing.assert_array_equal(rarely, [[6, 6]] * 3 + [[0, 0]])
    memory.fetch(rarely, 0)


@pytest.mark.parametrize("n", [1, 100, 1000])  # patches, and a run that is too long for them
def test_only_what_was_noted_of_a_table_is_sent(memory: DeviceMemory, n: int) -> None:
    table = memory.table((5000,), PENALTY)
    table[:] = np.arange(5000).astype("<i4")[:, None].repeat(3, 1).view(PENALTY)[:, 0]
    memory.note(table, 7, 7 + n)
    memory.note(table, 3000, 3001)
    memory.send_noted()
    memory.begin()
    got = on_device(memory, table).view(np.int32)
    want = np.zeros((5000, 3), np.int32)
    for rows in (slice(7, 7 + n), slice(3000, 3001)):
        want[rows] = np.arange(5000)[rows, None]
    np.testing.assert_array_equal(got, want)
    memory.send_noted()  # nothing: a patch is not applied again
    memory.tensor(table).fill_(0)
    memory.begin()
    assert not on_device(memory, table).any()


def test_changes_of_a_table_are_found(memory: DeviceMemory) -> None:
    table = memory.table((6, 400), np.int32)
    for n_rows, n_cols, n_changes in (
        (2, 3, 4),
        (6, 400, 2000),
        (6, 400, 5),
        (3, 10, 1),
        (6, 9, 0),
    ):
        rows, cols = RNG.integers(0, n_rows, n_changes), RNG.integers(0, n_cols, n_changes)
        table[rows, cols] = RNG.integers(1, 1000, n_changes)
        memory.note_changes(table, n_rows, n_cols)
        memory.send_noted()
        memory.begin()
        got = on_device(memory, table)
        np.testing.assert_array_equal(got[:n_rows, :n_cols], table[:n_rows, :n_cols])
    memory.tensor(table).fill_(0)
    memory.forget()
    memory.note_changes(table, 6, 400)
    memory.send_noted()
    memory.begin()
    np.testing.assert_array_equal(on_device(memory, table), table)


def test_patches_end_where_the_next_change_does_not_fit(memory: DeviceMemory) -> None:
    table = memory.table((4 * MAX_PATCHES,), np.uint32)
    table[:] = np.arange(len(table)) + 1
    for first, last in ((0, MAX_PATCHES - 1), (1000, 1003), (1500, 1501)):
        memory.note(table, first, last)
    memory.send_noted()
    memory.begin()
    got = on_device(memory, table)
    assert (got != 0).sum() == MAX_PATCHES - 1 + 3 + 1
    assert got[1002] == 1003 and got[1500] == 1501


@pytest.mark.parametrize("dtype", [np.float32, np.uint16, Q8_BLOCK, np.int32], ids=str)
def test_a_device_array_looks_like_numpy_s(memory: DeviceMemory, dtype: Any) -> None:
    array, like = memory.zeros((6, 8), dtype), np.zeros((6, 8), dtype)
    assert (array.shape, array.nbytes, array.dtype) == (like.shape, like.nbytes, like.dtype)
    assert array[:, 3:].shape == like[:, 3:].shape
    array[[1, 4]] = 1
    found = memory.to_host(array, 5)
    assert found.shape == (5, 8)
    values = found["sum_scaled"] if dtype is Q8_BLOCK else found
    np.testing.assert_array_equal(values.any(axis=1), [False, True, False, False, True])
    assert memory.to_host(array, 0).shape == (0, 8)


def test_bfloat16_is_read_as_float32(memory: DeviceMemory) -> None:
    array = memory.zeros((2,), np.uint16)
    array[1] = -1.5
    np.testing.assert_array_equal(memory.to_host(array, 2), np.array([0, -1.5], np.float32))


def test_a_constant_is_copied(memory: DeviceMemory) -> None:
    values = np.arange(4, dtype=np.float32)
    values.flags.writeable = False
    constant = memory.constant(values)
    values.flags.writeable = True
    values[:] = 0
    np.testing.assert_array_equal(memory.to_host(constant, 4), [0, 1, 2, 3])


@pytest.mark.parametrize("format", FORMATS)
def test_weights_take_what_was_counted(memory: DeviceMemory, format: str) -> None:
    for n_rows, n_cols in ((3, 256), (5, 768)):
        weight = memory.weight(format, n_rows, n_cols)
        assert weight.n_bytes == device_weight_bytes(format, n_rows, n_cols)


def test_rows_reach_their_place_in_runs(
    memory: DeviceMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyroclast_kernels.gpu.memory._STAGE_BYTES", 600)
    weight = memory.weight("f32", 20, 64)
    values = RNG.standard_normal((20, 64)).astype(np.float32)
    raw = values.view(np.uint8)
    raw.flags.writeable = False  # as some arrays are
    memory.pack(raw[:7], weight, 0)
    memory.pack(raw[7:], weight, 7)
    memory.loaded()
    assert formats.row_bytes(64, "f32") == 256
    np.testing.assert_array_equal(weight.values.cpu().numpy(), values)


# ---- bounds --------------------------------------------------------------------------------


def test_bounds_are_few_and_enough() -> None:
    for n in range(1, 1000):
        bound = round_tokens(n)
        assert n <= bound < max(2 * n, n + 64)
        assert round_tokens(bound) == bound
    assert round_tokens(0) == 0
    assert [round_longest(n, 5000) for n in (1, 1024, 1025, 4097)] == [1024, 1024, 4096, 5000]


def test_every_step_that_decodes_is_among_those_of_the_warm_up() -> None:
    batch = Batch(256, 100, 160, 100)
    known = set(all_bounds(batch, MAX_SEQ_LEN))
    for n in range(1, 101):
        for longest in (1, 1024, 1025, 5000):
            m = round_tokens(n)
            assert Bounds(m, m, m, round_longest(longest, MAX_SEQ_LEN), True) in known
    reading = {bounds.n_tokens for bounds in known if not bounds.decode}
    assert reading == {2, 4, 8, 16, 32, 64, 128, 256}


# ---- the program ---------------------------------------------------------------------------


class FakeGraphs:
    """A graph as the driver sees it: what was launched during the capture, with those tensors and
    limits, and nothing that Python would compute again."""

    warms = True

    def __init__(self) -> None:
        self.recording: list[tuple[Callable[..., None], Any, Any]] | None = None
        self.n_captures = 0
        self.replayed: list[int] = []

    def capture(self, launch: Callable[[], None]) -> Callable[[], None]:
        number, self.n_captures = self.n_captures, self.n_captures + 1
        self.recording = []
        launch()
        recorded, self.recording = self.recording, None

        def replay() -> None:
            self.replayed.append(number)
            for kernel, limits, tensors in recorded:
                kernel(limits, **tensors)

        return replay


class Machine:
    """A program of two launches: out = 10 * token id + limit of tokens, then rows = out of each
    row, + its table entry; while a graph records, nothing runs."""

    def __init__(self, max_tokens: int = 64, max_seqs: int = 8) -> None:
        self.memory, self.graphs = DeviceMemory(), FakeGraphs()
        self.batch = Batch(max_tokens, max_seqs, 160, max_seqs, self.memory)
        self.out = self.memory.zeros((max_tokens,), np.int32)
        self.rows = self.memory.outputs((max_seqs,), np.int32)
        self.seen: list[Limits] = []
        batch = self.batch
        calls = [
            self._call(
                self._double, n_tokens=batch.n_tokens_at, token_ids=batch.token_ids, out=self.out
            ),
            self._call(
                self._pick,
                n_tokens=batch.n_logits_at,
                x=self.out,
                logit_rows=batch.logit_rows,
                tables=batch.block_tables,
                rows=self.rows,
            ),
        ]
        self.program = DeviceProgram(calls, self.memory, batch, MAX_SEQ_LEN, self.graphs)
        real_begin, real_end = self.memory.begin, self.memory.end
        self.memory.begin = self._recorded(real_begin)  # type: ignore[method-assign]
        self.memory.end = self._recorded(real_end)  # type: ignore[method-assign]

    def _recorded(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        def call() -> None:
            if self.graphs.recording is None:
                enqueue()
            else:
                self.graphs.recording.append((lambda _: enqueue(), None, {}))

        return call

    def _call(self, function: Callable[..., None], **arguments: Any) -> OpCall:
        def launch(limits: Limits, **tensors: Any) -> None:
            self.seen.append(limits)
            if self.graphs.recording is None:
                function(limits, **tensors)
            else:
                self.graphs.recording.append((function, limits, tensors))

        return OpCall(Kernel("norm", "f32", "fake", launch=launch), arguments, "")

    @staticmethod
    def _double(limits: Limits, n_tokens: Any, token_ids: Any, out: Any) -> None:
        assert int(n_tokens[0]) <= limits.n_tokens
        out.copy_(10 * token_ids + limits.n_tokens)

    @staticmethod
    def _pick(
        limits: Limits, n_tokens: Any, x: Any, logit_rows: Any, tables: Any, rows: Any
    ) -> None:
        n = int(n_tokens[0])
        assert n <= limits.n_tokens
        rows[:n] = x[logit_rows[:n].long()] + tables[:n, 0]

    def decode(self, token_ids: list[int], position: int = 0) -> list[int]:
        batch, n = self.batch, len(token_ids)
        batch.token_ids[:n], batch.positions[:n] = token_ids, position
        batch.logit_rows[:n] = batch.seq_index[:n] = range(n)
        batch.seq_starts[: n + 1] = range(n + 1)
        batch.counts[:] = n
        self.program.run()
        return self.rows[:n].tolist()


def test_a_graph_is_captured_once_and_reads_what_was_refilled() -> None:
    machine = Machine()
    assert machine.decode([1]) == [11]
    assert (machine.graphs.n_captures, machine.graphs.replayed) == (1, [])
    for token_id in (5, 6):
        machine.batch.block_tables[0, 0] = 100 * token_id
        n_launched = len(machine.seen)
        assert machine.decode([token_id]) == [10 * token_id + 1 + 100 * token_id]
        assert len(machine.seen) == n_launched  # Python stood aside
    assert (machine.graphs.n_captures, machine.graphs.replayed) == (1, [0, 0])
    assert machine.program.native_seconds > 0


def test_the_graph_is_that_of_the_bounds() -> None:
    machine = Machine()
    for n, bound, graph in ((1, 1, 0), (3, 4, 1), (4, 4, 1), (2, 2, 2), (8, 8, 3), (5, 8, 3)):
        machine.decode([1] * n)
        machine.graphs.replayed.clear()
        assert machine.decode([7] * n) == [70 + bound] * n
        assert machine.graphs.replayed == [graph]
    machine.decode([1], position=1023)
    assert machine.graphs.n_captures == 4
    machine.decode([1], position=1024)
    assert machine.graphs.n_captures == 5
    assert {bounds.longest for bounds in machine.program.captured} == {1024, 4096}


def test_a_step_with_a_prompt_is_launched() -> None:
    machine = Machine()
    batch = machine.batch
    batch.token_ids[:9] = range(9)
    batch.positions[:9] = range(9)
    batch.seq_starts[:2] = 0, 9
    batch.logit_rows[0] = 8
    batch.counts[:] = 9, 1, 1
    machine.program.run()
    assert machine.rows[0] == 80 + 16
    assert machine.seen == [Limits(16, 1, 1024, False), Limits(1, 1, 1024, False)]
    assert machine.graphs.n_captures == 0


def test_a_step_without_rows_launches_nothing_for_them() -> None:
    machine = Machine()
    machine.batch.positions[:9] = range(9)
    machine.batch.counts[:] = 9, 1, 0
    machine.program.run()
    assert len(machine.seen) == 1


def test_warm_up_captures_every_step_that_decodes() -> None:
    machine = Machine(max_seqs=4)
    machine.batch.counts[:] = 3
    told: list[int] = []
    machine.program.warm_up(told.append)
    assert told == list(range(1, machine.program.n_warm_ups + 1))
    assert machine.graphs.n_captures == 3 * 3  # 1, 2, 4 tokens; up to 1024, 4096, 5000 positions
    assert machine.batch.counts.tolist() == [3, 3, 3]
    assert machine.decode([5, 6, 7]) == [54, 64, 74]
    assert machine.graphs.n_captures == 9 and len(machine.graphs.replayed) == 1


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: out of luck"), KernelError("no")])
def test_a_failing_driver_is_an_error_that_says_so_and_tables_are_sent_again(
    error: Exception,
) -> None:
    machine = Machine()
    machine.batch.block_tables[0, 0] = 1000
    machine.decode([1])
    machine.memory.tensor(machine.batch.block_tables).fill_(0)
    real, machine.memory.wait = machine.memory.wait, lambda: (_ for _ in ()).throw(error)
    with pytest.raises(KernelError, match=r"^no$|^the step failed on the GPU: CUDA error"):
        machine.decode([1])
    machine.memory.wait = real
    assert machine.decode([1]) == [1011]


def test_an_interruption_is_not_turned_into_an_error() -> None:
    machine = Machine()
    machine.memory.wait = lambda: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        machine.decode([1])


def test_each_call_alone_and_its_time() -> None:
    machine = Machine()
    machine.decode([4])
    machine.batch.token_ids[0] = 9
    machine.program.run_one(0)
    assert machine.memory.to_host(machine.out, 1)[0] == 91
    assert machine.rows[0] == 41
    times = machine.program.profile()
    assert len(times) == 2 and min(times) > 0


def test_a_trace_is_refused_with_what_to_do() -> None:
    machine = Machine()
    assert not machine.program.is_traced(0)
    machine.program.watch(None)
    with pytest.raises(KernelError, match="has no timeline"):
        machine.program.watch(lambda *_: None)


def test_what_this_device_replays_are_copies_and_kernels(memory: DeviceMemory) -> None:
    """A graph of the driver, where there is one."""
    replays = Launches() if triton_device.INTERPRETED else Graphs()
    given, result = memory.inputs((1,), np.int32), memory.outputs((1,), np.int32)
    x, y = memory.tensor(given), memory.tensor(result)

    def launch() -> None:
        memory.begin()
        torch.add(x, 1, out=y)
        memory.end()

    launch()
    memory.wait()
    replay = replays.capture(launch)
    for value in (5, 6):
        given[0] = value
        replay()
        memory.wait()
        assert result[0] == value + 1
