"""A difference makes the later value of the earlier one, and is no larger than it must be."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pico.observability.merge_patch import difference

scalars = st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "a", "b"]) | st.floats(0, 1)
lists = st.lists(scalars | st.none(), max_size=2)
names = st.sampled_from(["a", "b", "c"])
values = st.dictionaries(
    names, st.recursive(scalars | lists, lambda inner: st.dictionaries(names, inner, max_size=3)), max_size=3
)


def applied(value: Any, patch: Any) -> Any:
    """RFC 7396, word for word."""
    if not isinstance(patch, dict):
        return patch
    result = dict(value) if isinstance(value, dict) else {}
    for name, part in patch.items():
        if part is None:
            result.pop(name, None)
        else:
            result[name] = applied(result.get(name), part)
    return result


@given(values, values)
def test_applied_to_the_earlier_value_it_gives_the_later(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert applied(before, difference(before, after)) == after


@given(values)
def test_nothing_differs_from_itself(value: dict[str, Any]) -> None:
    assert difference(value, dict(value)) == {}


def test_only_what_differs_is_in_it() -> None:
    before = {"table": {"kept": {"a": 1, "b": 2}, "gone": {"a": 1}}, "same": [1, 2], "list": [1]}
    after = {"table": {"kept": {"a": 1, "b": 3}, "new": {"a": 1}}, "same": [1, 2], "list": [1, 2]}
    assert difference(before, after) == {"table": {"kept": {"b": 3}, "gone": None, "new": {"a": 1}}, "list": [1, 2]}


def test_a_truth_is_not_a_one() -> None:
    assert difference({"a": True}, {"a": 1}) == {"a": 1}
