"""What a schema takes for a file of settings is what the program takes: names and types alike, value by value."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from pico.cli.agent_options import AGENT
from pico.cli.kinds import FILE
from pico.cli.node_options import NODE
from pico.cli.schema import schema
from pico.cli.settings import Program, Setting
from pico.cli.sources import check_file
from tests.cli.test_options import ROWS

VALIDATORS = {program.name: Draft202012Validator(schema(program)) for program in (NODE, AGENT)}

WRONG: list[Any] = [None, [], {}, {"a": "b"}, [["a"]], [None], [{}], {"endpoint": "a", "service": "b"}]
"""What no setting may be, but lists may be empty."""


def faults(program: Program[Any], document: dict[str, Any]) -> list[str]:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(document, file)
        file.flush()
        return [str(fault) for fault in check_file(program, file.name, {"SET": "1"})[1]]


def good(row: Setting) -> list[Any]:
    text = str(Path(__file__)) if row.kind is FILE else row.kind.sample
    plain: list[Any] = [text]
    if text.isdigit():
        plain.append(int(text))
    if row.kind.many:
        plain += [[text], []]
    if row.key == "endpoints":
        plain.append([{"endpoint": "web", "service": "http://localhost:3000"}])
    return plain


def wrong(row: Setting) -> list[Any]:
    values = [value for value in WRONG if not (row.kind.many and value == [])]
    takes_any_text = row.kind.schema.get("type") == ["string", "number", "boolean"]
    return values if takes_any_text else [*values, True, "of no kind: x y", -1.5]


@st.composite
def documents(draw: st.DrawFn, program: Program[Any]) -> tuple[dict[str, Any], bool]:
    """A document, and whether it is good."""
    document: dict[str, Any] = {}
    is_good = True
    for row in draw(
        st.lists(st.sampled_from(list(program.settings.values())), max_size=3, unique_by=lambda row: row.key)
    ):
        fits = draw(st.booleans())
        is_good = is_good and fits
        document[row.key] = draw(st.sampled_from(good(row) if fits else wrong(row)))
    if draw(st.booleans()) and draw(st.booleans()):
        document[draw(st.sampled_from(["frob", "proxy-port", "PROXY_PORT", "on", "1"]))] = "1"
        is_good = False
    return document, is_good


ABOUT_VALUES = ("more than", "less than", "at least", "because", "one of the two")
"""Complaints about what stands beside: no schema knows of them."""


def agree(program: Program[Any], document: dict[str, Any], is_good: bool) -> None:
    found = [fault for fault in faults(program, document) if not any(words in fault for words in ABOUT_VALUES)]
    assert VALIDATORS[program.name].is_valid(document) == is_good, document
    assert (not found) == is_good, (document, found)


@pytest.mark.parametrize("program,row", ROWS)
def test_each_value_of_each_setting_is_judged_alike(program: Program[Any], row: Setting) -> None:
    for value in good(row):
        agree(program, {row.key: value}, True)
    for value in wrong(row):
        agree(program, {row.key: value}, False)


@given(documents(NODE))
def test_the_schema_and_a_node_agree(case: tuple[dict[str, Any], bool]) -> None:
    agree(NODE, *case)


@given(documents(AGENT))
def test_the_schema_and_an_agent_agree(case: tuple[dict[str, Any], bool]) -> None:
    agree(AGENT, *case)


@given(st.sampled_from(list(NODE.settings.values())), st.sampled_from(["${NOPE:-x}", "a ${SET}"]))
def test_a_schema_leaves_variables_to_the_program(row: Setting, text: str) -> None:
    assert VALIDATORS[NODE.name].is_valid({row.key: text})


@given(st.text(max_size=200) | st.text("a:-[]{}#&*!|>'\"%@`,? \n\t${}proxy_port1", max_size=60))
def test_any_text_is_a_file_or_is_refused(text: str) -> None:
    with tempfile.NamedTemporaryFile("wb", suffix=".yaml") as file:
        file.write(text.encode("utf-8", "surrogatepass"))
        file.flush()
        check_file(NODE, file.name, {})
