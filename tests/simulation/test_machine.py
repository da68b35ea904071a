"""A simulated cluster as a state machine: each misfortune is a rule, so that a failure shrinks to those that matter.

Safety is checked after every event (``checks``), liveness in the peace at the end (``Trouble.peace``).
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from pico.protocol.gossip import Rank
from tests.simulation.trouble import FAMILIES, Trouble

SHARE = 5
"""An example costs as much as so many of another property."""

nodes = st.integers(0, 4)
numbers = st.integers(0, 255)
writes = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), min_size=1, max_size=5)


def among(*families: str):  # type: ignore[no-untyped-def]
    return precondition(lambda machine: bool(machine.trouble.families & set(families)))


class Cluster(RuleBasedStateMachine):
    """Up to five nodes, and some kinds of trouble."""

    trouble: Trouble

    @initialize(
        seed=st.integers(0, 2**32),
        count=st.integers(2, 5),
        families=st.frozensets(st.sampled_from(FAMILIES), max_size=6),
    )
    def begin(self, seed: int, count: int, families: frozenset[str]) -> None:
        self.trouble = Trouble(seed, count, families)

    @rule(seconds=st.sampled_from([0.01, 0.1, 0.5, 2.0, 5.0]))
    def wait(self, seconds: float) -> None:
        self.trouble.wait(seconds)

    @rule(node=nodes, writes=writes)
    def burst(self, node: int, writes: list[tuple[int, int]]) -> None:
        self.trouble.burst(node, writes)

    @rule(node=nodes, key=st.integers(0, 3))
    def collect(self, node: int, key: int) -> None:
        self.trouble.collect(node, key)

    @rule(node=nodes, share=st.integers(0, 4))
    def raise_floor(self, node: int, share: int) -> None:
        self.trouble.raise_floor(node, share)

    @among("loss", "delay", "repeat", "flip", "blocked")
    @rule(kind=numbers)
    def network(self, kind: int) -> None:
        self.trouble.network(kind)

    @among("cut")
    @rule(one=nodes, other=nodes, one_way=st.booleans())
    def cut(self, one: int, other: int, one_way: bool) -> None:
        self.trouble.cut(one, other, one_way=one_way)

    @among("cut")
    @rule(node=nodes)
    def isolate(self, node: int) -> None:
        self.trouble.isolate(node)

    @among("cut")
    @rule()
    def heal(self) -> None:
        self.trouble.heal()

    @among("crash")
    @rule(node=nodes, refuses=st.booleans())
    def crash(self, node: int, refuses: bool) -> None:
        self.trouble.crash(node, refuses=refuses)

    @among("crash", "clock", "address")
    @rule(node=nodes, back=st.integers(0, 3), elsewhere=st.integers(0, 1))
    def restart(self, node: int, back: int, elsewhere: int) -> None:
        self.trouble.restart(node, back, elsewhere)

    @among("pause")
    @rule(node=nodes, seconds=st.sampled_from([0.3, 1.0, 1.5, 8.0]))
    def pause(self, node: int, seconds: float) -> None:
        self.trouble.pause(node, seconds)

    @among("leave")
    @rule(node=nodes)
    def leave(self, node: int) -> None:
        self.trouble.leave(node)

    @among("hundreds")
    @rule(node=nodes, count=st.integers(100, 300), come=st.booleans())
    def hundreds(self, node: int, count: int, come: bool) -> None:
        self.trouble.hundreds(node, count, come=come)

    @among("replay")
    @rule(which=numbers, count=st.integers(1, 30))
    def replay(self, which: int, count: int) -> None:
        self.trouble.replay(which, count)

    @among("flip")
    @rule(which=numbers, bit=st.integers(0, 10_000))
    def flip(self, which: int, bit: int) -> None:
        self.trouble.flip(which, bit)

    @among("foreign")
    @rule(one=nodes, other=nodes)
    def foreign(self, one: int, other: int) -> None:
        self.trouble.foreign(one, other)

    @among("verdict")
    @rule(one=nodes, other=nodes, rank=st.sampled_from([Rank.SUSPECT, Rank.DEAD]))
    def verdict(self, one: int, other: int, rank: Rank) -> None:
        self.trouble.verdict(one, other, rank)

    def teardown(self) -> None:
        if hasattr(self, "trouble"):
            self.trouble.peace()


TestCluster = Cluster.TestCase
TestCluster.settings = settings(
    max_examples=max(5, settings().max_examples // SHARE),
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
