"""Compares variants with the NumPy reference on all cases of an op."""
