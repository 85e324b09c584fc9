"""A fresh interpreter that knows the kernels: a process imports and compiles only once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

KERNELS = Path(__file__).resolve().parents[1] / "kernels"
# Binds one of Numba's kernels: whether it has an address, and whether it came from the cache.
BIND = """
from pyroclast_kernels.numba import abi
from pyroclast_kernels.selection import Selection
address = Selection("quantize=numba").kernel("quantize").address
hits = abi._compiled["quantize", "f32"].cache_hits
print(json.dumps({"bound": address != 0, "hits": hits}))
"""


def python(code: str, **environment: str) -> Any:
    """Runs the code, which prints JSON, with nothing of Numba's in the environment but this."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_")}
    start = f"import json, sys\nsys.path.insert(0, {str(KERNELS)!r})\n"
    done = subprocess.run(
        [sys.executable, "-c", start + code],
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
