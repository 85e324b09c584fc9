"""What `sample` and `softmax` are compared with: the same work in other libraries.

numpy         good NumPy code: float32, vectorised, argsort or argpartition for the cuts
numpy choice  the usual way to draw in NumPy: Generator.choice(p=...), which needs float64
torch         softmax, sort or topk for the cuts, and multinomial, on one thread; optional
llama.cpp     llama_sampler_apply of a chain; filling its array of candidates is not timed

torch and llama_cpp are imported when they are first used.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

Run = Callable[[], Any]


# ---- NumPy ----------------------------------------------------------------------------------


def numpy_softmax(x: Any, temperature: float) -> Any:
    e = np.exp((x - x.max()) * np.float32(1 / temperature))
    e /= e.sum()
    return e


def numpy_draw(p: Any, u: float) -> int:
    c = np.cumsum(p)
    return int(np.searchsorted(c, np.float32(u) * c[-1], side="right"))


def numpy_sampler(x: Any, p: dict[str, Any], rng: np.random.Generator) -> Run:
    temperature = p["temperature"]

    def top_p_cut(ids: Any, probs: Any) -> int:
        n_kept = 1 + int(np.searchsorted(np.cumsum(probs), np.float32(p["top_p"])))
        return int(ids[numpy_draw(probs[:n_kept], rng.random())])

    def top_k_top_p() -> int:
        ids = np.argpartition(x, -p["top_k"])[-p["top_k"] :]
        ids = ids[np.argsort(-x[ids])]
        return top_p_cut(ids, numpy_softmax(x[ids], temperature))

    def top_p() -> int:
        ids = np.argsort(-x)
        return top_p_cut(ids, numpy_softmax(x, temperature)[ids])

    def min_p() -> int:
        probs = numpy_softmax(x, temperature)
        ids = np.flatnonzero(probs >= np.float32(p["min_p"]) * probs.max())
        return int(ids[numpy_draw(probs[ids], rng.random())])

    if temperature == 0:
        return lambda: int(np.argmax(x))
    if "top_k" in p:
        return top_k_top_p
    if "top_p" in p:
        return top_p
    if "min_p" in p:
        return min_p
    return lambda: numpy_draw(numpy_softmax(x, temperature), rng.random())


def numpy_choice(x: Any, temperature: float) -> Run:
    rng = np.random.default_rng(1)

    def draw() -> int:
        p = numpy_softmax(x, temperature).astype(np.float64)
        return int(rng.choice(len(p), p=p / p.sum()))

    return draw


# ---- llama.cpp ------------------------------------------------------------------------------


class LlamaSampler:
    """A chain in llama.cpp's default order: top-k, top-p, min-p, temperature, draw."""

    def __init__(self, logits: Any, p: dict[str, Any]) -> None:
        import ctypes

        import llama_cpp as lib

        self.lib, self.ctypes, n = lib, ctypes, len(logits)
        chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        if p["temperature"] == 0:
            lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_greedy())
        else:
            if "top_k" in p:
                lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_top_k(p["top_k"]))
            for name in ("top_p", "min_p"):
                if name in p:
                    init = getattr(lib, f"llama_sampler_init_{name}")
                    lib.llama_sampler_chain_add(chain, init(p[name], 1))
            lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_temp(p["temperature"]))
            lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_dist(7))
        self.chain = chain
        fields = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])
        self.fresh = np.zeros(n, fields)
        self.fresh["id"], self.fresh["logit"] = np.arange(n), logits
        self.data = self.fresh.copy()
        self.array = lib.llama_token_data_array()

    def reset(self) -> None:
        """Fills the array of candidates; not timed."""
        self.data[:] = self.fresh
        self.array.data = self.data.ctypes.data_as(self.ctypes.POINTER(self.lib.llama_token_data))
        self.array.size, self.array.selected, self.array.sorted = len(self.data), -1, False
        self.pointer = self.ctypes.byref(self.array)

    def run(self) -> int:
        self.lib.llama_sampler_apply(self.chain, self.pointer)
        return int(self.data[self.array.selected]["id"])


def llama_version() -> str:
    """The version of llama_cpp."""
    import llama_cpp

    return str(llama_cpp.__version__)


# ---- torch ----------------------------------------------------------------------------------


@cache
def torch_version() -> str:
    """Its version, or "" where it is not installed.  It runs on one thread from here on."""
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        return ""
    torch.set_num_threads(1)
    return str(torch.__version__)


def torch_softmax(logits: Any, temperature: float) -> Run:
    import torch

    x = torch.from_numpy(logits)
    softmax: Run = torch.inference_mode()(lambda: torch.softmax(x / temperature, 0))
    return softmax


def torch_sampler(logits: Any, p: dict[str, Any]) -> Run:
    import torch

    x, temperature = torch.from_numpy(logits), p["temperature"]

    def draw(probs: Any) -> Any:
        return torch.multinomial(probs, 1)

    def top_p_draw(sorted_logits: Any, ids: Any) -> int:
        probs = torch.softmax(sorted_logits / temperature, 0)
        before = torch.cumsum(probs, 0) - probs
        return int(ids[draw(probs.masked_fill(before >= p["top_p"], 0.0))])

    def run() -> int:
        if temperature == 0:
            return int(torch.argmax(x))
        if "top_k" in p:
            return top_p_draw(*torch.topk(x, p["top_k"]))
        if "top_p" in p:
            return top_p_draw(*torch.sort(x, descending=True))
        probs = torch.softmax(x / temperature, 0)
        if "min_p" in p:
            probs = probs.masked_fill(probs < p["min_p"] * probs.max(), 0.0)
        return int(draw(probs))

    sampler: Run = torch.inference_mode()(run)
    return sampler
