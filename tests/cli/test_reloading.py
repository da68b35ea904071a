"""What is said now, against what counts: which changes count at once, which wait, and what a bad file changes."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pico.cli.agent_options import AGENT
from pico.cli.command_line import UsageError
from pico.cli.node_options import NODE
from pico.cli.reloading import Reloading
from pico.cli.sources import read_settings
from pico.config import NodeConfig, TlsFiles
from pico.errors import ConfigError


@pytest.fixture(autouse=True)
def log() -> Iterator[None]:
    """The process's log is as it was when the test ends."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "node.yaml"
    made.write_text("")
    return made


def begun(path: Path, *words: str, **environment: str) -> Reloading[NodeConfig]:
    words = (f"--config={path}", *words)
    return Reloading(NODE, words, environment, read_settings(NODE, words, environment))


def test_nothing_new(path: Path) -> None:
    proposal = begun(path).propose()
    assert (proposal.config, proposal.changed, proposal.needs_restart) == (NodeConfig(), (), ())


def test_what_can_change_counts_and_what_cannot_is_as_it_was(path: Path) -> None:
    reloading = begun(path)
    path.write_text("fields_max: 5\nproxy_port: 1\ntrusted_proxies: [10.0.0.0/8]\n")
    proposal = reloading.propose()
    assert proposal.changed == ("trusted_proxies", "fields_max")
    assert proposal.needs_restart == ("proxy_port",)
    wanted = replace(NodeConfig(), trusted_proxies=("10.0.0.0/8",))
    assert proposal.config == replace(wanted, http_limits=replace(wanted.http_limits, fields_max=5))
    assert reloading.config == NodeConfig(), "not before it is accepted"
    proposal.accept()
    assert reloading.config == proposal.config
    assert reloading.propose().changed == ()
    assert reloading.propose().needs_restart == ("proxy_port",), "as long as it waits"


def test_a_line_that_is_taken_out_is_the_default_again(path: Path) -> None:
    path.write_text("fields_max: 5")
    reloading = begun(path)
    path.write_text("")
    proposal = reloading.propose()
    assert (proposal.changed, proposal.config) == (("fields_max",), NodeConfig())


def test_a_flag_still_goes_before_the_file(path: Path) -> None:
    reloading = begun(path, "--fields-max=7")
    path.write_text("fields_max: 5")
    assert reloading.propose().changed == ()


def test_a_bad_file_is_refused_and_changes_nothing(path: Path) -> None:
    reloading = begun(path)
    for text in ("fields_max: 5\nfrob: 1", "fields_max: x", "silence: 1s", "a: b: c"):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"node\.yaml:"):
            reloading.propose()
    path.unlink()
    with pytest.raises(ConfigError, match="--config"):
        reloading.propose()
    assert reloading.config == NodeConfig()


def test_a_file_of_the_same_name_with_another_content_has_changed(path: Path, tmp_path: Path) -> None:
    certificate = tmp_path / "cert.pem"
    certificate.write_text("one")
    reloading = begun(path, f"--proxy-tls-cert={certificate}", f"--proxy-tls-key={__file__}")
    assert reloading.propose().changed == ()
    certificate.write_text("two")
    proposal = reloading.propose()
    assert proposal.changed == ("proxy_tls_cert",)
    proposal.accept()
    assert reloading.propose().changed == ()


