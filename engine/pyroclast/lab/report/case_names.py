"""What the names of cases say, for readers of a report: what each number counts."""

from __future__ import annotations

# A part that is left out here is an option of the op, named as in its reference: q8, bias, gelu.
CASE_NAMES = {
    "embed": "tokens x vocabulary x width",
    "norm": "tokens x width",
    "matmul": "tokens x rows x columns of the weight",
    "rope_table": "tokens x pairs of a head",
    "rope": "h query heads, k key heads, d head size; tokens @ their first position",
    "attention": "h query heads, k key heads, d head size; tokens @ their first position",
    "quantize": "tokens x width",
    "glu": "tokens x width of the result",
    "softmax": "kind of logits, vocabulary, options",
    "sample": "kind of logits, vocabulary, parameters",
    "gate_up": "tokens x width of the result x columns of the weight",
    "pack": "rows x columns of the weight",
    "low_rank": "tokens x rows x columns of the weight; r rank of each adapter",
    "gather_rows": "rows taken of rows x width",
    "scale_logits": "tokens x vocabulary; scale, soft cap",
    "residual": "tokens x width",
    "qk_norm": "tokens x h query heads, k key heads, d head size",
    "route": "tokens x experts x chosen experts",
    "group": "tokens x experts x chosen experts",
    "expert_gate_up": "tokens x width of the result x columns; experts e chosen experts",
    "expert_down": "tokens x rows x columns; experts e chosen experts",
    "combine": "tokens x chosen experts x width",
    "conv1d": "tokens of each sequence x channels; w width of the filter",
    "l2_norm": "tokens x h heads, d head size",
    "delta_rule": "tokens of each sequence x k key heads, v value heads; size of a state",
    "gated_norm": "tokens x g groups x width of a group",
    "sigmoid_gate": "tokens x width",
    "layer_input": "tokens x width",
    "ssm": "tokens of each sequence x h heads x head size; g groups x size of a state",
}
