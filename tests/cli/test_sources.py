"""Who goes before whom, for every setting; and what is said of variables that set nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pico.cli.agent_options import AGENT
from pico.cli.command_line import UsageError
from pico.cli.node_options import NODE
from pico.cli.settings import MASK, Program, Setting
from pico.cli.sources import Value, read_settings
from pico.config import NodeConfig
from pico.errors import ConfigError
from tests.cli.test_options import AGENT_WORDS, BESIDE, ROWS, sample


def value_of(program: Program[Any], row: Setting, words: list[str], environment: dict[str, str]) -> Value:
    values = read_settings(program, words, environment).values
    return next(value for value in values if value.setting is row)


@pytest.mark.parametrize("program,row", ROWS)
def test_a_flag_goes_before_a_variable_before_the_file_before_the_default(
    tmp_path: Path, program: Program[Any], row: Setting
) -> None:
    text, path = sample(program, row), tmp_path / "file.yaml"
    beside = [word for word in AGENT_WORDS if program is AGENT and not word.startswith(f"{row.flag}=")]
    beside += [*BESIDE.get(row.key, []), f"--config={path}"]
    environment: dict[str, str] = {}
    said = []
    path.write_text(f"{row.key}: '{text}'\n")
    said.append(value_of(program, row, beside, environment))
    environment[row.variable] = text
    said.append(value_of(program, row, beside, environment))
    if row.flag:
        said.append(value_of(program, row, [*beside, f"{row.flag}={text}"], environment))
    assert [one.source for one in said] == [f"{path}:1", "environment", "flag"][: len(said)]
    assert {one.shown for one in said} == {MASK if row.secret else shown(row, text)}
    environment[row.variable] = ""
    assert value_of(program, row, beside, environment).source == f"{path}:1"


@pytest.mark.parametrize("row", NODE.settings.values(), ids=NODE.settings)
def test_what_nobody_sets_is_the_default(row: Setting) -> None:
    assert value_of(NODE, row, [], {}) == Value(row, NODE.default(row), "default")


def test_what_is_found_later_names_a_setting_as_whoever_set_it(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text("\nproxy_port: 1\nupstream_port: 2\nadmin_port: 3")
    reading = read_settings(NODE, [f"--config={path}", "--proxy-port=4"], {"PICO_UPSTREAM_PORT": "5"})
    names = {
        "proxy_port": "--proxy-port",
        "upstream_port": "PICO_UPSTREAM_PORT",
        "admin_port": f"{path}:4: admin_port",
        "gossip_port": "--gossip-port",
        "cluster_key": "cluster_key",  # which has no option
        "LISTEN_FDS": "LISTEN_FDS",
    }
    for key, name in names.items():
        with pytest.raises(ConfigError) as caught, reading.naming():
            raise ConfigError(key, "x", "y")
        assert str(caught.value) == f"{name}: 'x' is not usable: expected y"


def shown(row: Setting, text: str) -> str:
    value = row.read("", text)
    return row.written((value,) if row.kind.many else value)


def test_what_does_not_count_must_be_good_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text("proxy_port: x")
    with pytest.raises(ConfigError, match=r"file.yaml:1: proxy_port: 'x'"):
        read_settings(NODE, [f"--config={path}", "--proxy-port=1"], {})
    with pytest.raises(ConfigError, match="PICO_PROXY_PORT: 'x' is not usable: expected a port"):
        read_settings(NODE, ["--proxy-port=1"], {"PICO_PROXY_PORT": "x"})


def test_the_file_is_named_by_a_flag_or_by_a_variable(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text("proxy_port: 1")
    two.write_text("proxy_port: 2")
    environment = {"PICO_CONFIG": str(two)}
    assert read_settings(NODE, [f"--config={one}"], environment).config.proxy_port == 1
    assert read_settings(NODE, [], environment).config.proxy_port == 2
    assert read_settings(NODE, [], {"PICO_CONFIG": ""}).config == NodeConfig()
    for words, variables, named in ((["--config="], {}, "--config"), ([], {"PICO_CONFIG": "/nowhere"}, "PICO_CONFIG")):
        with pytest.raises(ConfigError, match=f"{named}: .* a file that can be read"):
            read_settings(NODE, words, variables)


def test_an_empty_variable_is_as_if_it_were_not_there_and_an_empty_flag_is_not() -> None:
    assert read_settings(NODE, [], {"PICO_ADMIN_HOST": "", "PICO_JOIN": ""}).config == NodeConfig()
    assert read_settings(NODE, ["--admin-host="], {}).config.admin_host == ""
    assert read_settings(NODE, ["--join="], {"PICO_JOIN": "a"}).config.join == ()


def test_lists_from_the_environment() -> None:
    config = read_settings(AGENT, [], {"PICO_SERVERS": "http://a:1, https://b", "PICO_ENDPOINTS": "web=1,api=2"}).config
    assert config.servers == ("http://a:1", "https://b")
    assert [target.endpoint_id for target in config.endpoints] == ["web", "api"]


def test_who_is_complained_about_is_called_by_the_name_that_was_used() -> None:
    with pytest.raises(ConfigError, match="PICO_SILENCE: '4s' is not usable: expected more than --heartbeat, 5s"):
        read_settings(NODE, ["--heartbeat=5s"], {"PICO_SILENCE": "4s"})


def test_a_variable_that_sets_nothing_is_named_and_forgiven() -> None:
    reading = read_settings(NODE, [], {"PICO_PROXI_PORT": "1", "PICO_SERVERS": "http://a", "PICO_ADMIN": "x"})
    assert reading.warnings == (
        "PICO_PROXI_PORT sets nothing; the nearest name is PICO_PROXY_PORT",
    )  # fmt: skip
    assert reading.config == NodeConfig()


def test_a_variable_of_almost_the_right_name_is_named_where_something_is_missing() -> None:
    with pytest.raises(
        UsageError, match="--server is missing; PICO_SERVER sets nothing; the nearest name is PICO_SERVERS"
    ):
        read_settings(AGENT, [], {"PICO_SERVER": "http://a"})


@pytest.mark.parametrize(
    "words,complaint",
    [
        (["--join=a,b:c"], "--join: 'b:c' is not usable: expected a port"),
        (["--join=[x]:1"], r"--join: '\[x\]:1' is not usable: expected a host name"),
    ],
)
def test_a_complaint_names_all_of_a_value(words: list[str], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        read_settings(NODE, words, {})


def test_what_kubernetes_says_of_a_service_sets_nothing() -> None:
    environment = {
        "PICO_PROXY_PORT": "tcp://10.96.0.1:8000",
        "PICO_PROXY_SERVICE_HOST": "10.96.0.1",
        "PICO_PROXY_SERVICE_PORT": "8000",
        "PICO_PROXY_SERVICE_PORT_HTTP": "8000",
        "PICO_PROXY_PORT_8000_TCP": "tcp://10.96.0.1:8000",
        "PICO_PROXY_PORT_8000_TCP_ADDR": "10.96.0.1",
    }
    reading = read_settings(NODE, [], environment)
    assert reading.config == NodeConfig()
    (warning,) = reading.warnings
    assert warning == "PICO_PROXY_PORT is not a port but what Kubernetes says of a Service; it is not read"


def test_a_secret_is_not_shown() -> None:
    reading = read_settings(NODE, [], {"PICO_CLUSTER_KEY": "k" * 44})
    row = NODE.settings["cluster_key"]
    assert next(value for value in reading.values if value.setting is row).shown == MASK
    assert "k" * 44 not in repr(reading.config)
    assert "k" * 44 not in str(value_of(NODE, row, [], {}).shown)


@pytest.mark.parametrize(
    "words",
    [
        ["--server=http://user:s3cret@h:8002", "--endpoint=web=3000"],
        ["--server=http://h:8002", "--endpoint=web=http://user:s3cret@h:1"],
    ],
)
def test_a_password_in_a_url_is_shown_by_no_complaint(words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings(AGENT, words, {})
    assert "...@h" in str(caught.value)
    assert "s3cret" not in str(caught.value)
