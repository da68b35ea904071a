"""From a numbered rule to the test that covers it, and from a stem to its files.

Responsible for: reading rules out of ``spec/*.md``, names of rules out of tests and code, and listing every hole in
between as one sentence. Refuses to know: what the rules say, and whether the tests are any good.

Nothing is imported and nothing is run: Markdown is read by line, Python by ``ast`` and ``tokenize``. So the scan sees
the same tree on every machine, and a test that is skipped here still counts where it runs.
"""

from __future__ import annotations

import ast
import json
import re
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

__all__ = ["Place", "Tree"]

_RULE_LINE = re.compile(r"\s*(?:[-*] )?\*\*([A-Z]{2,})-([0-9]+)\*\*")
_NAME = re.compile(r"\b([A-Z]{2,})-([0-9]+)\b")
_CODE_FENCE = re.compile(r"\s*(```|~~~)")
_RULELESS = frozenset({"README.md"})


class Place(NamedTuple):
    """A name, and the line that gives it."""

    name: str
    path: Path
    line: int

    def __str__(self) -> str:
        return f"{self.path.name}:{self.line} ({self.name})"


@dataclass(frozen=True)
class Tree:
    """The folders ``spec``, ``pico`` and ``tests`` under one root. Every ``holes_...`` is empty when all is well."""

    root: Path

    def documents(self) -> list[Path]:
        return sorted(path for path in (self.root / "spec").glob("*.md") if path.name not in _RULELESS)

    def rules(self) -> list[Place]:
        """Every numbered rule, in the order of the documents; a rule given twice is there twice."""
        return [rule for document in self.documents() for rule in _rules_of(document)]

    def covered(self) -> list[Place]:
        """Every rule that a test names with ``@covers``."""
        return [place for path in self._python("tests") for place in _covers_of(path)[0]]

    def cited(self) -> list[Place]:
        """Every rule that a comment or docstring of the product names."""
        prefixes = {_prefix(rule.name) for rule in self.rules()}
        return [
            place for path in self._python("pico") for place in _citations_of(path) if _prefix(place.name) in prefixes
        ]

    # What may be wrong, one sentence each.

    def holes_in_numbering(self) -> Iterator[str]:
        """One prefix for each document, no prefix twice, numbers from 1 without a gap and in order."""
        owners: dict[str, Path] = {}
        for document in self.documents():
            rules = _rules_of(document)
            prefixes = sorted({_prefix(rule.name) for rule in rules})
            if len(prefixes) != 1:
                yield f"{document.name}: rules of one document share one prefix, these have {prefixes or 'no rule'}"
            for prefix in prefixes:
                if owners.setdefault(prefix, document) != document:
                    yield f"{document.name}: the prefix {prefix} belongs to {owners[prefix].name}"
                numbers = [_number(rule.name) for rule in rules if _prefix(rule.name) == prefix]
                yield from _holes_in_sequence(document, prefix, numbers)

    def holes_in_coverage(self) -> Iterator[str]:
        """A rule without a test, a test without a rule, and a ``@covers`` that nobody can read or nobody runs."""
        rules = {rule.name for rule in self.rules()}
        covered = self.covered()
        for rule in self.rules():
            if rule.name not in {place.name for place in covered}:
                yield f"{rule}: no test covers this rule"
        for place in covered:
            if place.name not in rules:
                yield f"{place}: there is no such rule in spec/"
        for path in self._python("tests"):
            yield from _covers_of(path)[1]

    def holes_in_citations(self) -> Iterator[str]:
        rules = {rule.name for rule in self.rules()}
        for place in self.cited():
            if place.name not in rules:
                yield f"{place}: there is no such rule in spec/"

    def holes_in_stems(self) -> Iterator[str]:
        """Each document has its module, its examples, its properties and its vectors, and vectors have a document."""
        stems = [document.stem for document in self.documents()]
        for stem in stems:
            for what, patterns in _FILES_OF_A_STEM.items():
                wanted = [pattern.format(stem=stem) for pattern in patterns]
                if not any(any(self.root.glob(pattern)) for pattern in wanted):
                    yield f"spec/{stem}.md: no {what} ({' or '.join(wanted)})"
        for vectors in sorted((self.root / "spec" / "vectors").glob("*.json")):
            if not any(_is_of_stem(vectors.stem, stem, "-") for stem in stems):
                yield f"{vectors.name}: vectors of no document"

    def holes_in_vectors(self) -> Iterator[str]:
        """Vectors are JSON, name only rules that exist, and are read by a test. That they hold, that test says."""
        rules = {rule.name for rule in self.rules()}
        tests = [path.read_text() for path in self._python("tests")]
        for path in sorted((self.root / "spec" / "vectors").glob("*.json")):
            try:
                vectors = json.loads(path.read_text())
            except ValueError as error:
                yield f"{path.name}: {error}"
                continue
            for name in _rules_named_in(vectors):
                if name not in rules:
                    yield f"{path.name} ({name}): there is no such rule in spec/"
            if not any(path.name in text for text in tests):
                yield f"{path.name}: no test reads it"

    def _python(self, folder: str) -> list[Path]:
        return sorted((self.root / folder).rglob("*.py"))


