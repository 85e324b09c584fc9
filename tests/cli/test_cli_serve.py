"""What `pyroclast serve` does to its own process."""

from __future__ import annotations

import gc

from pyroclast.cli.serve import freeze_garbage


def test_what_was_loaded_is_left_out_of_collections() -> None:
    loaded = [[i] for i in range(1000)]
    try:
        freeze_garbage()
        assert gc.get_freeze_count() > len(loaded)
        assert len(gc.get_objects()) < len(loaded)
    finally:
        gc.unfreeze()
