"""``pico config``: what it prints, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pico.cli import config_command
from pico.cli.command_line import UsageError, parse
from pico.cli.config_command import USAGE, run_config
from tests.certificates import Authority


def run(*words: str) -> int:
    return run_config(parse(USAGE, words, program="pico config", commands=True))


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    known: dict[str, str] = {}
    monkeypatch.setattr(config_command.os, "environ", known)
    return known


def test_a_good_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "node.yaml"
    path.write_text("proxy_port: 80\n")
    assert run("check", str(path)) == 0
    assert capsys.readouterr().out == f"{path} is good for pico-node\n"


def test_a_file_that_is_not_good_is_told_line_by_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text("proxy_port: 80\nservers: [x]\n")
    assert run("check", "--agent", str(path)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert [line.split(" ")[3] for line in said.err.splitlines()] == [f"{path}:1:", f"{path}:2:"]


@pytest.mark.parametrize(
    "text,words,said",
    [
        ("servers: [http://a]\nendpoints: [web=1]", [], "it is good for pico-agent, with --agent"),
        ("proxy_port: 80", ["--agent"], "it is good for pico-node, without --agent"),
    ],
)
def test_a_file_for_the_other_program_is_told_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: list[str], said: str
) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    assert run("check", str(path), *words) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"pico config check: {said}"


def test_a_certificate_that_has_expired_is_said_of_a_file_that_is_good_but_for_that(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = Authority(tmp_path).issue("localhost", expired=True)
    path = tmp_path / "node.yaml"
    path.write_text(f"upstream_tls_cert: {old.certificate}\nupstream_tls_key: {old.key}\n")
    assert run("check", str(path)) == 0
    said = capsys.readouterr()
    assert said.out == f"{path} is good for pico-node\n"
    assert said.err == (
        "pico config check: upstream_tls_cert: the certificate has expired: whoever verifies it refuses to connect\n"
    )


def test_a_file_that_needs_more_than_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text("endpoints: [web=1]")
    assert run("check", "--agent", str(path)) == 0
    assert capsys.readouterr().out == f"{path} is good for pico-agent, with servers from elsewhere\n"


def test_a_check_reads_what_the_file_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    authority, path = Authority(tmp_path), tmp_path / "node.yaml"
    one, two = authority.issue("one"), authority.issue("two")
    path.write_text(f"proxy_tls_cert: {one.certificate}\nproxy_tls_key: {two.key}\n")
    assert run("check", str(path)) == 2
    assert f"{path}:2: proxy_tls_key: '{two.key}' is not usable" in capsys.readouterr().err
    path.write_text("cluster_key: short")
    assert run("check", str(path)) == 2
    said = capsys.readouterr().err
    assert f"{path}:1: cluster_key: 'line 1' is not usable" in said
    assert "short" not in said
    path.write_text(f"servers: [https://a]\nca_file: {one.key}")
    assert run("check", str(path), "--agent") == 2
    assert f"{path}:2: ca_file: '{one.key}' is not usable" in capsys.readouterr().err


def test_what_counts_and_who_said_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], environment: dict[str, str]
) -> None:
    path = tmp_path / "node.yaml"
    path.write_text("\nadmin_port: 1\nupstream_port: 2\n")
    environment.update(PICO_UPSTREAM_PORT="3", PICO_CLUSTER_KEY="secret", PICO_FROB="x")
    assert run("show", f"--config={path}", "--json", "--proxy-port", "4") == 0
    said = capsys.readouterr()
    rows = json.loads(said.out)
    assert rows["proxy_port"] == {"value": "4", "source": "flag"}
    assert rows["upstream_port"] == {"value": "3", "source": "environment"}
    assert rows["admin_port"] == {"value": "1", "source": f"{path}:2"}
    assert rows["gossip_port"] == {"value": "8003", "source": "default"}
    assert rows["cluster_key"] == {"value": "********", "source": "environment"}
    assert "PICO_FROB" in said.err
    assert run("show", f"--config={path}") == 0
    said = capsys.readouterr()
    assert "secret" not in said.out
    assert any(line.split() == ["admin_port", "1", f"{path}:2"] for line in said.out.splitlines())


def test_show_for_an_agent(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", "--agent", "--json", "--server=http://a", "--endpoint=web=1") == 0
    assert json.loads(capsys.readouterr().out)["endpoints"] == {"value": "web=localhost:1", "source": "flag"}
    assert run("show", "--help") == 0
    assert "pico config" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["frob"], ["check"], ["check", "a", "b"], ["schema", "x"], ["show", "--frob"]])
def test_a_wrong_word(words: list[str]) -> None:
    with pytest.raises(UsageError):
        run(*words)


@pytest.mark.parametrize("words,title", [([], "pico-node: settings"), (["--agent"], "pico-agent: settings")])
def test_the_schema_is_printed(words: list[str], title: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("schema", *words) == 0
    assert json.loads(capsys.readouterr().out)["title"] == title
