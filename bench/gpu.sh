#!/usr/bin/env bash
# Everything that needs a GPU, in ten minutes: builds, tests, measures, writes a JSON file, and prints
# a short table at the end.  PYTHON=... chooses the Python; bench/gpu.py --help lists the flags.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false
exec "${PYTHON:-python3}" bench/gpu.py "$@"
