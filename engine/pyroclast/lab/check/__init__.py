"""Variants held against the NumPy reference, over an op's whole case list."""
