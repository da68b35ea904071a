"""``python -m tests.mutation [NAME...]``: every seeded fault, or some, and which test objected first."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.mutation.runner import Stale, Tree
from tests.mutation.seeded import FALLBACK, LEFT_OUT, SEEDED


def main(names: list[str]) -> int:
    chosen = [seeded for seeded in SEEDED if not names or seeded.name in names]
    survived = stale = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Tree(Path(folder))
        for tests in dict.fromkeys(tests for seeded in chosen for tests in (*seeded.tests, *FALLBACK)):
            tree.judge(tests)
            for name in tree.wrong.get(tests, ()):
                print(f"fails without a fault, and is not asked: {name}")
        for seeded in chosen:
            try:
                objection = tree.first_objection(seeded)
            except Stale as fault:
                stale += 1
                print(f"{seeded.name} STALE {fault}", flush=True)
                continue
            survived += objection is None
            print(f"{seeded.name} {'killed by ' + objection if objection else 'SURVIVED'}: {seeded.what}", flush=True)
    for name, why in LEFT_OUT.items():
        print(f"{name} left out: {why}")
    print(f"{len(chosen)} seeded, {survived} survived, {stale} stale")
    return int(survived + stale > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
