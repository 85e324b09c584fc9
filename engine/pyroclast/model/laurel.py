"""Products of low rank beside a layer's mixer (LAuReL): the calls, and their buffers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.families.config import ModelConfig
from pyroclast.families.layer_spec import LayerSpec
from pyroclast.model.calls import call_product, call_quantize, call_residual
from pyroclast.model.layer_weights import Layer
from pyroclast.model.weights import Weights
from pyroclast.model.workspace import Activations
from pyroclast_kernels.batch import Batch
from pyroclast_kernels.memory import Memory
from pyroclast_kernels.program import Recorder

Array = NDArray[Any]


class Laurel:
    """Records them on one batch and the states x (max_batch_tokens, d_model)."""

    def __init__(
        self, config: ModelConfig, weights: Weights, batch: Batch, x: Array, memory: Memory
    ) -> None:
        self._batch, self._x = batch, x
        ranks = [spec.laurel_rank for spec in config.layers if spec.laurel_rank is not None]
        if not ranks:
            return
        n = batch.max_batch_tokens
        readers = [product.weight for layer in weights.layers for product in layer.laurel_out]
        self._middle = Activations.zeros(n, max(ranks), readers, memory, keep=True)
        self._out = memory.zeros((n, config.d_model), np.float32)
        self._share = memory.constant(np.full(1, math.sqrt(0.5), np.float32))

    def record_products(self, ops: Recorder, spec: LayerSpec, layer: Layer, y: Activations) -> None:
        """Before the mixer: the products of what it reads."""
        if spec.laurel_rank is None:
            return
        n, readers = self._batch.n_tokens_at, [product.weight for product in layer.laurel_out]
        middle = self._middle.part(spec.laurel_rank, readers, keep=True)
        assert middle.values is not None
        for product in layer.laurel_in:
            call_product(ops, y, product, middle.values, n)
        if middle.q8 is not None:
            call_quantize(ops, middle, n)
        for product in layer.laurel_out:
            call_product(ops, middle, product, self._out, n)

    def record_sum(self, ops: Recorder, spec: LayerSpec, layer: Layer, y: Activations) -> None:
        """After the mixer, whose result is added to x: adds the normed products and what these
        read, and divides by sqrt(2)."""
        if spec.laurel_rank is None:
            return
        assert y.values is not None
        n = self._batch.n_tokens_at
        call_residual(ops, self._x, self._out, layer.laurel_norm, spec, n)
        call_residual(ops, self._x, y.values, None, spec, n, self._share)
