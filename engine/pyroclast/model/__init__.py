"""A loaded model: the forward pass as a step program, its weights, caches and device."""
