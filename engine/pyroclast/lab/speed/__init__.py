"""How fast kernels and generation are, as shares of ceilings measured in the same run."""
