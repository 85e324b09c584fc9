"""Checks this machine's tuned table against the variants there are: in a Selection, the table comes
after explicit rules and before the fixed order.

An entry is passed over, and a note says why, if its variant does not exist, cannot run here, is the
NumPy reference (its products are those of BLAS, whose bits depend on the batch), leaves the
default's bit group without the table saying so, or if the kernels for few and for many tokens
would differ in bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from pyroclast_kernels import tables

if TYPE_CHECKING:
    from pyroclast_kernels.registry import Variant

    Known = Callable[[str], Mapping[str, Variant]]


class Tuned:
    """The choices of the table of this machine and build, or of none where `frozen`."""

    def __init__(self, frozen: bool) -> None:
        self._table, why = (None, tables.FROZEN_NOTE) if frozen else tables.current()
        # Why there is no table, or what of it is passed over; grows as choices are asked for.
        self.notes = [why] if why else []

    @property
    def name(self) -> str:
        """The table's name in results: "defaults" where there is none."""
        return tables.DEFAULTS if self._table is None else self._table.name

    def variants(
        self, default: Variant, format: str, shape: str, known: Known
    ) -> tuple[Variant, Variant]:
        """The variants for few and for many tokens of a shape class.  known: op -> its variants,
        asked only where the table departs from the default: it may load libraries."""
        if self._table is None:
            return default, default
        few, many = (self._choice(default, format, shape, t, known) for t in tables.TOKEN_CLASSES)
        if few.bit_group != many.bit_group:
            what = f"{default.op}.{format} {shape}"
            self._note(f"{what}: the bits would depend on the number of tokens")
            return default, default
        return few, many

    def shapes(self, default: Variant, format: str, known: Known) -> dict[str, list[str]]:
        """variant -> the classes, "1024x2048 few" say, where it stands in for the default."""
        found: dict[str, list[str]] = {}
        for entry in () if self._table is None else self._table.entries:
            if (entry.op, entry.format) == (default.op, format):
                pair = self.variants(default, format, entry.shape, known)
                chosen = pair[tables.TOKEN_CLASSES.index(entry.tokens)]
                if chosen is not default:
                    found.setdefault(chosen.name, []).append(f"{entry.shape} {entry.tokens}")
        return found

    def _choice(
        self, default: Variant, format: str, shape: str, tokens: str, known: Known
    ) -> Variant:
        assert self._table is not None, "asked only where there is a table"
        name = self._table.variant(default.op, format, shape, tokens)
        if name is None or name == default.name:
            return default
        variant, reason = known(default.op).get(name), ""
        if variant is None or name == "numpy" or format not in variant.formats:
            reason = "is no compiled variant of it"
        elif variant.unavailable:
            reason = f"cannot run here: {variant.unavailable}"
        elif variant.bit_group != default.bit_group and not self._table.any_bits:
            reason = f"is not of the bit group {default.bit_group}"
        if variant is None or reason:
            self._note(f"{default.op}.{format}={name} {reason}")
            return default
        return variant

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