_FILES_OF_A_STEM = {
    "module": ("pico/protocol/{stem}.py", "pico/protocol/{stem}/__init__.py"),
    "examples": ("tests/protocol/test_{stem}.py", "tests/protocol/test_{stem}_*.py"),
    "properties": ("tests/property/test_{stem}.py", "tests/property/test_{stem}_*.py"),
    "vectors": ("spec/vectors/{stem}.json", "spec/vectors/{stem}-*.json", "spec/vectors/{stem}_*.json"),
}


def _is_of_stem(name: str, stem: str, *separators: str) -> bool:
    return name == stem or name.startswith(tuple(stem + separator for separator in ("_", *separators)))


def _prefix(rule: str) -> str:
    return rule.rpartition("-")[0]


def _number(rule: str) -> int:
    return int(rule.rpartition("-")[2])


def _rules_of(document: Path) -> list[Place]:
    rules, in_code = [], False
    for line, text in enumerate(document.read_text().splitlines(), 1):
        in_code ^= bool(_CODE_FENCE.match(text))
        if not in_code and (match := _RULE_LINE.match(text)):
            rules.append(Place(f"{match[1]}-{match[2]}", document, line))
    return rules


def _holes_in_sequence(document: Path, prefix: str, numbers: list[int]) -> Iterator[str]:
    for number in sorted(set(range(1, max(numbers) + 1)) - set(numbers)):
        yield f"{document.name}: {prefix}-{number} is missing"
    for number in sorted({number for number in numbers if numbers.count(number) > 1}):
        yield f"{document.name}: {prefix}-{number} is there twice"
    if numbers != sorted(numbers):
        yield f"{document.name}: the rules {prefix} do not stand in the order of their numbers"


def _covers_of(path: Path) -> tuple[list[Place], list[str]]:
    """The rules that the decorators of one test module name, and what is wrong with those decorators."""
    places: list[Place] = []
    faults: list[str] = []
    tree = ast.parse(path.read_text(), path.name)
    for owner, definition in _definitions(tree):
        for call in _covers_calls(definition):
            where = f"{path.name}:{call.lineno}"
            names = [argument.value if isinstance(argument, ast.Constant) else None for argument in call.args]
            if not names or call.keywords or not all(isinstance(name, str) for name in names):
                faults.append(f"{where}: @covers takes names of rules as plain strings")
            elif not _is_run(owner, definition):
                faults.append(f"{where}: {definition.name} covers rules, but no test runner collects it")
            else:
                places += [Place(str(name), path, call.lineno) for name in names]
    return places, faults


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _definitions(tree: ast.Module) -> Iterator[tuple[ast.ClassDef | None, Definition]]:
    """Functions and classes of the module and of its classes; what a function defines inside is never collected."""
    owners: list[tuple[ast.ClassDef | None, Iterable[ast.stmt]]] = [(None, tree.body)]
    for owner, body in owners:
        for statement in body:
            if isinstance(statement, Definition):
                yield owner, statement
            if isinstance(statement, ast.ClassDef):
                owners.append((statement, statement.body))


def _covers_calls(definition: Definition) -> Iterator[ast.Call]:
    for decorator in definition.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).rpartition(".")[2] == "covers":
            yield decorator


def _is_run(owner: ast.ClassDef | None, definition: Definition) -> bool:
    """A function named test, or anything in a class: pytest's own, or a state machine with its rules."""
    return owner is not None or isinstance(definition, ast.ClassDef) or definition.name.startswith("test_")


def _citations_of(path: Path) -> Iterator[Place]:
    with path.open("rb") as source:
        for token in tokenize.tokenize(source.readline):
            if token.type in (tokenize.COMMENT, tokenize.STRING):
                for offset, text in enumerate(token.string.splitlines()):
                    for match in _NAME.finditer(text):
                        yield Place(match[0], path, token.start[0] + offset)


def _rules_named_in(value: object) -> Iterator[str]:
    """The strings under the keys ``rule`` and ``rules``, however deep."""
    if isinstance(value, list):
        for item in value:
            yield from _rules_named_in(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key in ("rule", "rules"):
                yield from [item] if isinstance(item, str) else map(str, item)
            else:
                yield from _rules_named_in(item)
