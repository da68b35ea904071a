"""What has changed between two JSON values, as a JSON merge patch (RFC 7396).

Responsible for: the difference, and nothing but what differs. Refuses to know: what the values say, and who keeps them.

In a merge patch null takes a member away, so a member of a value is never null: what is not known is left out. A list
is one value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["difference"]

_ABSENT: Any = object()


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The patch that makes ``after`` of ``before``; empty when they are equal. Neither has a member that is None."""
    patch: dict[str, Any] = dict.fromkeys(before.keys() - after.keys())
    for name, value in after.items():
        old = before.get(name, _ABSENT)
        if old is value or (old == value and type(old) is type(value)):
            continue
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            value = difference(old, value)
        patch[name] = value
    return patch
