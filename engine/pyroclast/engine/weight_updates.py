"""What `LLM.update_weights` does: other weights between two steps, and no cache of the old ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from pyroclast.engine import checks
from pyroclast.engine.cache_options import CacheOptions
from pyroclast.engine.loop import Loop
from pyroclast.engine.model_facts import ModelFacts
from pyroclast.engine.saved_states import SavedStates
from pyroclast.engine.tiered_cache import Tier
from pyroclast.model.adapters import AdapterKey


class UpdatableModel(ModelFacts):
    """A loaded model whose weights can be changed in place."""

    _loop: Loop
    _cache: CacheOptions
    _states: SavedStates
    _adapters: Mapping[str, AdapterKey]
    # A request that began before an adapter changed names its pages by the old one: memory forgets
    # them with the next update, the disk would not.
    _has_changed_adapters = False

    def update_weights(self, tensors: Mapping[str, Any], *, adapter: str | None = None) -> None:
        """Gives weights other values, in place, between two steps: {"name": array}, by the names of
        a Hugging Face folder (a `state_dict()`) or of a GGUF file.  Weights that are not named stay
        as they are.  Values are floating-point numbers, of NumPy or torch; a quantized model
        quantizes them to the formats that it has.

        adapter: the tensors are all A and B of that loaded adapter instead, by peft's names or
        GGUF's; its scale stays.

        Cached prefixes of the old weights are dropped.  Requests that run keep the tokens that they
        have and go on with the new weights, as if these had read the text from the start.
        RequestError, with the tensor's name, for what does not fit; the old weights are whole then.
        A model of a packed file can only change its adapters."""
        self._loop.check_open()
        if adapter is None:
            prepared = self.model.prepare_update(tensors)
            self._change(lambda: self.model.update(prepared))
            return
        # Late: few models are updated.
        from pyroclast.checkpoint.adapter.given import given_products
        from pyroclast.checkpoint.adapter.open import fingerprint
        from pyroclast.model.update import uninterrupted

        key = checks.find_adapter(adapter, self._adapters)
        assert key.slot is not None, "the base model is no adapter"
        slot, products = key.slot, given_products(self.model.config, key.scales, tensors)
        found = replace(key, fingerprint=fingerprint(adapter, products))

        def lay() -> None:
            self._has_changed_adapters = True
            self.model.adapters.set(slot, products, 1.0)
            self._adapters = {**self._adapters, adapter: found}

        self._change(lambda: uninterrupted(lay))

    def _change(self, lay: Callable[[], None]) -> None:
        """Runs `lay` while no step runs.  Everything that was computed is computed again."""
        old = tuple[Tier, ...]()

        def work() -> None:
            nonlocal old
            self._loop.check_open()
            self._loop.stepper.distrust()
            old = self._prefixes.tiers
            self._states.renew(())  # first: no page of new weights may reach a tier of the old ones
            try:
                lay()
            finally:  # Ctrl-C is raised when the new weights are there
                keeps_disk = not self._has_changed_adapters
                self._states.renew(self._cache.tiers(self.model) if keeps_disk else ())

        try:
            self._loop.run_for_all(work, steps=False)
        finally:
            for tier in old:
                tier.close()
