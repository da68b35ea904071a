"""Seeds one fault at a time in a copy of the tree, and asks the tests.

Responsible for: the copy, what is changed in it, which tests are asked in which order, and who objected first. Refuses
to know: which faults there are (``seeded``). A test that fails without any fault is no judge, and is left out.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.mutation.seeded import FALLBACK, Seeded

__all__ = ["Stale", "Tree", "mutated"]

ROOT = Path(__file__).parent.parent.parent
COPIED = ("pico", "tests", "spec", "setup.cfg", "pyproject.toml", "bench", "Makefile", "README.md")
FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


class Stale(Exception):
    """A text that is to be changed does not stand where it should, or more than once."""


def mutated(seeded: Seeded, root: Path = ROOT) -> dict[Path, str]:
    """The changed files. Raises ``Stale``."""
    texts: dict[Path, str] = {}
    for module, old, new in seeded.edits:
        path = Path("pico/protocol/gossip", f"{module}.py")
        if not (root / path).exists():
            path = Path("pico/protocol", f"{module}.py")
        text = texts.get(path) or (root / path).read_text()
        if text.count(old) != 1:
            raise Stale(f"{seeded.name}: {old.strip()!r} stands {text.count(old)} times in {path}")
        texts[path] = text.replace(old, new)
    return texts


@dataclass
class Tree:
    """A copy of the tree in a folder of its own."""

    folder: Path
    wrong: dict[str, list[str]] = field(default_factory=dict)
    """By file, the tests in it that fail without a fault."""

    def __post_init__(self) -> None:
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, self.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.exists():
                shutil.copy(source, self.folder / name)

    def first_objection(self, seeded: Seeded) -> str | None:
        """The first test that fails with the fault in place; None when it survives."""
        changed = mutated(seeded)
        try:
            for path, text in changed.items():
                (self.folder / path).write_text(text)
            for tests in dict.fromkeys((*seeded.tests, *FALLBACK)):
                if not (self.folder / tests.partition("::")[0]).exists():
                    continue
                failed = self._ask(tests)
                if failed:
                    return failed[0]
        finally:
            for path in changed:
                shutil.copy(ROOT / path, self.folder / path)
        return None

    def judge(self, tests: str) -> None:
        """Learn which of these tests fail without a fault."""
        if tests not in self.wrong and (self.folder / tests.partition("::")[0]).exists():
            self.wrong[tests] = []
            self.wrong[tests] = self._ask(tests, stop=False)

    def _ask(self, tests: str, *, stop: bool = True) -> list[str]:
        deselected = [f"--deselect={name}" for name in self.wrong.get(tests, ())]
        command = [sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=300", tests]
        command += ["-x"] * stop + deselected
        environment = os.environ | {
            "HYPOTHESIS_PROFILE": "ci",
            "PYTHONPATH": str(self.folder),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)
        if done.returncode == 0:
            return []
        return FAILED.findall(done.stdout) or [f"{tests}: ended with {done.returncode}"]
