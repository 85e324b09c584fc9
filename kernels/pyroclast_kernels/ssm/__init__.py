"""The op `ssm`: the state of a Mamba 2 layer, read and updated token by token.

See reference.py for the contract.
"""

from pyroclast_kernels.delta_rule import state_shape as _state_shape

FORMATS = ("f32",)


def state_shape(n_heads: int, d_state: int, head_dim: int) -> tuple[int, int, int, int]:
    """The shape of one slot: each head's d_state x head_dim matrix in the tiles of `delta_rule`."""
    return _state_shape(n_heads, d_state, head_dim)
