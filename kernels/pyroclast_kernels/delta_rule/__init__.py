"""The op `delta_rule`: the state of a gated DeltaNet layer, read and updated token by token.

See reference.py for the contract.
"""

FORMATS = ("f32",)
TILE = 32  # columns of a state that lie side by side


def state_shape(n_v_heads: int, k_dim: int, v_dim: int) -> tuple[int, int, int, int]:
    """The shape of one slot: each head's k_dim x v_dim matrix in tiles of TILE columns, of which
    those beyond v_dim are 0.  Whole rows would be a power of two apart, and so compete for a few
    lines of the L1 cache."""
    return n_v_heads, -(-v_dim // TILE), k_dim, TILE
