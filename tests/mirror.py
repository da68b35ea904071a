"""Each module of the protocol floor and the tests that are its own, and how far these alone cover it.

Responsible for: the map from ``pico/protocol/<stem>`` to ``tests/protocol/test_<stem>*.py`` and
``tests/property/test_<stem>*.py``, its holes on either side, and the coverage of each stem by its own tests only: a
line that only a stranger's test runs is not covered here. Refuses to know: what good coverage is worth.

Run by ``make mirror``: ``python -m tests.mirror [--fail-under=PERCENT] [STEM...]``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

__all__ = ["Mirror", "Module"]

FOLDERS = ("tests/protocol", "tests/property")


class Module(NamedTuple):
    """One stem: its source, a file or a package, and its own tests."""

    stem: str
    source: Path
    tests: tuple[Path, ...]


class Covered(NamedTuple):
    """One file, as its stem's own tests see it."""

    path: str
    percent: float
    missing: str


@dataclass(frozen=True)
class Mirror:
    """The protocol floor under one root, beside its tests."""

    root: Path

    def modules(self) -> list[Module]:
        floor = self.root / "pico" / "protocol"
        sources = [path for path in floor.glob("*.py") if path.stem != "__init__"]
        sources += [path.parent for path in floor.glob("*/__init__.py")]
        stems = {source.stem for source in sources}
        return [Module(source.stem, source, tuple(self._tests_of(source.stem, stems))) for source in sorted(sources)]

    def holes(self) -> Iterator[str]:
        """Modules without tests of their own, and tests on the floor's side that belong to no module."""
        modules = self.modules()
        for module in modules:
            if not module.tests:
                yield f"{module.source.relative_to(self.root)}: no test module of its own"
        owned = {path for module in modules for path in module.tests}
        for path in sorted((self.root / "tests" / "protocol").glob("test_*.py")):
            if path not in owned:
                yield f"{path.relative_to(self.root)}: tests of no module in pico/protocol"

    def coverage(self, module: Module) -> list[Covered]:
        """Runs the module's own tests under coverage. Raises CalledProcessError when they fail."""
        with tempfile.TemporaryDirectory() as folder:
            environment = os.environ | {"COVERAGE_FILE": f"{folder}/data"}
            report = Path(folder, "report.json")

            def coverage(*arguments: str) -> None:
                command = [sys.executable, "-m", "coverage", *arguments]
                subprocess.run(command, cwd=self.root, env=environment, check=True, stdout=sys.stderr)

            name = f"pico.protocol.{module.stem}"
            tests = [str(path) for path in module.tests]
            coverage("run", f"--source={name}", "-m", "pytest", "-q", "--no-header", *tests)
            coverage("combine", "-q")
            coverage("json", "-q", "-o", str(report))
            files = json.loads(report.read_text())["files"]
        return [_covered(path, figures) for path, figures in sorted(files.items())]

    def _tests_of(self, stem: str, stems: set[str]) -> Iterator[Path]:
        """``test_<stem>.py`` and ``test_<stem>_*.py``, unless a longer stem has the better claim."""
        rivals = tuple(f"test_{other}" for other in stems if other.startswith(f"{stem}_"))
        for folder in FOLDERS:
            for path in sorted((self.root / folder).glob(f"test_{stem}*.py")):
                own = path.stem == f"test_{stem}" or path.stem.startswith(f"test_{stem}_")
                if own and not path.stem.startswith(rivals):
                    yield path


def _covered(path: str, figures: dict[str, object]) -> Covered:
    summary, lines, branches = figures["summary"], figures["missing_lines"], figures["missing_branches"]
    assert isinstance(summary, dict) and isinstance(lines, list) and isinstance(branches, list)
    missing = [str(line) for line in lines]
    missing += [f"{start}->{end if end > 0 else 'exit'}" for start, end in branches if start not in lines]
    return Covered(path, float(summary["percent_covered"]), " ".join(missing))


def main(arguments: list[str]) -> int:
    """Prints one line for each file; 0 when the map has no hole and every file reaches the wanted percentage."""
    fail_under = 0.0
    wanted = []
    for argument in arguments:
        if argument.startswith("--fail-under="):
            fail_under = float(argument.partition("=")[2])
        else:
            wanted.append(argument)
    mirror = Mirror(Path(__file__).parent.parent)
    good = True
    for hole in mirror.holes():
        good = False
        print(hole)
    for module in mirror.modules():
        if module.tests and (not wanted or module.stem in wanted):
            try:
                rows = mirror.coverage(module)
            except subprocess.CalledProcessError:
                print(f"{module.stem}: its own tests fail")
                good = False
                continue
            for row in rows:
                good &= row.percent >= fail_under
                print(f"{row.percent:6.1f} %  {row.path}  {row.missing}".rstrip(), flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
