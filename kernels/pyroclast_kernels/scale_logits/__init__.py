"""The op `scale_logits`: logits times a factor, within a soft cap (Granite, Gemma 2)."""

FORMATS = ("f32",)
