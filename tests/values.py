"""Values like others, but for some of their parts."""

from __future__ import annotations

from typing import Any, TypeVar

from pico.protocol.value import Value

V = TypeVar("V", bound=Value)


def but(value: V, **changes: Any) -> V:
    """The same value with these parts in place of its own."""
    parts = dict(zip(value.__match_args__, value.parts, strict=True))
    return type(value)(**(parts | changes))
