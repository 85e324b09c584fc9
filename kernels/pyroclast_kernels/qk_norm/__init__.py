"""The op `qk_norm`: RMS norm of queries, keys and, where asked, values, before rope."""

FORMATS = ("f32",)
