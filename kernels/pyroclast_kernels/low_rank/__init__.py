"""The op `low_rank`: adapters (LoRA, Hu et al. 2021) beside a product, one for each token or none.

See reference.py for the contract.
"""

FORMATS = ("f32",)
