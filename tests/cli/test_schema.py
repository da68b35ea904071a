"""The schema and the reference page are made of the table, and what is in ``docs`` is what is made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from pico.cli.agent_options import AGENT
from pico.cli.node_options import NODE
from pico.cli.schema import FILES, main, reference, schema
from pico.cli.settings import Program

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", FILES)
def test_what_is_in_docs_is_what_is_made(name: str) -> None:
    assert (DOCS / name).read_text() == FILES[name](), "run make reference"


def test_the_files_are_written(tmp_path: Path) -> None:
    assert main([str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == set(FILES)


@pytest.mark.parametrize("program", [NODE, AGENT])
def test_a_schema_is_one(program: Program[Any]) -> None:
    made = schema(program)
    Draft202012Validator.check_schema(made)
    assert set(made["properties"]) == set(program.settings)
    json.dumps(made)


@pytest.mark.parametrize("program", [NODE, AGENT])
def test_every_setting_has_its_row_on_the_page(program: Program[Any]) -> None:
    page = reference().partition(f"\n## {program.name}\n")[2].partition("\n## ")[0]
    for row in program.settings.values():
        assert f"\n| `{row.key}` | " in page
        assert f"`{row.variable}`" in page
        assert not row.flag or f"`{row.flag}`" in page
    assert all(line.count("|") == 7 for line in page.splitlines() if line.startswith("|"))
