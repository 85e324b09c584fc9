"""Tests run on the default kernels, whoever tuned this machine, and on the CPU, whoever has a GPU:
those of the GPU ask for it."""

import os

os.environ.setdefault("PYROCLAST_FROZEN", "1")
os.environ.setdefault("PYROCLAST_DEVICE", "cpu")
