"""Peak resident memory of a whole command: the packed weights, not the file beside them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from demo import demo_path

MIB = 1 << 20
RUN = """
import json, sys
from pathlib import Path
from pyroclast import LLM, SamplingParams
with LLM(sys.argv[1]) as llm:
    [out] = llm.generate("Once upon a time", SamplingParams(temperature=0, max_tokens=64))
    block_bytes = llm.model.kv_bytes // llm.model.n_blocks
    n_blocks = -(-(len(out.token_ids) + 8) // llm.model.block_size)
# Not getrusage: what the parent held when it forked counts there.
[line] = [x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM")]
peak = int(line.split()[1]) * 1024
print(json.dumps({"peak": peak, "kv": n_blocks * block_bytes}))
"""


@pytest.mark.slow
def test_peak_memory_of_a_generation() -> None:
    """At most 1.25 times the file, the cache that was used, and 100 MB for Python and all else."""
    path = demo_path()
    command = [sys.executable, "-c", RUN, str(path)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # also where it is not installed
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    measured = json.loads(out.stdout)
    allowed = 1.25 * path.stat().st_size + measured["kv"] + 100e6
    assert measured["peak"] < allowed, f"{measured['peak'] / MIB:.0f} of {allowed / MIB:.0f} MiB"
