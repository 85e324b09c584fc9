"""From a checkpoint's tensors to weights laid out for the kernels, and what stands side by side.

The layout is the memory's: packed for the CPU, DeviceWeight on the GPU.  Tensors are read in runs
of rows, so that only a few megabytes of a file are in memory beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pyroclast.checkpoint.open import Checkpoint
from pyroclast.checkpoint.read_ahead import ReadAhead
from pyroclast.families.config import ModelConfig
from pyroclast.families.draft_head import NORMS, PRODUCTS
from pyroclast.families.layer_spec import LayerSpec
from pyroclast.model.layer_inputs import InputWeights, load_inputs
from pyroclast.model.layer_weights import Layer, load_layer
from pyroclast.model.packer import Norm, Packer, Place, Product
from pyroclast.model.row_queue import RowQueue
from pyroclast.model.stream_weights import StreamWeights, load_streams
from pyroclast_kernels.memory import Memory, Weight


@dataclass(frozen=True)
class DraftWeights:
    """Of a head that predicts further tokens (`families.draft_head`): the products of the token and
    of the state before it, the norms before both, the layer, and the norm behind it."""

    layer: Layer
    of_token: Product
    of_state: Product
    token_norm: Norm
    state_norm: Norm
    output_norm: Norm


@dataclass(frozen=True)
class Weights:
    """Everything a forward pass reads; `output` is `token_embd` itself where they are tied.  draft:
    of a head that predicts further tokens, where it is loaded.  places: canonical name -> where
    that weight is among them."""

    token_embd: Weight
    position_embd: Weight | None
    inputs: InputWeights | None
    streams: StreamWeights | None
    layers: tuple[Layer, ...]
    output_norm: Norm
    output: Weight
    draft: DraftWeights | None = None
    places: Mapping[str, Place] = field(default_factory=dict, repr=False, compare=False)

    @property
    def all_layers(self) -> tuple[Layer, ...]:
        """The layers, and that of the head that predicts further tokens."""
        return self.layers if self.draft is None else (*self.layers, self.draft.layer)

    @property
    def step_bytes(self) -> int:
        """Weight bytes that a step of one token reads: all but the embeddings', and of experts
        those that it chose."""
        total = self.output.n_bytes
        total += 0 if self.inputs is None else _n_bytes(self.inputs.projection)
        if (draft := self.draft) is not None:
            total += _n_bytes((draft.of_token, draft.of_state), draft.layer.qkv)
        total += 0 if self.streams is None else _n_bytes(*self.streams.first, *self.streams.last)
        for layer in self.layers:
            total += _n_bytes(layer.qkv, layer.gate, layer.wo, layer.router)
            total += _n_bytes(layer.gate_up, layer.w_down, layer.laurel_in, layer.laurel_out)
            if (experts := layer.experts) is not None:
                n_bytes = _n_bytes(layer.expert_gate_up, layer.expert_down)
                total += n_bytes * experts.n_active // experts.n_experts
            total += 0 if layer.input is None else _n_bytes(layer.input.gate, layer.input.last)
        return total


def _n_bytes(*groups: tuple[Product, ...]) -> int:
    return sum(product.weight.n_bytes for group in groups for product in group)


def load_weights(
    checkpoint: Checkpoint,
    memory: Memory,
    *,
    float32: bool,
    n_threads: int = 1,
    on_layer: Callable[[int], None] = lambda _: None,
) -> Weights:
    """Lays out every weight, read by up to n_threads threads; on_layer(i) is called when layer i
    is laid out, the last of its rows may still wait (a bar's tick)."""
    with ReadAhead(n_threads) as reader:
        queue = RowQueue.of(memory)
        packer = Packer(checkpoint, memory, float32, reader, queue)
        weights = lay_out(packer, checkpoint.config, on_layer)
        if queue is not None:
            queue.flush()
        return weights


def lay_out(packer: Packer, config: ModelConfig, on_layer: Callable[[int], None]) -> Weights:
    """Every weight, in the order in which a step reads them."""

    def matrix(name: str) -> Weight:
        return packer.products([name])[0].weight

    token_embd = matrix("token_embd")
    position_embd = None if config.learned_positions is None else matrix("position_embd")
    inputs = load_inputs(packer, config)
    streams = load_streams(packer, config)
    layers = []
    for i, spec in enumerate(config.layers):
        layers.append(load_layer(packer, f"layers.{i}.", spec, config))
        on_layer(i)
    output = token_embd if config.tie_embeddings else matrix("output")
    output_norm = packer.norm("output_norm", config.output_norm)
    draft = None if config.draft_layer is None else _load_draft(packer, config, config.draft_layer)
    every = tuple(layers)
    return Weights(
        token_embd, position_embd, inputs, streams, every, output_norm, output, draft, packer.places
    )


def _load_draft(packer: Packer, config: ModelConfig, spec: LayerSpec) -> DraftWeights:
    prefix = f"layers.{config.n_layers}."
    layer = load_layer(packer, prefix, spec, config)
    of_token, of_state = (packer.products([prefix + name])[0] for name in PRODUCTS)
    norms = [packer.norm(prefix + name, config.output_norm) for name in NORMS]
    return DraftWeights(layer, of_token, of_state, *norms)
