"""A cluster under trouble in virtual time: ``python -m tests.simulation --seconds 600 [--seed N] [--nodes N]``.

Life after life of a small cluster, each from a seed of its own: some kinds of trouble, then peace. The seed that fails
is printed with the command that shows it again; the same seed gives the same trace in every process.
"""

from __future__ import annotations

import sys
import time
import traceback
from random import Random, SystemRandom

from tests.simulation.trouble import FAMILIES, Trouble, befall

STEPS = 60


def live(seed: int, nodes: int = 0) -> str:
    """One cluster from its start to its peace; the hash of all that arrived. Raises AssertionError."""
    rng = Random(seed)
    families = frozenset(rng.sample(FAMILIES, rng.randint(1, 6)))
    trouble = Trouble(rng.getrandbits(64), nodes or rng.randint(2, 5), families)
    for _ in range(STEPS):
        befall(trouble, rng)
    trouble.peace()
    return trouble.world.trace


def main(arguments: list[str]) -> int:
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    seconds, nodes = float(options.get("--seconds", "0")), int(options.get("--nodes", "0"))
    seed = int(options["--seed"]) if "--seed" in options else SystemRandom().getrandbits(32)
    print(f"seed {seed}", flush=True)
    ends, lives, trace = time.monotonic() + seconds, 0, ""
    while not lives or time.monotonic() < ends:
        try:
            trace = live(seed + lives, nodes)
        except Exception:
            traceback.print_exc()
            print(f"again: python -m tests.simulation --seed {seed + lives}" + (f" --nodes {nodes}" if nodes else ""))
            return 1
        if not lives:
            print(f"trace {trace}", flush=True)
        lives += 1
    print(f"{lives} lives, all at peace")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
