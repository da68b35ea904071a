"""The options of node and agent: every one is told in the usage text, sets its field, and has the default it claims."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pico.cli import agent_options, node_options
from pico.cli.command_line import UsageError
from pico.cli.flags import Flag
from pico.config import AgentConfig, EndpointTarget, NodeConfig, TlsFiles
from pico.errors import ConfigError

AGENT = ["--server=http://node:8002", "--endpoint=web=3000"]
BESIDE = {
    "--heartbeat": ["--silence=1h"],
    "--link-heartbeat": ["--link-silence=1h"],
    "--gossip-probe-timeout": ["--gossip-probe=1h"],
    "--proxy-protocol": ["--trusted-proxies=10.0.0.0/8"],
}
"""What makes a value of an option possible."""

WITHOUT_A_FIELD = {"--help", "--version", "--server", "--endpoint"}


def told(usage: str) -> dict[str, str]:
    """Each option of a usage text with its description on one line."""
    body = usage.partition("Usage:")[2]
    parts = re.split(r"^  (?:-h, )?(--[a-z-]+)", body, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def field_of(config: object, path: str) -> object:
    for name in path.split("."):
        config = getattr(config, name)
    return config


@pytest.mark.parametrize("options", [node_options, agent_options])
def test_every_flag_is_told_and_everything_told_is_a_flag(options: object) -> None:
    flags = {flag.option for flag in options.FLAGS}  # type: ignore[attr-defined]
    tls = {option for option in told(options.USAGE) if re.search("-tls-(cert|key)$", option)}  # type: ignore[attr-defined]
    assert set(told(options.USAGE)) == flags | tls | (WITHOUT_A_FIELD & set(told(options.USAGE)))  # type: ignore[attr-defined]


@pytest.mark.parametrize("flag", node_options.FLAGS, ids=lambda flag: flag.option)
def test_a_default_of_the_node_is_the_one_it_tells(flag: Flag) -> None:
    check_default(flag, told(node_options.USAGE)[flag.option], NodeConfig())


@pytest.mark.parametrize("flag", agent_options.FLAGS, ids=lambda flag: flag.option)
def test_a_default_of_the_agent_is_the_one_it_tells(flag: Flag) -> None:
    check_default(flag, told(agent_options.USAGE)[flag.option], AgentConfig(servers=(), endpoints=()))


def check_default(flag: Flag, text: str, defaults: object) -> None:
    claimed = re.search(r"default: (.+?)(?: \w+(?:\. A|:|, door).*)?$", text)
    assert claimed, f"{flag.option} tells no default"
    value = field_of(defaults, flag.field)
    if claimed[1].startswith(("every address", "nobody", "what the client", "those of the system", "none")):
        assert not value
    else:
        word = claimed[1].split()[0]
        assert flag.read(flag.option, word) == value


@pytest.mark.parametrize("flag", node_options.FLAGS, ids=lambda flag: flag.option)
def test_an_option_sets_its_field_and_no_other(flag: Flag) -> None:
    samples = ["7", "7s", "4KiB", "round-robin", "both", "off", "json", "debug", "10.0.0.0/8", "somewhere", __file__]
    text = next(sample for sample in samples if is_good(flag, sample))
    beside = BESIDE.get(flag.option, [])
    config = node_options.config_of([f"{flag.option}={text}", *beside])
    assert field_of(config, flag.field) == flag.read(flag.option, text)
    set_here = {flag.option, *(word.partition("=")[0] for word in beside)}
    others = {other.field for other in node_options.FLAGS if other.option not in set_here}
    assert [name for name in others if field_of(config, name) != field_of(NodeConfig(), name)] == []


def is_good(flag: Flag, text: str) -> bool:
    try:
        return flag.read(flag.option, text) != field_of(NodeConfig(), flag.field)
    except ConfigError:
        return False


def test_a_node_needs_no_argument() -> None:
    assert node_options.config_of([]) == NodeConfig()
    assert node_options.config_of(["--gossip-port", "8003"]) == NodeConfig()


def test_a_door_has_its_own_certificate(tmp_path: Path) -> None:
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    certificate.write_text("c")
    key.write_text("k")
    config = node_options.config_of([f"--proxy-tls-cert={certificate}", f"--proxy-tls-key={key}"])
    assert config.proxy_tls == TlsFiles(certificate=str(certificate), key=str(key))
    assert (config.upstream_tls, config.admin_tls) == (None, None)
    with pytest.raises(ConfigError, match="--admin-tls-key: '' is not usable: .* because --admin-tls-cert is given"):
        node_options.config_of([f"--admin-tls-cert={certificate}"])
    with pytest.raises(ConfigError, match="--upstream-tls-cert: ''"):
        node_options.config_of([f"--upstream-tls-key={key}"])


def test_a_tunnel_is_asked_before_it_is_given_up() -> None:
    with pytest.raises(ConfigError, match="--silence: '5s' is not usable: expected more than --heartbeat, 5s"):
        node_options.config_of(["--silence=5s"])
    with pytest.raises(ConfigError, match="--heartbeat, 20s"):
        agent_options.config_of([*AGENT, "--heartbeat=20s"])


def test_what_would_never_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="--link-silence: '1s' is not usable: expected more than --link-heartbeat"):
        node_options.config_of(["--link-silence=1s"])
    with pytest.raises(ConfigError, match="--gossip-probe-timeout: '0.2s' is not usable: expected less than"):
        node_options.config_of(["--gossip-probe=100ms"])


def test_an_agent_with_several_servers_and_endpoints() -> None:
    words = ["--server", "http://a:1", "--server=https://b", "--endpoint", "Web=3000", "--endpoint=api=https://api"]
    config = agent_options.config_of([*words, "--host-header=internal", "--admin-port=9001", "--connect-timeout=1s"])
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
    "text,target",
    [
        ("web=3000", EndpointTarget(endpoint_id="web", host="localhost", port=3000)),
        ("web=10.0.0.7:80", EndpointTarget(endpoint_id="web", host="10.0.0.7", port=80)),
        ("web=[::1]:80", EndpointTarget(endpoint_id="web", host="::1", port=80)),
        ("web=http://box:8080", EndpointTarget(endpoint_id="web", host="box", port=8080)),
        ("web=https://box", EndpointTarget(endpoint_id="web", host="box", port=443, tls=True)),
    ],
)
def test_an_endpoint_and_its_service(text: str, target: EndpointTarget) -> None:
    assert agent_options.target(text) == target


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
        agent_options.target(text)
    assert caught.value.field == "--endpoint"
    assert expected in str(caught.value)


def test_an_endpoint_is_registered_once() -> None:
    with pytest.raises(ConfigError, match="each endpoint ID once"):
        agent_options.config_of([*AGENT, "--endpoint=WEB=3001"])


@pytest.mark.parametrize("missing", [0, 1])
def test_an_agent_needs_a_server_and_an_endpoint(missing: int) -> None:
    with pytest.raises(UsageError, match=r"--(server|endpoint) is missing"):
        agent_options.config_of(AGENT[1 - missing : 2 - missing])
