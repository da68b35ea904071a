"""Metrics: names as promtool wants them, closed label sets, and numbers that add up."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from pico.observability.metrics import (
    DURATION_BOUNDS_S,
    HANDSHAKE_RESULTS,
    PROTOCOLS,
    TUNNEL_END_REASONS,
    AgentMetrics,
    Histogram,
    NodeMetrics,
    Tally,
)

CODES = ("bad_request", "tunnel_lost")


def node() -> NodeMetrics:
    return NodeMetrics(node_id="n1", version="0.1.0", failure_codes=CODES, actors=("proxy-door",))


def agent() -> AgentMetrics:
    return AgentMetrics(version="0.1.0", endpoints=("one", "two"), failure_codes=CODES)


def families(metrics: NodeMetrics | AgentMetrics) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(metrics.render().decode())}


def value(metrics: NodeMetrics | AgentMetrics, name: str, **labels: str) -> float:
    found = [
        sample.value
        for family in families(metrics).values()
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    ]
    assert len(found) == 1, f"{name} {labels}: {found}"
    return found[0]


def complaints(family: Metric) -> Iterator[str]:
    """What ``promtool check metrics`` objects to."""
    name = family.name
    if not family.documentation:
        yield "no help text"
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        yield "not in snake case"
    if family.type == "counter" and not all(sample.name.endswith("_total") for sample in family.samples):
        yield "a counter ends in _total"
    if family.type != "counter" and name.endswith(("_total", "_count", "_sum", "_bucket")):
        yield "a suffix that belongs to another type"
    if re.search(r"_(gauge|counter|histogram|summary)(_|$)", name):
        yield "the type is in the name"
    if re.search(r"_(ms|milliseconds?|minutes?|hours?|kilobytes?|megabytes?|kib|mib|percent)(_|$)", name):
        yield "not a base unit"
    if re.search(r"_(seconds|bytes)_(?!total)", name):
        yield "the unit comes last"
    for sample in family.samples:
        for label in sample.labels:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", label) or (label == "le" and family.type != "histogram"):
                yield f"label {label}"


@pytest.mark.parametrize("metrics", [node(), agent()], ids=["node", "agent"])
def test_promtool_would_not_object(metrics: NodeMetrics | AgentMetrics) -> None:
    found = families(metrics)
    assert [f"{name}: {complaint}" for name, family in found.items() for complaint in complaints(family)] == []
    helps = [family.documentation for name, family in found.items() if name.startswith("pico_")]
    assert len(set(helps)) == len(helps)


def test_the_lint_objects_to_what_promtool_objects_to() -> None:
    for name, kind, help_text in [
        ("requests", "counter", "x"),
        ("pico_requests_total", "gauge", "x"),
        ("pico_wait_milliseconds", "gauge", "x"),
        ("pico_seconds_waited", "gauge", "x"),
        ("pico_gauge_of_things", "gauge", "x"),
        ("picoThings", "gauge", "x"),
        ("pico_things", "gauge", ""),
    ]:
        family = Metric(name, help_text, kind)
        family.add_sample(name, {}, 1)
        assert list(complaints(family)), name


@pytest.mark.parametrize("metrics", [node(), agent()], ids=["node", "agent"])
def test_names_are_ours_or_those_of_process_and_platform(metrics: NodeMetrics | AgentMetrics) -> None:
    prefixes = {name.split("_")[0] for name in families(metrics)}
    assert prefixes == {"pico", "process", "python"}


def test_what_a_node_tells() -> None:
    names = {name for name in families(node()) if name.startswith("pico_")}
    assert names == {
        "pico_gossip_nodes",
        "pico_gossip_nodes_refused",
        "pico_gossip_joined",
        "pico_gossip_health",
        "pico_gossip_datagrams",
        "pico_gossip_datagram_errors",
        "pico_gossip_not_understood",
        "pico_gossip_dropped",
        "pico_gossip_violations",
        "pico_gossip_exchanges",
        "pico_gossip_channels",
        "pico_remote_endpoints",
        "pico_peer_links",
        "pico_view_corrections",
        "pico_node_info",
        "pico_requests",
        "pico_request_duration_seconds",
        "pico_upstream_duration_seconds",
        "pico_requests_in_flight",
        "pico_streams",
        "pico_actors",
        "pico_bytes",
        "pico_request_failures",
        "pico_protocol_errors",
        "pico_rpc_late_messages",
        "pico_actor_restarts",
        "pico_config_reloads",
        "pico_hub_blocked_seconds",
        "pico_forwarded_requests",
        "pico_retries",
        "pico_upstreams_moved",
        "pico_upstreams_shed",
        "pico_unfinished_bytes",
        "pico_calls_shed",
        "pico_base_waiting_bytes",
        "pico_parse_rejects",
        "pico_upstream_handshakes",
        "pico_proxy_headers",
        "pico_connections",
        "pico_connections_given_up",
        "pico_connection_failures",
        "pico_tls_handshake_failures",
        "pico_access_log_dropped",
        "pico_client_connections",
        "pico_endpoints",
        "pico_upstreams",
        "pico_upstreams_max",
        "pico_client_connections_max",
        "pico_requests_waiting",
        "pico_relays_in_flight",
        "pico_tls_not_after_timestamp_seconds",
        "pico_ready",
        "pico_actor_inbox_messages",
        "pico_actor_inbox_depth",
        "pico_config_reload_success",
        "pico_config_last_reload_timestamp_seconds",
        "pico_build_info",
        "pico_log_dropped",
    }


def test_actors_are_counted_by_kind_with_what_waits_for_them() -> None:
    class LinkActor: ...

    class UpstreamConnection: ...

    metrics = node()
    metrics.actors.inboxes = lambda: [(LinkActor, 3), (UpstreamConnection, 0), (LinkActor, 5)]
    assert value(metrics, "pico_actors", actor="link") == 2
    assert value(metrics, "pico_actors", actor="upstream-connection") == 1
    assert value(metrics, "pico_actor_inbox_messages", actor="link") == 8
    assert value(metrics, "pico_actor_inbox_depth", actor="link") == 5
    assert value(metrics, "pico_actor_inbox_depth", actor="upstream-connection") == 0


def test_the_process_is_told_of_as_by_the_library() -> None:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    theirs = {family.name: family for family in text_string_to_metric_families(generate_latest(registry).decode())}
    ours = {name: family for name, family in families(node()).items() if name.startswith("process_")}
    assert ours.keys() == theirs.keys()
    for name, family in ours.items():
        assert family.type == theirs[name].type
        close = 0.1 if name != "process_start_time_seconds" else 1e-8
        assert family.samples[0].value == pytest.approx(theirs[name].samples[0].value, rel=close, abs=1.5)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed: Debian has it in prometheus")
@pytest.mark.parametrize("metrics", [node(), agent()], ids=["node", "agent"])
def test_promtool_does_not_object(metrics: NodeMetrics | AgentMetrics) -> None:
    done = subprocess.run(["promtool", "check", "metrics"], input=metrics.render(), capture_output=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_what_an_agent_tells() -> None:
    names = {name for name in families(agent()) if name.startswith("pico_")}
    assert names >= {
        "pico_agent_info",
        "pico_agent_requests",
        "pico_agent_request_duration_seconds",
        "pico_agent_service_duration_seconds",
        "pico_tunnel_up",
        "pico_tunnel_reconnects",
        "pico_service_connections",
        "pico_service_connections_used",
        "pico_access_log_dropped",
        "pico_log_dropped",
    }


def test_one_request_is_counted_everywhere_it_shows() -> None:
    metrics = node()
    metrics.request_started()
    assert value(metrics, "pico_requests_in_flight") == 1
    metrics.request_finished(b"GET", 200, 0.02, 0.01, 3, 5)
    assert value(metrics, "pico_requests_in_flight") == 0
    assert value(metrics, "pico_requests_total", method="GET", code="200") == 1
    assert value(metrics, "pico_request_duration_seconds_count") == 1
    assert value(metrics, "pico_request_duration_seconds_sum") == 0.02
    assert value(metrics, "pico_upstream_duration_seconds_count") == 1
    assert value(metrics, "pico_bytes_total", direction="in") == 3
    assert value(metrics, "pico_bytes_total", direction="out") == 5


def test_a_request_that_reached_no_upstream_has_no_upstream_duration() -> None:
    metrics = node()
    metrics.request_finished(b"GET", 400, 0.02, 0.0, 0, 0)
    assert value(metrics, "pico_upstream_duration_seconds_count") == 0


@given(st.binary(max_size=10), st.integers(-5, 1000))
def test_no_visitor_adds_a_time_series(method: bytes, status: int) -> None:
    metrics = node()
    for _ in range(2):
        metrics.request_finished(method, status, 0.1, 0.0, 0, 0)
    metrics.request_finished(b"BREW", 200, 0.1, 0.0, 0, 0)
    known = {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "OTHER"}
    samples = families(metrics)["pico_requests"].samples
    assert {sample.labels["method"] for sample in samples} <= known
    assert all(re.fullmatch(r"[1-5]\d\d|other", sample.labels["code"]) for sample in samples)
    assert sum(sample.value for sample in samples) == 3


@given(st.lists(st.floats(0.0, 1000.0), max_size=30))
def test_a_bucket_holds_what_is_at_most_its_bound(durations: list[float]) -> None:
    histogram = Histogram()
    for duration in [*durations, *DURATION_BOUNDS_S]:
        histogram.observe(duration)
    samples = histogram.family("x_seconds", "help").samples
    for sample in samples:
        if sample.name == "x_seconds_bucket":
            bound = float(sample.labels["le"])
            assert sample.value == sum(duration <= bound for duration in [*durations, *DURATION_BOUNDS_S])


def test_a_tally_shows_its_values_before_they_occur_and_folds_the_rest() -> None:
    tally = Tally(("a", "b"))
    tally.add("a")
    tally.add("a", 2)
    tally.add("what a visitor sent")
    assert (tally.count("a"), tally.count("b"), tally.count("other")) == (3, 0, 1)
    family = tally.family("pico_x_total", "help", "reason")
    assert [sample.labels["reason"] for sample in family.samples] == ["a", "b", "other"]


def test_counters_that_owners_count_up() -> None:
    metrics = node()
    metrics.retries += 2
    metrics.moves += 3
    metrics.upstreams_shed += 2
    metrics.calls_shed += 6
    metrics.forwarded_in += 4
    metrics.forwarded_out += 5
    metrics.late_messages += 3
    metrics.request_failed("tunnel_lost")
    metrics.parse_rejects.add("bad_request")
    metrics.handshakes.add(HANDSHAKE_RESULTS[0])
    metrics.protocol_errors.add(PROTOCOLS[0])
    metrics.actor_restarts.add("proxy-door")
    metrics.connections.add("proxy")
    metrics.connections_given_up.add("proxy", 2)
    metrics.connection_failures.add("upstream")
    metrics.tls_handshake_failures.add("admin")
    metrics.hub_blocked(0.5)
    assert value(metrics, "pico_retries_total") == 2
    assert value(metrics, "pico_upstreams_moved_total") == 3
    assert value(metrics, "pico_upstreams_shed_total") == 2
    assert value(metrics, "pico_calls_shed_total") == 6
    assert value(metrics, "pico_forwarded_requests_total", direction="in") == 4
    assert value(metrics, "pico_forwarded_requests_total", direction="out") == 5
    assert value(metrics, "pico_rpc_late_messages_total") == 3
    assert value(metrics, "pico_request_failures_total", reason="tunnel_lost") == 1
    assert value(metrics, "pico_parse_rejects_total", reason="bad_request") == 1
    assert value(metrics, "pico_upstream_handshakes_total", result="accepted") == 1
    assert value(metrics, "pico_protocol_errors_total", protocol="http") == 1
    assert value(metrics, "pico_actor_restarts_total", actor="proxy-door") == 1
    assert value(metrics, "pico_connections_total", listener="proxy") == 1
    assert value(metrics, "pico_connections_given_up_total", listener="proxy") == 2
    assert value(metrics, "pico_connection_failures_total", listener="upstream") == 1
    assert value(metrics, "pico_tls_handshake_failures_total", listener="admin") == 1
    assert value(metrics, "pico_hub_blocked_seconds_total") == 0.5


def test_gauges_are_read_from_their_owners_when_somebody_scrapes() -> None:
    metrics, upstreams = node(), [1.0]
    metrics.upstreams = lambda: upstreams[0]
    assert value(metrics, "pico_upstreams") == 1
    upstreams[0] = 7
    assert value(metrics, "pico_upstreams") == 7


def test_several_nodes_live_in_one_process() -> None:
    one, other = node(), node()
    one.request_finished(b"GET", 200, 0.1, 0.0, 0, 0)
    assert value(other, "pico_request_duration_seconds_count") == 0


def test_a_tunnel_is_up_until_it_is_down() -> None:
    metrics = agent()
    assert value(metrics, "pico_tunnel_up", endpoint="one") == 0
    metrics.tunnel_up("one")
    assert value(metrics, "pico_tunnel_up", endpoint="one") == 1
    assert value(metrics, "pico_tunnel_up", endpoint="two") == 0
    metrics.tunnel_up("one")
    assert value(metrics, "pico_tunnel_up", endpoint="one") == 1, "two links, and one says no more than that"
    metrics.tunnel_down("one")
    assert value(metrics, "pico_tunnel_up", endpoint="one") == 1
    metrics.tunnel_down("one")
    metrics.tunnel_ended(TUNNEL_END_REASONS[0])
    assert value(metrics, "pico_tunnel_up", endpoint="one") == 0
    assert value(metrics, "pico_tunnel_reconnects_total", reason=TUNNEL_END_REASONS[0]) == 1
    with pytest.raises(AssertionError):
        metrics.tunnel_up("three")


def test_an_agents_requests_and_connections() -> None:
    metrics = agent()
    metrics.request_started()
    metrics.request_finished(200, 0.2, 0.1, 1, 2)
    metrics.request_started()
    metrics.request_finished(0, 0.2, 0.0, 0, 0)
    metrics.service_connections_opened += 1
    metrics.service_connections_reused += 4
    assert value(metrics, "pico_agent_requests_total", code="200") == 1
    assert value(metrics, "pico_agent_requests_total", code="other") == 1
    assert value(metrics, "pico_agent_service_duration_seconds_count") == 1
    assert value(metrics, "pico_service_connections_used_total", connection="reused") == 4
    assert value(metrics, "pico_requests_in_flight") == 0


def test_counting_a_request_costs_little() -> None:
    """The bar is 2 microseconds; 0.4 were measured. Generous, for a busy machine."""
    metrics, best = node(), float("inf")
    for _ in range(5):
        began = time.process_time()
        for _ in range(2000):
            metrics.request_finished(b"GET", 200, 0.02, 0.01, 3, 5)
        best = min(best, (time.process_time() - began) / 2000)
    assert best < 5e-6
