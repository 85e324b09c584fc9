"""The generation loop: requests, their schedule and blocks, one step after another, streams."""