def test_a_certificate_is_replaced_but_tls_neither_begins_nor_ends(path: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    two.write_text("2")
    files = TlsFiles(certificate=str(one), key=str(one))
    plain = begun(path)
    path.write_text(f"proxy_tls_cert: {one}\nproxy_tls_key: {one}\n")
    assert plain.propose().needs_restart == ("proxy_tls_cert", "proxy_tls_key")
    assert plain.propose().config.proxy_tls is None
    secure = begun(path)
    path.write_text(f"proxy_tls_cert: {two}\nproxy_tls_key: {one}\n")
    proposal = secure.propose()
    assert (proposal.changed, proposal.needs_restart) == (("proxy_tls_cert",), ())
    assert proposal.config.proxy_tls == replace(files, certificate=str(two))
    path.write_text("")
    assert secure.propose().needs_restart == ("proxy_tls_cert", "proxy_tls_key")
    assert secure.propose().config.proxy_tls == files


@pytest.mark.parametrize(
    "other",
    ["proxy_port: 1", "cluster_key_file: {file}", "proxy_tls_cert: {file}\nproxy_tls_key: {file}"],
    ids=["no file", "file", "files"],
)
def test_what_waits_for_a_restart_and_is_changed_back_waits_no_longer(path: Path, tmp_path: Path, other: str) -> None:
    file = tmp_path / "file"
    file.write_text("content")
    reloading = begun(path)
    path.write_text(other.format(file=file))
    proposal = reloading.propose()
    assert proposal.needs_restart
    proposal.accept()
    path.write_text("")
    proposal = reloading.propose()
    assert (proposal.changed, proposal.needs_restart) == ((), ())
    proposal.accept()


def test_a_file_that_waits_for_a_restart_is_compared_with_the_one_that_counts(path: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    two.write_text("2")
    names = f"proxy_tls_cert: {one}\nproxy_tls_key: {one}\n"
    path.write_text(names)
    reloading = begun(path)
    path.write_text("")  # TLS cannot end while the node runs
    proposal = reloading.propose()
    assert proposal.needs_restart == ("proxy_tls_cert", "proxy_tls_key")
    proposal.accept()
    path.write_text(names)
    proposal = reloading.propose()
    assert (proposal.changed, proposal.needs_restart) == ((), ())
    path.write_text(names.replace(str(one), str(two), 1))
    assert reloading.propose().changed == ("proxy_tls_cert",)


@pytest.mark.parametrize("doors", ["", "proxy_protocol: off"])
def test_what_does_not_fit_to_what_waits_waits_too(path: Path, doors: str) -> None:
    """The trusted proxies could go, but not before the doors that ask them."""
    path.write_text("trusted_proxies: 10.0.0.0/8\nproxy_protocol: both\nfields_max: 5")
    reloading = begun(path)
    before = reloading.config
    path.write_text(f"fields_max: 6\n{doors}")
    proposal = reloading.propose()
    assert (proposal.changed, proposal.needs_restart) == (("fields_max",), ("trusted_proxies", "proxy_protocol"))
    assert proposal.config == replace(before, http_limits=replace(before.http_limits, fields_max=6))
    proposal.accept()
    path.write_text("trusted_proxies: 10.0.0.0/16\nproxy_protocol: both\nfields_max: 6")
    assert (reloading.propose().changed, reloading.propose().needs_restart) == (("trusted_proxies",), ())


def test_what_counts_at_once_may_change_together(path: Path) -> None:
    """Each alone would not go with the other as it was."""
    reloading = begun(path)
    path.write_text("heartbeat: 1m\nsilence: 2m")
    assert set(reloading.propose().changed) == {"heartbeat", "silence"}


def test_a_pipe_is_refused_and_not_waited_for(path: Path, tmp_path: Path) -> None:
    """Neither as the file of settings nor as one that it names."""
    file, pipe = tmp_path / "keys", tmp_path / "pipe"
    file.write_text("key")
    path.write_text(f"cluster_key_file: {file}")
    reloading = begun(path)
    os.mkfifo(pipe)
    path.write_text(f"cluster_key_file: {pipe}")
    with pytest.raises(ConfigError, match="node.yaml:1: cluster_key_file: .* a regular file"):
        reloading.propose()
    pipe.rename(path)
    with pytest.raises(ConfigError, match="--config: .* a regular file"):
        reloading.propose()


def test_the_log_is_set_when_it_has_changed_and_left_alone_otherwise(path: Path) -> None:
    reloading = begun(path, "--log-level=error")
    reloading.begin()
    assert logging.getLogger().level == logging.ERROR
    logging.getLogger().setLevel(logging.DEBUG)  # as an operator may at the admin door
    path.write_text("fields_max: 5")
    reloading.propose().accept()
    assert logging.getLogger().level == logging.DEBUG
    path.write_text("log_format: json")
    reloading.propose().accept()
    assert logging.getLogger().level == logging.ERROR


def test_a_doubt_is_told_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    environment = {"PICO_FROB": "1"}
    words = (f"--config={path}",)
    reloading = Reloading(NODE, words, environment, read_settings(NODE, words, environment))
    with caplog.at_level(logging.WARNING):
        reloading._warn(reloading._reading, ())
        reloading.propose().accept()
        assert [record.getMessage() for record in caplog.records] == ["from the environment: PICO_FROB sets nothing"]


def test_an_agent_needs_an_endpoint_after_a_reload_too(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text("servers: [http://a]\nendpoints: [web=1]\n")
    words = (f"--config={path}",)
    reloading = Reloading(AGENT, words, {}, read_settings(AGENT, words, {}))
    path.write_text("servers: [http://b]\nendpoints: [web=2, api=3]\n")
    proposal = reloading.propose()
    assert (proposal.changed, proposal.needs_restart) == (("endpoints",), ("servers",))
    assert proposal.config.servers == ("http://a",)
    path.write_text("servers: [http://a]\n")
    with pytest.raises(UsageError, match="--endpoint is missing"):
        reloading.propose()
