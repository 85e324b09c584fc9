"""Triton's interpreter without most of the work it repeats: kernels take a third of the time.

The same NumPy calls run as before.  Other versions of Triton are left as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, cached_property
from types import ModuleType
from typing import Any

_VERSION = "3.6."


def make_quick() -> None:
    """Changes triton.runtime.interpreter, for all kernels of this process."""
    import triton
    from triton.runtime import interpreter

    if not triton.__version__.startswith(_VERSION):
        return
    # Without debug it computes whether each sum of integers overflows, and tells nobody.
    builder = interpreter.interpreter_builder
    builder.options = replace(builder.options, sanitize_overflow=builder.options.debug)
    interpreter._get_np_dtype = _known_types(interpreter)
    interpreter._patch_lang = _patched_once(interpreter)
    _type_tuples_late(interpreter.tl.core)


def _known_types(interpreter: ModuleType) -> Callable[[Any], Any]:
    """The NumPy type of a Triton type, looked up once: the original makes its table for each."""
    ask, block_type = interpreter._get_np_dtype, interpreter.tl.block_type
    known: dict[str, Any] = {}

    def np_dtype(given: Any) -> Any:
        element = given.element_ty if isinstance(given, block_type) else given
        if element.name not in known:
            known[element.name] = ask(element)
        return known[element.name]

    return np_dtype


def _patched_once(interpreter: ModuleType) -> Callable[[Any], Any]:
    """Replaces the language's functions when a kernel starts, and not again in each function that
    the kernel calls: that goes through every member of four modules."""
    patch, nothing = interpreter._patch_lang, interpreter._LangPatchScope()
    tl = interpreter.tl

    @cache
    def langs(fn: Any) -> list[ModuleType]:
        return [each for each in fn.__globals__.values() if each is tl or each is tl.core]

    def patch_once(fn: Any) -> Any:
        is_done = all(each.range.__module__ == interpreter.__name__ for each in langs(fn))
        return nothing if is_done else patch(fn)

    return patch_once


def _type_tuples_late(core: ModuleType) -> None:
    """Makes the type of a tuple when somebody asks for it: every shape is one, few are asked."""
    init = core.tuple.__init__

    def without_type(self: Any, args: Any, type: Any = None) -> None:
        if type is None:
            self.values = list(args)
        else:
            init(self, args, type)

    late = cached_property(lambda self: core._type_for_tuple_values(self.values))
    late.__set_name__(core.tuple, "type")
    core.tuple.__init__, core.tuple.type = without_type, late
