"""A Dockerfile, read and carried out by hand.

Responsible for: the instructions of its stages, and running those that build something in a folder that stands for the
image. Refuses to know: what the file is for. It knows the instructions and the form of paths that ours uses, and fails
at any other.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Image", "Stage", "stages_of"]

RUN_S = 300


@dataclass
class Stage:
    """One ``FROM`` and what follows it, in order."""

    name: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, word: str) -> list[str]:
        return [rest for found, rest in self.instructions if found == word]

    def one(self, word: str) -> str:
        (rest,) = self.all(word)
        return rest

    def exec_form(self, word: str) -> list[str]:
        """The words of an instruction that are written as JSON: no shell is between the system and the program."""
        words: list[str] = json.loads(re.sub(r"^.*?(?=\[)", "", self.one(word)))
        return words


def stages_of(text: str) -> list[Stage]:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    stages: list[Stage] = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            stages.append(Stage(rest.rpartition(" AS ")[2] if " AS " in rest else ""))
        elif stages:
            stages[-1].instructions.append((word, re.sub(r"\s+", " ", rest)))
    return stages


class Image:
    """A folder that stands for the root of an image; absolute paths in a stage lead into it."""

    def __init__(self, root: Path, environment: Mapping[str, str]) -> None:
        self.root = root
        self.environment = dict(environment)
        self._directory = Path("/")

    def at(self, path: str) -> Path:
        return self.root / str(self._directory / path).lstrip("/")

    def carry_out(self, stage: Stage, context: Path, others: Mapping[str, Image]) -> None:
        for word, rest in stage.instructions:
            match word:
                case "WORKDIR":
                    self._directory = Path(rest)
                    self.at(rest).mkdir(parents=True)
                case "COPY":
                    self._copy(rest, context, others)
                case "RUN":
                    self._run(rest)
                case "ENV":
                    for name, _, value in (pair.partition("=") for pair in shlex.split(rest)):
                        expanded = value.replace("$PATH", self.environment["PATH"])
                        self.environment[name] = self._inside(expanded)
                case "ARG" | "LABEL" | "USER" | "EXPOSE" | "STOPSIGNAL" | "HEALTHCHECK" | "ENTRYPOINT":
                    pass  # nothing that is built
                case _:
                    raise AssertionError(f"{word} is not known here")

    def _copy(self, rest: str, context: Path, others: Mapping[str, Image]) -> None:
        words = rest.split()
        source = words.pop(0).removeprefix("--from=") if words[0].startswith("--from=") else ""
        *paths, target = words
        for path in paths:
            what = others[source].at(path) if source else context / path
            to = self.at(target) / what.name if target.endswith("/") else self.at(target)
            to.parent.mkdir(parents=True, exist_ok=True)
            if what.is_dir():
                shutil.copytree(what, to, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(what, to)

    def _run(self, command: str) -> None:
        done = subprocess.run(
            ["sh", "-euc", self._inside(command)],
            cwd=self.at("."),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=RUN_S,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"

    def _inside(self, text: str) -> str:
        """With the folders that the file names as they are in here."""
        return re.sub(r"(?<![\w/.])/(?=(?:opt|src|wheels)\b)", f"{self.root}/", text)
