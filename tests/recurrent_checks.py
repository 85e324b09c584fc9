"""What the variants of the recurrent ops promise; tests/kernels and tests/gpu run these checks."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from pyroclast_kernels.cases import op_cases
from pyroclast_kernels.program import Program, Recorder, make_executor
from pyroclast_kernels.selection import Selection, all_variants
from pyroclast_kernels.triton.launch import on_host

# The ops with a state: a case with several sequences, and what has a row for each token.
STATEFUL = {
    "conv1d": ("2+6x17w3-gated-bias", ("x",)),
    "delta_rule": ("5+1+4+2x2k4v-24x20", ("qkv", "alpha", "beta")),
    "ssm": ("5+1+4+2x4h20-2g24", ("xbc", "dt")),
}
# (op, a case, an input, what is written): a NaN in the input's first row must be seen there.
POISONED = [
    ("conv1d", "2+6x17w3-gated-bias", "x", "out"),
    ("delta_rule", "1x1k1v-1x1", "qkv", "out"),
    ("delta_rule", "1x1k1v-1x1", "alpha", "out"),
    ("delta_rule", "1x1k1v-1x1", "beta", "out"),
    ("ssm", "1x1h1-1g1", "xbc", "out"),
    ("ssm", "1x1h1-1g1", "dt", "out"),
    ("l2_norm", "3x2h24d", "qkv", "qkv"),
    ("gated_norm", "3x3g45", "gate", "out"),
    ("gated_norm", "3x2g45-gate_first", "gate", "out"),
    ("sigmoid_gate", "3x45", "gate", "x"),
]
CUTS = (1, 3)  # where sequences are cut into steps
Arguments = dict[str, Any]


def case_of(op: str, name: str) -> Arguments:
    [case] = [case for case in op_cases(op) if case.name == name]
    return case.make()


def run(op: str, variant: str, arguments: Arguments, n_threads: int = 1) -> None:
    found = all_variants(op)[variant]
    assert not found.unavailable, found.unavailable
    if found.launch is not None:
        on_host(found.launch("f32"))(**arguments)
        return
    recorder = Recorder(Selection(f"{op}={variant}"))
    recorder.call(op, **arguments)
    Program(recorder.calls, make_executor(n_threads)).run()


def step(given: Arguments, inputs: tuple[str, ...], tokens: slice, slot: int) -> Arguments:
    """The arguments of a step with these tokens of one sequence, which begins in `slot`."""
    rows = {name: given[name][tokens].copy() for name in (*inputs, "out", "slots_out")}
    return (
        given
        | rows
        | {
            "n_seqs": np.array([1]),
            "seq_starts": np.array([0, tokens.stop - tokens.start], np.int32),
            "slots_in": np.array([slot], np.int32),
        }
    )


def check_a_sequence_has_the_same_bits_alone_and_in_steps(op: str, variant: str) -> None:
    """Every sequence by itself, in steps of 1, 2 and the remaining tokens, each of which goes on
    from the state that the step before has kept."""
    name, inputs = STATEFUL[op]
    together, given = case_of(op, name), case_of(op, name)
    run(op, variant, together, 3)
    slot_of_steps = len(given["state"])
    given["state"] = np.concatenate([given["state"], given["state"][:1]])
    for seq in range(int(given["n_seqs"][0])):
        first, end = (int(start) for start in given["seq_starts"][seq : seq + 2])
        slot = int(given["slots_in"][seq])
        cuts = [first, *(first + n for n in CUTS if n < end - first), end]
        for tokens in (slice(*pair) for pair in pairwise(cuts)):
            now = step(given, inputs, tokens, slot)
            if now["slots_out"][-1] < 0:
                now["slots_out"][-1] = slot_of_steps
            run(op, variant, now)
            slot = int(now["slots_out"][-1])
            assert now["out"].tobytes() == together["out"][tokens].tobytes(), (seq, tokens)
    assert given["state"][:slot_of_steps].tobytes() == together["state"].tobytes()


def check_a_nan_is_seen(op: str, variant: str) -> None:
    for _, name, poisoned, output in (row for row in POISONED if row[0] == op):
        given = case_of(op, name)
        given[poisoned].reshape(len(given[poisoned]), -1)[0, 0] = np.nan
        run(op, variant, given)
        assert np.isnan(given[output][0]).any(), (name, poisoned)


CHECKS = [
    *((check_a_sequence_has_the_same_bits_alone_and_in_steps, op) for op in STATEFUL),
    *((check_a_nan_is_seen, op) for op in dict.fromkeys(row[0] for row in POISONED)),
]
