"""Runs step programs on an NVIDIA GPU: memory, launches in a row, CUDA graphs, tuned tiles."""
