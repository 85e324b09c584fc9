"""The op `qk_norm`: RMS norm of queries and keys, by head or over all heads, before rope."""

FORMATS = ("f32",)
