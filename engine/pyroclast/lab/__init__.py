"""The kernel lab: checks, times, tunes and explains every variant of every op.

`rows` is the schema of its results, `check` compares a variant with the reference, `measure` times
it, `run` does both for many in child processes, `scaffold` writes the file of a new variant.
"""
