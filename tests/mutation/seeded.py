"""The faults: what is changed in which file, who shipped it, and the nearest tests that must object.

An old text stands exactly once in its file. Where a second guard makes a fault harmless, both are taken away.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["FALLBACK", "LEFT_OUT", "SEEDED", "Edit", "Seeded"]


class Edit(NamedTuple):
    """One text of a module of ``pico/protocol/gossip``, else of ``pico/protocol``, and what stands there instead."""

    module: str
    old: str
    new: str


class Seeded(NamedTuple):
    """One fault. ``tests`` are asked in order, and then those that see everything (``FALLBACK``)."""

    name: str
    what: str
    ancestor: str
    tests: tuple[str, ...]
    edits: tuple[Edit, ...]


STATE: Final = ("tests/protocol/test_gossip_state.py", "tests/protocol/test_gossip_vectors.py")
TABLE: Final = ("tests/protocol/test_gossip_table.py",)
WIRE: Final = ("tests/protocol/test_gossip_wire.py", "tests/protocol/test_gossip_vectors.py")
PROBING: Final = ("tests/protocol/test_gossip_probing.py",)
ENGINE: Final = ("tests/protocol/test_gossip_engine.py",)
SEAL: Final = ("tests/protocol/test_seal.py", "tests/property/test_seal.py")
VIEW: Final = ("tests/protocol/test_cluster.py", "tests/property/test_cluster.py")

FALLBACK: Final = (
    "tests/property/test_gossip_state.py",
    "tests/property/test_gossip_wire.py",
    "tests/property/test_gossip_cluster.py",
    "tests/simulation/test_scenarios.py",
    "tests/simulation/test_machine.py",
)

GAP = Edit("state", "if delta.start > self.applied:", "if False:")
DELTAS_FLOOR = Edit("state", "        if start < self.floor:  # GOSSIP-13", "        if False:")
TELL_FLOOR = Edit("table", "        if start < state.floor:  # GOSSIP-13", "        if False:")
GROWN = Edit("state", 'assert applied < self.applied and floor <= self.floor, "a copy went back"', "pass")
LEARN = "self._learn(node_id, Record(message.life), now=now)  # GOSSIP-20"
CLUSTER = "if not body.startswith(self._cluster):"
DATAGRAM = "return self.decode_body(self._seal.open(data))"
DATAGRAM_BODY = "        return self.decode_body(body)"
FOREIGN = '            raise ForeignCluster("packet: of another cluster")\n'
SKIP_CLUSTER = Edit("packets", "reader.at += len(self._cluster)", "reader.name()")

SEEDED: Final = (
    Seeded("M1", "a delta with a gap is accepted", "chitchat before #130; piko", STATE, (GAP,)),
    Seeded(
        "M2",
        "entries up to applied are taken again",
        "late duplicates after collection",
        STATE,
        (
            Edit("state", "if entry.version > self.applied:", "if True:"),
            Edit("state", 'assert known is None or known.version < entry.version, "a version went back"', "pass"),
        ),
    ),
    Seeded("M3", "a delta to who is below the floor", "chitchat #121", (*STATE, *TABLE), (TELL_FLOOR, DELTAS_FLOOR)),
    Seeded(
        "M4",
        "a snapshot that was cut",
        "chitchat #110, #178",
        (*STATE, *TABLE),
        (
            Edit(
                "state",
                "self.floor, tuple(self.entries.values()))",
                "self.floor, tuple(self.entries.values())[len(self.entries) // 2 :])",
            ),
        ),
    ),
    Seeded(
        "M5",
        "every process has the same life",
        "piko",
        STATE,
        (
            Edit(
                "values",
                "return max(clock_ms << CHANCE_BITS | rng.getrandbits(CHANCE_BITS), next_life(stored, rng))",
                "return 1 << CHANCE_BITS",
            ),
        ),
    ),
    Seeded(
        "M6",
        "a new life keeps the entries of the old",
        "scylla #3798",
        TABLE,
        (
            Edit(
                "table",
                "        if record.life > member.replica.life or record.left:",
                "        member.replica.life = max(member.replica.life, record.life)\n        if record.left:",
            ),
        ),
    ),
    Seeded(
        "M7",
        "a lower life is accepted",
        "stale relays",
        TABLE,
        (
            Edit(
                "table",
                "if known is not None and record <= known:",
                "if known is not None and record.life == known.life and record <= known:",
            ),
            Edit("table", 'assert record > member.record, "a record went back"', "pass"),
        ),
    ),
    Seeded(
        "M8",
        "a delta claims more than it has",
        "truncation",
        STATE,
        (Edit("state", "tuple(entries[index:end])", "tuple(entries[index:end][-1:])"),),
    ),
    Seeded(
        "M9",
        "a delta is cut in another order than that of versions",
        "packing that is not Scuttlebutt's",
        STATE,
        (Edit("state", "return list(newest_first)[::-1]", "return sorted(newest_first, key=lambda entry: entry.key)"),),
    ),
    Seeded(
        "M10",
        "others write what a node says",
        "",
        TABLE,
        (
            Edit(
                "table",
                "        if member is None or member.record.gone:  # GOSSIP-19, GOSSIP-42\n",
                "        if node_id == self.node_id:\n"
                "            self.own.entries.update((one.key, one) for one in message.entries)\n"
                "        if member is None or member.record.gone:\n",
            ),
        ),
    ),
    Seeded(
        "M11",
        "nobody is told what is known of it",
        "memberlist #311",
        (*TABLE, *ENGINE),
        (
            Edit("table", "if known.life > packet.life or known.rank or known.left:", "if False:"),
            Edit("table", "if known is not None and known > record and self.may_tell(node_id):", "if False:"),
        ),
    ),
    Seeded(
        "M12",
        "no memory of the dead",
        "chitchat #155",
        TABLE,
        (Edit("memory", "return None if grave is None else grave.record", "return None"),),
    ),
    Seeded(
        "M13",
        "a death is not told",
        "piko #314",
        WIRE,
        (
            Edit(
                "wire",
                "record.rank | (LEFT if record.left else 0)",
                "(record.rank if record.rank < Rank.DEAD else 0) | (LEFT if record.left else 0)",
            ),
        ),
    ),
    Seeded(
        "M14",
        "left is beaten by a higher incarnation",
        "",
        TABLE,
        (Edit("values", "    left: bool = False\n    inc: int = 0\n", "    inc: int = 0\n    left: bool = False\n"),),
    ),
    Seeded(
        "M15",
        "evidence of death does not raise the incarnation",
        "al8n/memberlist #197",
        TABLE,
        (
            Edit(
                "table",
                "        member.record = record\n",
                "        inc = member.record.inc if record.rank is Rank.DEAD else record.inc\n"
                "        member.record = record._replace(inc=inc)\n",
            ),
        ),
    ),
    Seeded(
        "M16",
        "the accused takes its own incarnation plus one",
        "",
        TABLE,
        (Edit("table", "self._inc = record.inc + 1", "self._inc += 1"),),
    ),
    Seeded(
        "M17",
        "two fields of a digest swapped in the decoder",
        "chitchat #144",
        WIRE,
        (
            Edit(
                "wire",
                "entries.append(DigestEntry(node_id, record, reader.fields(U64)[0], hearsay))",
                "applied = reader.fields(U64)[0]\n        entries.append(\n            "
                "DigestEntry(node_id, record._replace(life=applied or 1), record.life, hearsay)\n        )",
            ),
        ),
    ),
    Seeded(
        "M18",
        "a large entry holds up all after it",
        "piko",
        STATE,
        (Edit("state", "if room_bytes < least_bytes:", "if room_bytes < least_bytes or least_bytes > 400:"),),
    ),
    Seeded(
        "M19",
        "the head of a message is not in the budget",
        "chitchat #170",
        WIRE,
        (Edit("packets", "self._room_bytes -= SECTION.size + len(payload)", "self._room_bytes -= len(payload)"),),
    ),
    Seeded(
        "M20",
        "who stands at the floor gets no delta",
        "chitchat #176",
        STATE,
        (Edit("state", "        if start < self.floor:  # GOSSIP-13", "        if start <= self.floor:"),),
    ),
    Seeded(
        "M21",
        "an empty value after a deletion is lost",
        "piko",
        STATE,
        (
            Edit(
                "state",
                "if known is not None and known.value == value:",
                'if known is not None and (known.value or b"") == value:',
            ),
        ),
    ),
    Seeded(
        "M22",
        "a deletion takes no version",
        "",
        STATE,
        (
            Edit(
                "state",
                "self._write(Entry(self.applied + 1, key, None))",
                "self._write(Entry(self.applied, key, None))",
            ),
        ),
    ),
    Seeded(
        "M23",
        "a floor above what is applied is taken",
        "",
        (*STATE, *WIRE, *TABLE),
        (TELL_FLOOR, DELTAS_FLOOR, Edit("wire", "if floor > start or not reader.more:", "if not reader.more:")),
    ),
    Seeded(
        "M24",
        "the cluster is not looked at in datagrams",
        "tempo #2766 and its kin",
        WIRE,
        (
            Edit(
                "packets",
                DATAGRAM,
                "body = self._seal.open(data); return self.decode_body(self._cluster + body[1 + body[0] :])",
            ),
        ),
    ),
    Seeded(
        "M25",
        "the cluster is not looked at on streams",
        "",
        WIRE,
        (
            Edit("packets", CLUSTER, "if False:"),
            SKIP_CLUSTER,
            Edit("packets", DATAGRAM, f"body = self._seal.open(data)\n        {CLUSTER}\n{FOREIGN}{DATAGRAM_BODY}"),
        ),
    ),
    Seeded(
        "M26",
        "values are added to those before",
        "",
        STATE,
        (
            Edit(
                "state",
                "                self.entries[entry.key] = entry\n        self.applied = delta.upto",
                "                if known is not None and known.value and entry.value:\n"
                "                    entry = entry._replace(value=known.value + entry.value)\n"
                "                self.entries[entry.key] = entry\n        self.applied = delta.upto",
            ),
        ),
    ),
    Seeded(
        "M27",
        "no new life on hearing a higher own one",
        "clocks that went back",
        TABLE,
        (
            Edit(
                "table",
                "if record.life > self.own.life or (record.life == self.own.life and record.left):",
                "if record.life == self.own.life and record.left:",
            ),
        ),
    ),
    Seeded(
        "M28",
        "a snapshot is merged",
        "",
        STATE,
        (
            Edit(
                "state",
                "self.entries = {entry.key: entry for entry in snapshot.entries}",
                "self.entries |= {entry.key: entry for entry in snapshot.entries}",
            ),
        ),
    ),
    Seeded(
        "M29",
        "an older snapshot is taken",
        "",
        STATE,
        (Edit("state", "if snapshot.upto <= self.applied:", "if False:"), GROWN),
    ),
    Seeded(
        "M30",
        "a delta of others makes a node known at first hand",
        "ghosts",
        (*TABLE, *ENGINE),
        (Edit("table", LEARN, LEARN.split("  #", maxsplit=1)[0] + "\n        self.verify(node_id, message.life)"),),
    ),
    Seeded(
        "M31",
        "a life has no part by chance",
        "an early draft",
        STATE,
        (
            Edit(
                "values",
                "return (heard >> CHANCE_BITS) + 1 << CHANCE_BITS | rng.getrandbits(CHANCE_BITS)",
                "return heard + 1",
            ),
        ),
    ),
    Seeded("M32", "a delta cannot open a newer life", "an early draft", TABLE, (Edit("table", LEARN, "pass"),)),
    Seeded(
        "M33",
        "the absent are given up, and so are the seeds",
        "piko, ringpop",
        ENGINE,
        (
            Edit("search", "if not self._absent or now < self._next_absent:", "if True:"),
            Edit(
                "search",
                "return not (self._near.lives(seed.node_id) if seed.node_id else address in taken)",
                "return not seed.tried and address not in taken",
            ),
        ),
    ),
    Seeded(
        "M34",
        "a pause of its own is nothing",
        "restate #5156",
        (*ENGINE, *PROBING),
        (Edit("engine", "self.detector.paused(gap_s, now=now)", "pass"),),
    ),
    Seeded(
        "M35",
        "probes go on over a pause",
        "restate",
        (*PROBING, *ENGINE),
        (Edit("probing", "        self._probes.clear()\n        self._probed.clear()\n", ""),),
    ),
    Seeded(
        "M36",
        "what was known is told on again",
        "serf #606",
        (*ENGINE, "tests/simulation/test_scenarios.py::test_two_leave_at_once_and_nothing_echoes"),
        (
            Edit(
                "table",
                "        if known is not None and record <= known:  # GOSSIP-35, GOSSIP-46\n",
                "        if known is not None and record <= known:\n"
                "            if record == known and record.gone:\n"
                "                self._changes.append(Change(node_id, None))\n",
            ),
            Edit("engine", " and self._told.get(node_id) != record:", ":"),
        ),
    ),
    Seeded(
        "M37",
        "there may be no helper by chance",
        "memberlist #350",
        PROBING,
        (
            Edit(
                "probing",
                "return tuple(self._rng.sample(well, min(self._timers.probe_helpers, len(well))))",
                "chosen = self._rng.sample(list(self._records), min(1, len(self._records)))\n"
                "        return tuple(other for other in chosen if other in well)",
            ),
        ),
    ),
    Seeded(
        "M38",
        "the window of packets that were here is one too long",
        "",
        SEAL,
        (Edit("seal", "if above <= -window or", "if above < -window or"),),
    ),
    Seeded(
        "M39",
        "a card may offer the version zero",
        "memberlist #178",
        VIEW,
        (
            Edit("cluster", 'rb"1\\n([1-9][0-9]{0,2})-([1-9][0-9]{0,2})', 'rb"1\\n([0-9]{1,3})-([0-9]{1,3})'),
            Edit("cluster", "if not wire_min <= wire_max <= WIRE_VERSION_MAX:", "if wire_max > WIRE_VERSION_MAX:"),
        ),
    ),
    Seeded(
        "M40",
        "who leaves tells the first one and no other",
        "serf #638",
        ENGINE,
        (
            Edit(
                "engine",
                "            for node_id in self._live:\n                self._say",
                "            for node_id in self._live[:1]:\n                self._say",
            ),
            Edit("engine", "LEAVE_EXCHANGES: Final = 16", "LEAVE_EXCHANGES: Final = 0"),
        ),
    ),
    Seeded(
        "M41",
        "hearsay is taken for first hand",
        "chitchat #132",
        (*ENGINE, *TABLE),
        (Edit("table", "return member is not None and member.verified\n", "return member is not None\n"),),
    ),
    Seeded(
        "M42",
        "what another life does not say any more stays in the index",
        "",
        VIEW,
        (Edit("cluster", "        for endpoint_id in before:\n", "        for endpoint_id in ():\n"),),
    ),
    Seeded(
        "M43",
        "entries of the dead are dropped and applied is kept",
        "",
        TABLE,
        (
            Edit(
                "table",
                "                member.replica = Replica(member.record.life)\n",
                "                member.replica.entries.clear()\n",
            ),
        ),
    ),
)

LEFT_OUT: Final[dict[str, str]] = {}
