"""The benchmark of a machine with a GPU: builds, tests and measures within a time limit."""
