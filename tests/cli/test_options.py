"""The tables of settings: every row is told in the usage text, has a field of its own, and sets that and no other."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from pico.cli.agent_options import AGENT
from pico.cli.command_line import UsageError
from pico.cli.kinds import FILE, target
from pico.cli.node_options import NODE
from pico.cli.settings import Program, Setting, field_of
from pico.cli.sources import read_settings
from pico.config import AgentConfig, EndpointTarget, NodeConfig, TlsFiles
from pico.errors import ConfigError

AGENT_WORDS = ["--server=http://node:8002", "--endpoint=web=3000"]
BESIDE = {
    "heartbeat": ["--silence=1h"],
    "link_heartbeat": ["--link-silence=1h"],
    "gossip_probe_timeout": ["--gossip-probe=1h"],
    "gossip_round": ["--gossip-quiet-round=1h"],
    "proxy_protocol": ["--trusted-proxies=10.0.0.0/8"],
    "gossip_dead_record": ["--gossip-dead-state=1s"],
    "unfinished_bytes_max": ["--base-body-bytes-max=0"],
    "base_waiting_bytes_max": ["--base-body-bytes-max=0"],
    **{f"{door}_tls_cert": [f"--{door}-tls-key={__file__}"] for door in ("proxy", "upstream", "admin")},
    **{f"{door}_tls_key": [f"--{door}-tls-cert={__file__}"] for door in ("proxy", "upstream", "admin")},
}
"""What makes a sample of a setting possible."""

ROWS = [
    pytest.param(program, row, id=f"{program.name} {row.key}")
    for program in (NODE, AGENT)
    for row in program.settings.values()
]

NOT_TO_BE_SET = {
    # Protocol, the same for everyone: spec/rpc.md, spec/gossip.md, spec/channel.md.
    "rpc_limits.head_bytes_max", "rpc_limits.trailer_bytes_max", "rpc_limits.data_bytes_max", "rpc_limits.window_bytes",
    "rpc_limits.window_bytes_max", "rpc_limits.growth_bytes_max", "rpc_limits.probe_s", "rpc_limits.ahead_bytes",
    "rpc_limits.reason_bytes_max", "websocket_limits.message_bytes_max", "http_limits.method_bytes_max",
    "gossip_limits.state_bytes_max", "peer_limits.channel_limits",
    # Of the other side: a node reads requests, an agent responses.
    "node http_limits.informational_max", "agent http_limits.request_line_bytes_max",
    "agent http_limits.body_bytes_max",
    "agent http_limits.discard_bytes_max", "agent websocket_limits.close_s",
    # Details of an algorithm, which its proofs and its measured bounds were made with: spec/gossip.md.
    "gossip_limits.tombstones_max", "gossip_limits.answer_packets_max", "gossip_limits.lives_max",
    "gossip_limits.memory_nodes_max", "gossip_timers.probe_rate", "gossip_timers.suspicion_confirmations",
    "gossip_timers.health_max", "gossip_timers.busy_s", "gossip_timers.exchange_pause_s", "gossip_timers.push_delay_s",
    "gossip_timers.push_repeats_s", "gossip_timers.push_all_max", "gossip_timers.push_fanout",
    "gossip_timers.push_window", "gossip_timers.seed_first_s", "gossip_timers.linger_s", "peer_limits.redial_first_s",
    "peer_limits.link_stable_s", "peer_limits.rpc_limits.control_bytes_max",
    "peer_limits.rpc_limits.base_body_bytes_max",
    "peer_limits.rpc_limits.base_streams_max", "peer_limits.rpc_limits.head_bytes_max",
    "peer_limits.rpc_limits.trailer_bytes_max", "peer_limits.rpc_limits.data_bytes_max",
    "peer_limits.rpc_limits.window_bytes", "peer_limits.rpc_limits.window_bytes_max",
    "peer_limits.rpc_limits.growth_bytes_max", "peer_limits.rpc_limits.probe_s", "peer_limits.rpc_limits.ahead_bytes",
    "peer_limits.rpc_limits.reason_bytes_max", "link_timers.backoff_factor",
    "link_timers.abort_s",
    "rebalance_limits.slack", "rebalance_limits.interval_s", "rebalance_limits.interval_max_s",
    "rebalance_limits.settle_s", "rebalance_limits.move_s",
}  # fmt: skip


def node(*words: str) -> NodeConfig:
    return read_settings(NODE, words, {}).config


def agent(*words: str) -> AgentConfig:
    return read_settings(AGENT, words, {}).config


def fields_of(config: object, prefix: str = "") -> set[str]:
    """Every field that is no part, by its path."""
    paths = set()
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            paths |= fields_of(value, f"{prefix}{field.name}.")
        else:
            paths.add(prefix + field.name)
    return paths


@pytest.mark.parametrize("program,kind", [(NODE, "node"), (AGENT, "agent")])
def test_every_field_can_be_set_or_has_its_reason(program: Program[Any], kind: str) -> None:
    settable = {row.field for row in program.settings.values()}
    settable |= {path.partition(".")[0] for path in settable if "_tls." in path}
    left = {
        path
        for path in fields_of(program.defaults) - settable
        if not {path, f"{kind} {path}", path.rpartition(".")[0]} & NOT_TO_BE_SET
    }
    assert left == set()
    assert len({row.field for row in program.settings.values()}) == len(program.settings), "a field has two names"


@pytest.mark.parametrize("program", [NODE, AGENT])
def test_help_tells_what_is_used_every_day_and_help_all_the_rest(
    program: Program[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    printed = {}
    for word in ("--help", "--help-all"):
        with pytest.raises(SystemExit):
            read_settings(program, [word], {})
        printed[word] = set(re.findall(r"^  (--[a-z-]+)=", capsys.readouterr().out, re.MULTILINE)) - {"--config"}
    usual = {row.flag for section in program.sections if not section.rare for row in section.settings}
    assert printed["--help"] == usual - {""}
    assert printed["--help-all"] == {row.flag for row in program.settings.values()} - {""}
    assert max(map(len, program.usage.splitlines())) <= 120


@pytest.mark.parametrize("program,row", [case for case in ROWS if case.values[1].flag])
def test_an_option_sets_its_field_and_no_other(program: Program[Any], row: Setting) -> None:
    text = sample(program, row)
    beside = [] if program is NODE else [word for word in AGENT_WORDS if not word.startswith(f"{row.flag}=")]
    beside += BESIDE.get(row.key, [])
    config = read_settings(program, [f"{row.flag}={text}", *beside], {}).config
    value = row.read("", text)
    assert field_of(config, row.field) == ((value,) if row.kind.many else value)
    set_here = {row.flag, *(word.partition("=")[0] for word in beside)}
    others = [other for other in program.settings.values() if other.flag not in set_here]
    assert [one.key for one in others if field_of(config, one.field) != program.default(one)] == []


def sample(program: Program[Any], row: Setting) -> str:
    """Something that is not the default."""
    if row.kind is FILE:
        return __file__
    return next(word for word in (row.kind.sample, "24KiB", "8KiB", "keyvalue", "on") if differs(program, row, word))


def differs(program: Program[Any], row: Setting, text: str) -> bool:
    try:
        return bool(row.read("", text) != program.default(row))
    except ConfigError:
        return False


@pytest.mark.parametrize("program,row", ROWS)
def test_a_default_is_told_as_it_could_be_set(program: Program[Any], row: Setting) -> None:
    default = program.default(row)
    if row.written(default):
        assert row.read(row.key, program.default_text(row)) == default
    else:
        assert program.default_text(row) == row.none


@pytest.mark.parametrize("program", [NODE, AGENT])
def test_every_section_is_told_and_no_key_comes_twice(program: Program[Any]) -> None:
    keys = [row.key for section in program.sections for row in section.settings]
    assert len(keys) == len(set(keys))
    assert all(f"{section.title}" in program.usage for section in program.sections)


@pytest.mark.parametrize("program", [NODE, AGENT], ids=["node", "agent"])
def test_the_usage_text_names_what_is_named_by_no_rule(program: Program[Any]) -> None:
    """And its example is one of the program."""
    brief = " ".join(program.usage_brief.split())
    key = program.example.partition(":")[0]
    assert program.example in brief
    others = [row for row in program.settings.values() if row.flag and row.flag != f"--{row.key.replace('_', '-')}"]
    for row in (program.settings[key], *others):
        assert f"{row.variable} for {row.flag}" in brief
    for row in others:
        assert f"{row.key} " in brief
    assert ("PICO_SERVERS for --server and PICO_ENDPOINTS for --endpoint" in brief) is (program is AGENT)


def test_the_tunnels_of_an_endpoint_are_bounded() -> None:
    with pytest.raises(ConfigError, match="--connections: '1025' is not usable: expected a whole number, 1 to 1024"):
        read_settings(AGENT, ["--connections=1025", *AGENT_WORDS], {})


def test_an_agent_may_keep_no_connection_to_its_services() -> None:
    assert agent(*AGENT_WORDS, "--idle-connections-max=0").idle_connections_max == 0


def test_a_node_needs_no_argument() -> None:
    assert node() == NodeConfig()
    assert node("--gossip-port", "8003") == NodeConfig()


def test_a_door_has_its_own_certificate(tmp_path: Path) -> None:
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    certificate.write_text("c")
    key.write_text("k")
    config = node(f"--proxy-tls-cert={certificate}", f"--proxy-tls-key={key}")
    assert config.proxy_tls == TlsFiles(certificate=str(certificate), key=str(key))
    assert (config.upstream_tls, config.admin_tls) == (None, None)
    with pytest.raises(ConfigError, match="--admin-tls-key: '' is not usable: .* because --admin-tls-cert is given"):
        node(f"--admin-tls-cert={certificate}")
    with pytest.raises(ConfigError, match="--upstream-tls-cert: ''"):
        node(f"--upstream-tls-key={key}")


def test_a_tunnel_is_asked_before_it_is_given_up() -> None:
    with pytest.raises(ConfigError, match="--silence: '5s' is not usable: expected more than --heartbeat, 5s"):
        node("--silence=5s")
    with pytest.raises(ConfigError, match="--heartbeat, 20s"):
        agent(*AGENT_WORDS, "--heartbeat=20s")


@pytest.mark.parametrize(
    "words,complaint",
    [
        (["--proxy-port=8001"], "--admin-port: '8001' is not usable: expected another one than --proxy-port"),
        (["--gossip-port=8002"], "--gossip-port: '8002' is not usable: expected another one than --upstream-port"),
        (["--admin-host=::1", "--upstream-host=::1", "--admin-port=9", "--upstream-port=9"], "--upstream-port: '9'"),
        (["--admin-host=127.0.0.1", "--upstream-host=127.0.0.2", "--admin-port=9", "--upstream-port=9"], ""),
        (["--proxy-port=0", "--admin-port=0"], ""),
    ],
)
def test_each_door_has_a_port_of_its_own(words: list[str], complaint: str) -> None:
    if not complaint:
        node(*words)
        return
    with pytest.raises(ConfigError, match=complaint):
        node(*words)


def test_what_would_never_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="--link-silence: '1s' is not usable: expected more than --link-heartbeat"):
        node("--link-silence=1s")
    with pytest.raises(ConfigError, match="--gossip-probe-timeout: '200ms' is not usable: expected less than"):
        node("--gossip-probe=100ms")
    with pytest.raises(ConfigError, match="--gossip-dead-record: '10s' is not usable: expected at least"):
        node("--gossip-dead-record=10s")
    with pytest.raises(ConfigError, match="--unfinished-bytes-max: '4095KiB' .* at least --base-body-bytes-max, 4MiB"):
        node("--unfinished-bytes-max=4095KiB")
    assert node("--unfinished-bytes-max=4MiB").unfinished_bytes_max == 4 * 1024**2
    with pytest.raises(ConfigError, match="--base-waiting-bytes-max: '4095KiB' .* at least --base-body"):
        node("--base-waiting-bytes-max=4095KiB")
    assert node("--base-waiting-bytes-max=4MiB").base_waiting_bytes_max == 4 * 1024**2
    with pytest.raises(ConfigError, match="--backoff-max: '50ms'"):
        agent(*AGENT_WORDS, "--backoff-max=50ms")


def test_an_agent_with_several_servers_and_endpoints() -> None:
    words = ["--server", "http://a:1", "--server=https://b", "--endpoint", "Web=3000", "--endpoint=api=https://api"]
    config = agent(*words, "--host-header=internal", "--admin-port=9001", "--connect-timeout=1s")
    assert config == AgentConfig(
        servers=("http://a:1", "https://b"),
        endpoints=(
            EndpointTarget(endpoint_id="web", host="localhost", port=3000),
            EndpointTarget(endpoint_id="api", host="api", port=443, tls=True),
        ),
        host_header="internal",
        admin_port=9001,
        connect_s=1.0,
    )


@pytest.mark.parametrize(
    "text,expected",
    [
        ("web=3000", EndpointTarget(endpoint_id="web", host="localhost", port=3000)),
        ("web=10.0.0.7:80", EndpointTarget(endpoint_id="web", host="10.0.0.7", port=80)),
        ("web=[::1]:80", EndpointTarget(endpoint_id="web", host="::1", port=80)),
        ("web=http://box:8080", EndpointTarget(endpoint_id="web", host="box", port=8080)),
        ("web=https://box", EndpointTarget(endpoint_id="web", host="box", port=443, tls=True)),
    ],
)
def test_an_endpoint_and_its_service(text: str, expected: EndpointTarget) -> None:
    assert target("--endpoint", text) == expected
    assert target("--endpoint", AGENT.settings["endpoints"].kind.write(expected)) == expected


@pytest.mark.parametrize(
    "text,expected",
    [
        ("web", "such as web=localhost:3000"),
        ("web=", "such as web=localhost:3000"),
        ("=3000", "an endpoint ID before the equals sign"),
        ("-web=3000", "an endpoint ID before the equals sign"),
        ("we.b=3000", "an endpoint ID before the equals sign"),
        ("w" * 64 + "=3000", "an endpoint ID before the equals sign"),
        ("web=0", "a port, 1 to 65535"),
        ("web=host", "a port, 1 to 65535"),
        ("web=host:0", "a port, 1 to 65535"),
        ("web=http://host/path", "without a path"),
        ("web=unix:///run/x", "a URL such as"),
    ],
)
def test_an_endpoint_that_is_none(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        target("--endpoint", text)
    assert caught.value.field == "--endpoint"
    assert expected in str(caught.value)


def test_an_endpoint_is_registered_once() -> None:
    with pytest.raises(ConfigError, match="--endpoint: 'web' is not usable: expected each endpoint ID once"):
        agent(*AGENT_WORDS, "--endpoint=WEB=3001")


@pytest.mark.parametrize("missing", [0, 1])
def test_an_agent_needs_a_server_and_an_endpoint(missing: int) -> None:
    with pytest.raises(UsageError, match=r"--(server|endpoint) is missing"):
        agent(*AGENT_WORDS[1 - missing : 2 - missing])
