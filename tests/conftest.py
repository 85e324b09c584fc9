"""Tests run on the default kernels: whoever tuned this machine must get the same results."""

import os

os.environ.setdefault("PYROCLAST_FROZEN", "1")
