"""Scripts that run an engine and answer requests; started by path, in the engine's own Python.

That Python may have neither Pyroclast nor anything else of ours.  So a worker imports the standard
library, NumPy, its engine and its siblings `protocol` and `tokens`, and nothing more.
"""
