"""What code that may be compiled by mypyc has to know of that (``setup.py`` says which does).

Responsible for: telling whether it is, and keeping classes out of it. Refuses to know: everything else.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TypeVar

__all__ = ["is_compiled", "plain_class"]

C = TypeVar("C", bound=type)


def is_compiled() -> bool:
    """Whether the modules that a request passes through are compiled; a wheel may bring them so."""
    module = find_spec("pico.transport.stream")
    return module is not None and module.origin is not None and not module.origin.endswith(".py")


def plain_class(plain: C) -> C:
    """Keep a class of a compiled module one of Python's own; needed where it extends one that is not compiled.

    mypyc would give its objects a fixed layout with a dictionary behind it, and hand the garbage collector a reference
    that they do not own: the list of their weak references. The first such reference ends in a crash.
    """
    return plain
