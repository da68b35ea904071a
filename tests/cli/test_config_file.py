"""A YAML file: what it sets, and that whatever is wrong with it is named with its line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pico.cli.agent_options import AGENT
from pico.cli.config_file import DEPTH_MAX, FILE_BYTES_MAX
from pico.cli.node_options import NODE
from pico.cli.settings import Program
from pico.cli.sources import check_file
from pico.config import EndpointTarget, NodeConfig

Check = Callable[..., tuple[object, list[str]]]


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """The configuration, and the complaints without the directory."""

    def checked(text: str | bytes, program=NODE, **environment: str) -> tuple[object, list[str]]:
        path = tmp_path / "file.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        config, faults = check_file(program, str(path), environment)
        return config, [str(fault).replace(f"{tmp_path}/", "") for fault in faults]

    return checked


GOOD: list[tuple[str, dict[str, object]]] = [
    ("", {}),
    ("# nothing\n---\n", {}),
    ("proxy_port: 80", {"proxy_port": 80}),
    ("proxy_port: '80'", {"proxy_port": 80}),
    ("{proxy_port: 80, node_id: a}", {"proxy_port": 80, "node_id": "a"}),
    ("access_log: off", {"access_log": "off"}),
    ("access_log: 'off'", {"access_log": "off"}),
    ("node_id: no", {"node_id": "no"}),
    ("node_id: 007", {"node_id": "007"}),
    ("node_id: 1_0", {"node_id": "1_0"}),
    ("node_id: 2026-11-25", {"node_id": "2026-11-25"}),
    ("admin_host: ''", {"admin_host": ""}),
    ("grace_period: 1m", {"grace_period_s": 60.0}),
    ("grace_period: 0", {"grace_period_s": 0.0}),
    ("join: a:1, b", {"join": (("a", 1), ("b", 8003))}),
    ("join: [a:1, '[::1]:2']", {"join": (("a", 1), ("::1", 2))}),
    ("join:\n- a\n- b", {"join": (("a", 8003), ("b", 8003))}),
    ("join: []", {"join": ()}),
    ("trusted_proxies: 10.0.0.0/8", {"trusted_proxies": ("10.0.0.0/8",)}),
    ("cluster_key: |\n  one\n  two\n", {"cluster_key": "one\ntwo\n"}),
]


@pytest.mark.parametrize("text,fields", GOOD)
def test_a_file_sets_what_it_names(check: Check, text: str, fields: dict[str, object]) -> None:
    config, faults = check(text)
    assert faults == []
    assert {name: getattr(config, name) for name in fields} == fields
    assert config == NodeConfig(**fields)  # type: ignore[arg-type]


BAD = {
    "unknown": ("\nproxi_port: 80", "file.yaml:2: 'proxi_port' .* a setting of pico-node; the nearest is proxy_port"),
    "hyphens": ("proxy-port: 80", "file.yaml:1: 'proxy-port' .*; the nearest is proxy_port"),
    "capitals": ("Proxy_Port: 80", "file.yaml:1: 'Proxy_Port' .*; the nearest is proxy_port"),
    "far": ("frob: 1", "file.yaml:1: 'frob' is not usable: expected a setting of pico-node$"),
    "of another": ("servers: [a]", "file.yaml:1: 'servers' .* a setting of pico-node"),
    "twice": (
        "proxy_port: 1\n\nproxy_port: 1",
        "file.yaml:3: 'proxy_port' is not usable: expected each name once; it stands in line 1 already",
    ),
    "merge": ("<<: {proxy_port: 1}", "file.yaml:1: '<<'"),
    "boolean": ("proxy_port: yes", "file.yaml:1: proxy_port: 'yes' is not usable: expected a port"),
    "fraction": ("proxy_port: 80.5", "file.yaml:1: proxy_port: '80.5' .* a port"),
    "hexadecimal": ("proxy_port: 0x50", "file.yaml:1: proxy_port: '0x50' .* a port"),
    "no unit": ("grace_period: 30", "file.yaml:1: grace_period: '30' .* a duration such as"),
    "sexagesimal": ("grace_period: 1:30", "file.yaml:1: grace_period: '1:30' .* a duration such as"),
    "word": ("access_log: on", "file.yaml:1: access_log: 'on' .* one of json"),
    "empty": ("a: 1\nnode_id:", "file.yaml:2: node_id: '' .* a value; leave the line out for the default"),
    "null": ("node_id: null", "file.yaml:1: node_id: 'null' .* a value; leave the line out"),
    "list": ("proxy_port: [80]", "file.yaml:1: proxy_port: 'a list' is not usable: expected one value"),
    "mapping": ("proxy_port:\n  a: b", "file.yaml:2: proxy_port: 'a mapping' .* one value"),
    "item": ("join:\n- a\n- x y", "file.yaml:3: join: 'x y' .* a host name or an address"),
    "deep item": ("join:\n- [a]", "file.yaml:2: join: 'a list' .* one value"),
    "root": ("- proxy_port: 80", "file.yaml:1: 'a list' .* settings, one a line"),
    "text": ("proxy_port", "file.yaml:1: 'a text' .* settings, one a line"),
    "key": ("[a]: b", "file.yaml:1: 'a list' .* a name"),
    "tag": ("node_id: !secret x", "file.yaml:1: 'column 10' .* YAML .a tag has no place here"),
    "a tag that says nothing": ("node_id: !!str x", "file.yaml:1: 'column 10' .*a tag has no place here"),
    "the tag of no tag": ("node_id: ! x", "file.yaml:1: .*a tag has no place here"),
    "tag of a key": ("!!str node_id: x", "file.yaml:1: .*a tag has no place here"),
    "tag of a list": ("\njoin: !!seq [a]", "file.yaml:2: .*a tag has no place here"),
    "tag of all": ("!!map\nnode_id: x", "file.yaml:1: .*a tag has no place here"),
    "python": ("node_id: !!python/object/apply:os.system [x]", "file.yaml:1: .*a tag has no place here"),
    "anchor": ("node_id: &a x", "file.yaml:1: 'column 10' .* YAML .an anchor has no place here"),
    "anchor of a list": ("join: &a\n- b", "file.yaml:1: .*an anchor has no place here"),
    "anchor of a key": ("&a node_id: x", "file.yaml:1: .*an anchor has no place here"),
    "alias": ("node_id: *a", "file.yaml:1: 'column 10' .*an alias has no place here"),
    "laughs": ("a: &a [x]\nb: &b [*a, *a, *a]\nc: [*b, *b]", "file.yaml:1: .*an anchor has no place"),
    "deep": ("join: " + "[" * 100_000, "file.yaml:1: .*too deep"),
    "documents": ("proxy_port: 1\n---\nproxy_port: 2", "file.yaml:2: .*YAML .but found another document"),
    "not yaml": ("a: b: c", "file.yaml:1: 'column 5' is not usable: expected YAML .mapping values are not allowed"),
    "not yaml, told late": ("a: '\nb: c", "file.yaml:2: .*, while scanning a quoted scalar of line 1.$"),
    "not yaml, told on its line": ("a: [b", "file.yaml:1: .* YAML .expected ',' or '\\]', but got '<stream end>'.$"),
    "tab": ("\ta: b", "file.yaml:1: .* YAML"),
    "control": (b"a: \x00b", "FILE: .* without control characters"),
    "latin": (b"a: \xff\xfeb", "FILE: .* a text in UTF-8"),
    "large": ("#" * (FILE_BYTES_MAX + 1), "FILE: .* at most 256KiB"),
    "together": ("silence: 4s\nheartbeat: 5s", "file.yaml:1: silence: '4s' .* more than file.yaml:2: heartbeat, 5s"),
    "with a default": ("silence: 4s", "file.yaml:1: silence: '4s' .* more than --heartbeat, 5s"),
    "two keys": (f"cluster_key_file: {__file__}\ncluster_key: x", "file.yaml:2: cluster_key: '...' .* one of the two"),
}  # fmt: skip


@pytest.mark.parametrize("text,complaint", BAD.values(), ids=BAD.keys())
def test_what_is_wrong_is_named_with_its_line(check: Check, text: str | bytes, complaint: str) -> None:
    _, faults = check(text)
    assert any(re.search(complaint, fault) for fault in faults), faults


KEYS = {"hex": "f0" * 32, "base64": "q80+" * 10 + "q80="}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())
@pytest.mark.parametrize(
    "text",
    [
        "cluster_key: |\n{key}\n{key}\n",
        "cluster_key: |\n{key}: x\n{key}: y\n",
        'cluster_key: "{key}\nproxy_port: 0\n',
        "cluster_key: %{key}",
        "cluster_key: !secret {key}",
        "cluster_key: !{key}",
        "cluster_key: &{key} a",
        "cluster_key: *{key}",
        "cluster_key: {{{key}}}",
        "cluster_key: [{key}, {key}]",
        "cluster_key: ${{{key}}}",
        "cluster_key: ${{file:/etc/key}}{key}",
        "cluster_key: ${{KEY:{key}}}",
        "{key}",
        "{{{key}}}",
        "? {key}",
        "endpoints:\n- {{{key}}}",
    ],
)
@pytest.mark.parametrize("program", [NODE, AGENT], ids=["node", "agent"])
def test_a_key_that_stands_wrong_is_not_told(check: Check, program: Program, text: str, key: str) -> None:
    faults = check(text.format(key=key), program)[1]
    assert faults
    assert not any(key[:12] in fault for fault in faults), faults


def test_depth_is_bounded_where_it_is_used(check: Check) -> None:
    assert check("endpoints:\n- endpoint: a\n  service: '1'\n", AGENT)[1] == []
    assert "too deep" in check("a: " + "[" * DEPTH_MAX + "]" * DEPTH_MAX)[1][0]


def test_every_fault_is_told_and_not_only_the_first(check: Check) -> None:
    _, faults = check("proxy_port: x\nfrob: 1\nadmin_port: y\ngrace_period: z")
    assert [fault.partition(" ")[0] for fault in faults] == [f"file.yaml:{line}:" for line in (1, 2, 3, 4)]


def test_all_that_does_not_go_together_is_told(check: Check) -> None:
    _, faults = check("silence: 1s\nlink_silence: 1ms\ngossip_probe_timeout: 10s\nproxy_protocol: both")
    names = ("silence", "link_silence", "gossip_probe_timeout", "proxy_protocol")
    assert [fault.split(": ")[:2] for fault in faults] == [
        [f"file.yaml:{line}", name] for line, name in enumerate(names, 1)
    ]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    _, (fault,) = check_file(NODE, str(tmp_path / "none.yaml"), {})
    assert str(fault).startswith("FILE: ")
    assert "No such file" in str(fault)


@pytest.mark.parametrize(
    "text,expected",
    [
        ("node_id: ${NAME}", "one"),
        ("node_id: a-${NAME}-${NAME}", "a-one-one"),
        ("node_id: '${NAME}'", "one"),
        ("node_id: ${NONE:-two}", "two"),
        ("node_id: ${EMPTY:-two}", "two"),
        ("node_id: ${NAME:-two}", "one"),
        ("node_id: ${NONE:-}", ""),
        ("node_id: ${EMPTY}", ""),
    ],
)
def test_a_variable_is_expanded_and_nothing_is_the_default(check: Check, text: str, expected: str) -> None:
    config, faults = check(text, NAME="one", EMPTY="")
    assert faults == []
    assert config.node_id == expected  # type: ignore[attr-defined]


def test_what_a_variable_brings_is_text_and_no_yaml(check: Check) -> None:
    _, faults = check("node_id: ${NAME}", NAME="x\nproxy_port: 1")
    assert "file.yaml:1: node_id: 'x\\nproxy_port: 1'" in faults[0]
    config, faults = check("join: ${SEEDS}", SEEDS="a:1,b:2")
    assert config.join == (("a", 1), ("b", 2))  # type: ignore[attr-defined]
    config, faults = check("cluster_key: a$${b}$c", b="x", c="y")
    assert config.cluster_key == "a${b}$c"  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", ["${NOPE}", "${", "${}", "${1x}", "${A", "${A-b}", "x${NOPE:}"])
def test_a_variable_that_is_none(check: Check, text: str) -> None:
    _, (fault,) = check(f"a: b\nnode_id: '{text}'", A="a")[0], check(f"\nnode_id: '{text}'", A="a")[1]
    assert fault.startswith("file.yaml:2: node_id: ")
    assert "a variable" in fault


ENDPOINTS = """\
servers: [http://a:8002, https://b]
endpoints:
  - endpoint: my-service
    service: http://localhost:3000
  - {endpoint: api, service: 4000}
  - web=https://intranet.example
"""


def test_the_endpoints_of_an_agent(check: Check) -> None:
    config, faults = check(ENDPOINTS, AGENT)
    assert faults == []
    assert config.servers == ("http://a:8002", "https://b")  # type: ignore[attr-defined]
    assert config.endpoints == (  # type: ignore[attr-defined]
        EndpointTarget(endpoint_id="my-service", host="localhost", port=3000),
        EndpointTarget(endpoint_id="api", host="localhost", port=4000),
        EndpointTarget(endpoint_id="web", host="intranet.example", port=443, tls=True),
    )


@pytest.mark.parametrize(
    "item,complaint",
    [
        ("{endpoint: a}", "file.yaml:2: endpoints: 'endpoint' .* service is missing"),
        ("{service: a}", "file.yaml:2: endpoints: 'service' .* endpoint is missing"),
        ("{}", "file.yaml:2: endpoints: 'nothing'"),
        ("{endpoint: a, servise: 1}", "file.yaml:2: 'servise' .* endpoint or service; the nearest is service"),
        ("service: 1\n  endpoint: a\n  port: 1", "file.yaml:4: 'port' .* endpoint or service"),
        ("service: 1\n  endpoint: [a]", "file.yaml:3: endpoint: 'a list' .* one value"),
        ("endpoint: a\n  endpoint: b", "file.yaml:3: 'endpoint' .* each name once; it stands in line 2 already"),
        ("{endpoint: [a], service: 1}", "file.yaml:2: endpoint: 'a list' .* one value"),
        ("{endpoint: a.b, service: 1}", "file.yaml:2: endpoints: 'a.b=1' .* an endpoint ID"),
        ("a", "file.yaml:2: endpoints: 'a' .* such as web=localhost:3000"),
        ("[a=1]", "file.yaml:2: endpoints: 'a list'"),
    ],
)
def test_an_endpoint_that_is_none(check: Check, item: str, complaint: str) -> None:
    _, (fault,) = check(f"endpoints:\n- {item}", AGENT)
    assert re.search(complaint, fault), fault


def test_an_endpoint_that_stands_there_twice(check: Check) -> None:
    _, (fault,) = check("endpoints:\n- a=1\n- {endpoint: A, service: 2}", AGENT)
    assert fault.startswith("file.yaml:2: endpoints: 'a' is not usable: expected each endpoint ID once")
