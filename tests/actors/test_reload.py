"""Attempts to read settings again: one at a time, counted, told, and none of them ends anything."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator

import gevent
import pytest
from gevent.event import Event

from pico.actors.reload import Proposal, Reload
from pico.errors import ConfigError
from pico.observability.admin import Answer, Refused, Request
from pico.observability.reload_metrics import ReloadMetrics

DEADLINE_S = 5.0


class Process:
    """What a reload needs of one: settings that the test writes, and what it lives by."""

    def __init__(self) -> None:
        self.said = "one"
        self.counts = ""
        self.accepted: list[str] = []
        self.announced: list[bool] = []
        self.reads = 0
        self.metrics = ReloadMetrics()
        self.now = 100.0
        self.hold: Event | None = None
        self.holding = Event()
        self.reload: Reload[str] = Reload(
            self.read, self.apply, self.metrics, time_of_day=lambda: self.now, announce=self.announced.append
        )

    def read(self) -> Proposal[str]:
        self.reads += 1
        if self.said == "bad":
            raise ConfigError("file:1: x", "bad", "good")
        if self.said == "bug":
            raise ZeroDivisionError("a fault of our own")
        said = self.said
        later = ("y",) if said == "later" else ()
        return Proposal(said, ("x",), later, lambda: self.accepted.append(said), lambda key: f"--{key}")

    def apply(self, proposal: Proposal[str]) -> None:
        config = proposal.config
        if self.hold is not None:
            self.holding.set()
            self.hold.wait()
        if config == "no certificate":
            raise ConfigError("proxy_tls", config, "a certificate")
        self.counts = config

    def samples(self) -> dict[str, float]:
        return {
            sample.name + "".join(sample.labels.values()): sample.value
            for family in self.metrics.collect()
            for sample in family.samples
        }


@pytest.fixture
def process() -> Process:
    return Process()


def until(condition: Callable[[], object]) -> None:
    with gevent.Timeout(DEADLINE_S):
        while not condition():
            gevent.sleep(0.001)


def test_what_was_read_counts_and_is_told(process: Process, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        process.now = 200.0
        process.said = "later"
        assert process.reload.attempt().needs_restart == ("y",)
    assert (process.counts, process.accepted) == ("later", ["later"])
    assert process.announced == [True, False]
    assert [record.getMessage() for record in caplog.records] == [
        "the settings were read again: x changed",
        "these settings wait for a restart: y",
    ]
    assert process.samples()["pico_config_last_reload_timestamp_seconds"] == 200.0
    assert process.samples()["pico_config_reloads_totalapplied"] == 1


@pytest.mark.parametrize("said,named", [("bad", "file:1: x"), ("no certificate", "--proxy_tls")])
def test_what_is_wrong_is_refused_and_told(
    process: Process, said: str, named: str, caplog: pytest.LogCaptureFixture
) -> None:
    process.reload.attempt()
    process.said, process.now = said, 300.0
    with pytest.raises(ConfigError):
        process.reload.attempt()
    assert (process.counts, process.accepted) == ("one", ["one"])
    assert process.announced == [True, False] * 2
    assert f"the new settings are refused, and the old ones stay: {named}: " in caplog.text
    samples = process.samples()
    assert samples["pico_config_reload_success"] == 0
    assert samples["pico_config_last_reload_timestamp_seconds"] == 100.0
    assert samples["pico_config_reloads_totalrefused"] == 1
    process.said = "good"
    process.reload.attempt()
    assert process.samples()["pico_config_reload_success"] == 1


def test_a_fault_of_our_own_ends_nothing(process: Process, caplog: pytest.LogCaptureFixture) -> None:
    process.said = "bug"
    process.reload.ask()
    until(lambda: "reading the settings again failed" in caplog.text)
    assert process.samples()["pico_config_reloads_totalfailed"] == 1
    process.said = "good"
    process.reload.ask()
    until(lambda: process.counts == "good")


def test_signals_that_come_while_one_waits_are_one_wish(process: Process) -> None:
    process.hold = Event()
    process.reload.ask()
    assert process.holding.wait(DEADLINE_S)
    process.said = "two"
    for _ in range(5):
        process.reload.ask()
        gevent.sleep(0)
    process.said = "three"
    process.hold.set()
    until(lambda: process.counts == "three")
    assert process.reads == 2


def answer_of(process: Process, body: bytes = b"") -> tuple[int, object]:
    answer = process.reload.route().handle(Request("POST", "/-/reload", body=body))
    assert isinstance(answer, Answer) and isinstance(answer.body, bytes)
    return answer.status, json.loads(answer.body)


def test_the_answer_of_the_admin_door(process: Process) -> None:
    process.said = "later"
    assert answer_of(process) == (200, {"status": "applied", "changed": ["x"], "needs_restart": ["y"]})
    process.said = "bad"
    with pytest.raises(Refused, match="file:1: x: 'bad'") as refused:
        answer_of(process)
    assert (refused.value.status, refused.value.code) == (422, "bad_settings")
    with pytest.raises(Refused, match="unknown"):
        answer_of(process, b'{"x": 1}')


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    gevent.get_hub().threadpool.join()
