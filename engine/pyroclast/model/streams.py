"""Residual streams beside the one that layers change: the calls of alternating updates (AltUp), and
their buffers.

The first stream is the workspace's x, so a layer runs on it as on the state of any other model.
Without further streams nothing is recorded and no memory is taken.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyroclast.families.config import ModelConfig
from pyroclast.model.calls import call_product, call_quantize, call_residual
from pyroclast.model.packer import Product
from pyroclast.model.weights import Weights
from pyroclast.model.workspace import Activations
from pyroclast_kernels.batch import Batch
from pyroclast_kernels.memory import Memory
from pyroclast_kernels.program import Recorder

Array = NDArray[Any]
_FLOOR = 1e-5  # of a stream's mean square, by which it is divided


class Streams:
    """Records what begins, predicts, corrects and ends the streams (n, max_batch_tokens, d_model),
    of which the first is x."""

    def __init__(
        self, config: ModelConfig, weights: Weights, batch: Batch, streams: Array, memory: Memory
    ) -> None:
        self._config, self._weights, self._batch = config, weights, batch
        self._streams, self._x = streams, streams[0]
        self.others: list[Array] = []
        self.told = self._x  # by which a layer's input of the token itself is gated
        if config.streams is None or weights.streams is None:
            return
        self.others = [streams[j] for j in config.streams.others]
        shape, zeros = (batch.max_batch_tokens, config.d_model), memory.zeros
        self.told = zeros(shape, np.float32)
        self._predicted = zeros(shape, np.float32)
        self._share = memory.constant(np.full(1, 1 / config.streams.n, np.float32))
        both = (*weights.streams.first, *weights.streams.last)
        readers = [product.weight for products in both for product in products]
        self._q8 = Activations.zeros(*shape, readers, memory, keep=False).q8

    def record_first(self, ops: Recorder) -> None:
        """The other streams, of the embeddings in x and as large as these."""
        if self._weights.streams is None:
            return
        for products, out in zip(self._weights.streams.first, self.others, strict=True):
            self._matched(ops, products, self._x, out)

    def record_predict(self, ops: Recorder, i: int) -> None:
        """What layer i begins with."""
        own = self._weights.layers[i].streams
        if own is not None:
            ops.call(
                "altup_predict",
                n_tokens=self._batch.n_tokens_at,
                streams=self._streams,
                weight=own.norm.weight,
                router=own.router,
                coefs=own.predict,
                out=self._predicted,
                **self._sizes(i),
            )

    def record_correct(self, ops: Recorder, i: int) -> None:
        """What layer i has changed in x, for all streams; and what gates its input."""
        own = self._weights.layers[i].streams
        if own is not None:
            ops.call(
                "altup_correct",
                n_tokens=self._batch.n_tokens_at,
                streams=self._streams,
                predicted=self._predicted,
                weight=own.norm.weight,
                router=own.router,
                coefs=own.correct,
                out_scale=own.scale,
                out=self.told,
                **self._sizes(i),
            )

    def record_last(self, ops: Recorder) -> None:
        """x = the mean of the streams, after products that make the others as large as the first.
        Each goes where the one before it was, which nobody reads any more."""
        if self._weights.streams is None:
            return
        n, spec = self._batch.n_tokens_at, self._config.layers[-1]
        rooms = [self._predicted, *self.others[:-1]]
        pairs = zip(self._weights.streams.last, self.others, rooms, strict=True)
        for products, stream, out in pairs:
            self._matched(ops, products, stream, out)
        for room in rooms:
            share = self._share if room is rooms[-1] else None
            call_residual(ops, self._x, room, None, spec, n, share)

    def _matched(
        self, ops: Recorder, products: tuple[Product, ...], stream: Array, out: Array
    ) -> None:
        """out = the product of a stream, as large as x."""
        n, x = self._batch.n_tokens_at, Activations(stream, self._q8)
        if any(product.weight.takes_q8 for product in products):
            call_quantize(ops, x, n)
        for product in products:
            call_product(ops, x, product, out, n)
        d_model = self._config.d_model
        ops.call("match_rms", n_tokens=n, x=self._x, y=out, d_model=d_model, floor=_FLOOR)

    def _sizes(self, i: int) -> dict[str, Any]:
        assert self._config.streams is not None
        d_model = self._config.d_model
        return {
            "d_model": d_model,
            "n_streams": self._config.streams.n,
            "stream_stride": self._batch.max_batch_tokens * d_model,
            "eps": self._config.layers[i].norm.eps,
            "scale": 1 / d_model,
        }
