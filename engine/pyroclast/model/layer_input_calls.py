"""Per-layer embeddings: the calls that tell every layer of the token itself, and their buffers.

Before the layers each token's row of the table is looked up, and its embedding projected, for all
layers at once; a layer then reads its share of both.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.families.config import ModelConfig
from pyroclast.model.calls import call_embed, call_product, call_quantize, call_residual
from pyroclast.model.packer import Product
from pyroclast.model.streams import Streams
from pyroclast.model.weights import Weights
from pyroclast.model.workspace import Activations
from pyroclast_kernels.activation import ACTIVATIONS
from pyroclast_kernels.batch import Batch
from pyroclast_kernels.memory import Memory
from pyroclast_kernels.program import Recorder

Array = NDArray[Any]


class LayerInputs:
    """Records what layers are told, on one batch and the states x (max_batch_tokens, d_model); what
    each makes of it is gated by x and added to x, or with further residual streams (streams.py)
    gated by what these say, and added to all but x."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        batch: Batch,
        x: Array,
        streams: Streams,
        memory: Memory,
    ) -> None:
        self._config, self._weights, self._batch = config, weights, batch
        self._targets = streams.others or [x]
        given, shared = config.layer_input, weights.inputs
        self.is_there = given is not None
        if given is None or shared is None:
            return
        n, zeros, n_values = batch.max_batch_tokens, memory.zeros, config.n_layers * given.width
        layers = [layer.input for layer in weights.layers if layer.input is not None]
        readers = [
            p.weight for p in (*shared.projection, *(p for each in layers for p in each.gate))
        ]
        q8 = Activations.zeros(n, config.d_model, readers, memory, keep=False).q8
        self._in, self._told = Activations(x, q8), Activations(streams.told, q8)
        self._embedded = zeros((n, n_values), np.float32)
        self._projected = zeros((n, n_values), np.float32)
        self._gate = zeros((n, given.width), np.float32)
        last = [p.weight for each in layers for p in each.last]
        self._out = Activations.zeros(n, given.width, last, memory, keep=False)
        self._added = zeros((n, config.d_model), np.float32)

    def record(self, ops: Recorder) -> None:
        """What all layers will be told, of the embeddings in x."""
        given, shared = self._config.layer_input, self._weights.inputs
        if given is None or shared is None:
            return
        batch, n, scale = self._batch, self._batch.n_tokens_at, math.sqrt(given.width)
        call_embed(ops, shared.table, batch.token_ids, self._embedded, n, scale=scale)
        self._products(ops, shared.projection, self._in, self._projected)

    def record_layer(self, ops: Recorder, i: int, x_scale: Array | None) -> None:
        """Adds to x what layer i makes of it (to the other streams, where there are some); then
        x_scale multiplies x."""
        given, shared = self._config.layer_input, self._weights.inputs
        own = self._weights.layers[i].input
        if given is None or shared is None or own is None:
            return
        n, spec, d_model = self._batch.n_tokens_at, self._config.layers[i], self._config.d_model
        self._products(ops, own.gate, self._told, self._gate)
        first = i * given.width
        out = self._out.part(given.width, [product.weight for product in own.last])
        ops.call(
            "layer_input",
            n_tokens=n,
            gate=self._gate,
            embedded=self._embedded[:, first:],
            projected=self._projected[:, first:],
            weight=shared.norm.weight,
            out=out.values,
            out_q8=out.q8,
            width=given.width,
            row_stride=self._projected.shape[1],
            activation=ACTIVATIONS.index(given.activation),  # check_supported refuses others
            # The norm of y / sqrt(d_model) is that of y with an eps d_model times as large.
            eps=self._config.output_norm.eps * d_model,
            scale=math.sqrt(0.5),
        )
        for product in own.last:
            call_product(ops, out, product, self._added, n)
        for target in self._targets:
            call_residual(ops, target, self._added, own.norm_after, spec, n, x_scale)

    def _products(
        self, ops: Recorder, products: tuple[Product, ...], x: Activations, out: Array
    ) -> None:
        """Of x as it is: there is no norm before them."""
        if any(product.weight.takes_q8 for product in products):
            call_quantize(ops, x, self._batch.n_tokens_at)
        for product in products:
            call_product(ops, x, product, out, self._batch.n_tokens_at)
