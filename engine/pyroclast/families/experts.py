"""Mixtures of experts as data: how a router chooses, and what files call its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from pyroclast.errors import ModelFileError
from pyroclast.families.checks import check_flag, check_positive, check_size

Scoring = Literal["softmax", "sigmoid"]
# expert_gating_func of GGUF files.
GATING_FUNCTIONS: dict[Scoring, int] = {"softmax": 1, "sigmoid": 2}
# Far above any published model; see layer_spec.
MAX_EXPERTS = 4096
MAX_D_FF = 1 << 22

# What GGUF files call a router and the experts of a layer.
GGUF_EXPERTS = {
    "layers.{i}.w_router": "blk.{i}.ffn_gate_inp.weight",
    "layers.{i}.w_gate_experts": "blk.{i}.ffn_gate_exps.weight",
    "layers.{i}.w_up_experts": "blk.{i}.ffn_up_exps.weight",
    "layers.{i}.w_down_experts": "blk.{i}.ffn_down_exps.weight",
}
# And the expert that all tokens share.
GGUF_SHARED = {
    "layers.{i}.w_gate": "blk.{i}.ffn_gate_shexp.weight",
    "layers.{i}.w_up": "blk.{i}.ffn_up_shexp.weight",
    "layers.{i}.w_down": "blk.{i}.ffn_down_shexp.weight",
}
_DENSE = frozenset(
    f"layers.{{i}}.{kind}_{name}" for kind in "wb" for name in ("gate", "up", "down")
)


def without_dense(names: Mapping[str, str]) -> dict[str, str]:
    """A family's tensors without those of a feed-forward that every token passes through."""
    return {name: each for name, each in names.items() if name not in _DENSE}


@dataclass(frozen=True)
class ExpertsSpec:
    """A feed-forward of n_experts, of which a router picks the n_active with the largest scores for
    each token.  Their results are added up, each multiplied by its gate.

    scoring makes scores of the router's logits: "softmax" over all experts, or "sigmoid" of each.
    A token's gates are the scores of its experts; renormalize divides them by their sum (a softmax
    over the chosen logits is "softmax" with it), scale multiplies them.  router_bias: the router's
    product has a bias.  selection_bias: a bias is added to the scores for the choice, and is none
    of the gates'.

    shared_d_ff: width of one more expert, which every token passes through and no router weighs; 0
    is none.  Its products are called w_gate, w_up and w_down, as those of a layer without experts.

    gate_scales: a token's gates are multiplied, last of all, by a number that each expert has.
    own_norms: router, experts and the shared expert read a norm each of the state: the first one's
    weights count as divided by the root of their number.  A norm of what the experts give and one
    of what the shared expert gives are added up; the layer's norm after its block is of that sum.
    """

    n_experts: int
    n_active: int
    scoring: Scoring = "softmax"
    renormalize: bool = False
    scale: float = 1.0
    router_bias: bool = False
    selection_bias: bool = False
    shared_d_ff: int = 0
    gate_scales: bool = False
    own_norms: bool = False

    def __post_init__(self) -> None:
        check_size("n_experts", self.n_experts, MAX_EXPERTS)
        check_size("n_active (experts of a token)", self.n_active, self.n_experts)
        if self.scoring not in get_args(Scoring):
            raise ModelFileError(
                f"scoring of experts must be one of {', '.join(get_args(Scoring))}, "
                f"got {self.scoring!r}"
            )
        check_flag("renormalize of experts", self.renormalize)
        for name in ("selection_bias", "gate_scales", "own_norms"):
            check_flag(f"{name} of experts", getattr(self, name))
        check_positive("scale of experts", self.scale)
        if type(self.shared_d_ff) is not int or self.shared_d_ff != 0:
            check_size("width of the shared expert", self.shared_d_ff, MAX_D_FF)
