"""What a caller asks for when a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from pyroclast.errors import KernelError, RequestError
from pyroclast.model.adapters import AdapterSlots
from pyroclast.model.device import MAX_BATCH_TOKENS
from pyroclast.model.extras import StepExtras
from pyroclast.model.hidden import HiddenLayer
from pyroclast.model.kv_cache import DTYPES

# Rows of logits a step may give by default: bounds the memory that scoring takes, and its chunks.
_MAX_LOGITS = 256


@dataclass(frozen=True)
class LoadOptions:
    """How to load a model; `plan` makes of it what will be.

    kernels: selection rules.  compute "float32" dequantizes the weights and keeps float32
    throughout; "auto" computes with the weights as they are stored.  kv_dtype "auto" is f32 in
    float32 mode; else bf16 for quantized weights on a CPU with BF16 dot products, or f16.  threads
    None: what the machine offers; a number asks for the CPU.  max_batch_tokens None: what
    suits the device.  max_logits None: every sequence's, or more for scoring.  n_blocks None:
    several full contexts, within the memory there is.  hidden_layers: states that every step
    keeps, which Model.hidden reads.  adapters: room for low-rank additions, which Model.adapters
    fills.  draft_bytes: what a draft model will take beside it on the CPU.
    """

    kernels: str | None = None
    compute: str = "auto"
    kv_dtype: str = "auto"
    threads: int | None = None
    max_batch_tokens: int | None = None
    max_seqs: int = 64
    max_logits: int | None = None
    n_blocks: int | None = None
    hidden_layers: tuple[HiddenLayer, ...] = ()
    adapters: AdapterSlots | None = None
    draft_bytes: int = 0

    def check(self) -> None:
        """KernelError or RequestError for a value that cannot be."""
        for name in ("max_batch_tokens", "max_seqs", "n_blocks"):
            value = getattr(self, name)
            if value is not None and not (_is_whole(value) and value >= 1):
                raise RequestError(f"{name} must be a whole number of at least 1, got {value!r}")
        if self.compute not in ("auto", "float32"):
            raise KernelError(f"compute must be 'auto' or 'float32', got {self.compute!r}")
        if self.kv_dtype not in ("auto", *DTYPES):
            known = ", ".join(DTYPES)
            raise KernelError(f"kv_dtype must be 'auto', {known}, got {self.kv_dtype!r}")
        if self.threads is not None and not (_is_whole(self.threads) and 1 <= self.threads <= 1024):
            raise KernelError(
                f"threads must be a whole number between 1 and 1024, got {self.threads!r}"
            )
        if self.kernels is not None and not isinstance(self.kernels, str):
            raise KernelError(
                "kernels must be text, rules separated by commas such as "
                f"'matmul.q8_0=cpp-avx2,sample=numba', got {type(self.kernels).__name__}"
            )

    @property
    def extras(self) -> StepExtras:
        """What a step does beside the logits."""
        return StepExtras(self.hidden_layers, self.adapters)

    def limits(self, device: str) -> dict[str, int]:
        """Tokens, sequences and rows of logits of one step."""
        n_tokens = self.max_batch_tokens or MAX_BATCH_TOKENS[device]
        max_logits = self.max_logits or max(self.max_seqs, min(n_tokens, _MAX_LOGITS))
        return {
            "max_batch_tokens": n_tokens,
            "max_seqs": self.max_seqs,
            "max_logits": max_logits,
        }


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
