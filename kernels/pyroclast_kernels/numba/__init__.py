"""What the Numba variants share: registration and compilation, vectors, masks, math."""
