"""How node and agent start, leave and fail, seen from outside: exit codes, one line, and what is in flight."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from pico.cli.bench.processes import free_port
from tests.system.processes import CURL_S, HOST, Node, Program, Programs, answer_of, curl, curling, until
from tests.system.service import Service

DOORS = [f"--{door}-host={HOST}" for door in ("proxy", "admin", "upstream", "gossip")]
ANY_PORTS = [f"--{door}-port=0" for door in ("proxy", "admin", "upstream", "gossip")]
BLOCKED = (
    "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65)); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)
ASK = ("--fail", "-H", "x-pico-endpoint: web")


@contextmanager
def in_flight(service: Service, node: Node) -> Iterator[subprocess.Popen[bytes]]:
    """A request that the service has got and not answered."""
    with curling(*ASK, f"{node.url}/wait") as running:
        service.until_waiting()
        yield running


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_node_that_is_told_to_stop_finishes_what_is_in_flight(
    programs: Programs, service: Service, number: signal.Signals
) -> None:
    node = programs.node()
    agent = programs.agent(node.upstream_url, "web", service.port).registered()
    with in_flight(service, node) as running:
        node.send(number)
        node.until_said("drains")
        until(lambda: refuses(node.proxy_port), "the closing of the proxy door")
        assert node.admin("/readyz")[0] == 503
        assert node.admin("/livez")[0] == 200
        assert node.process.poll() is None
        service.permit()
        assert running.communicate(timeout=CURL_S)[0] == b"it was worth it\n"
        assert running.returncode == 0
    assert node.wait() == 0
    assert agent.process.poll() is None, "an agent outlives its node"


def refuses(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_requests_are_served_until_the_door_closes(programs: Programs, service: Service) -> None:
    """The drain's delay is there so that balancers notice: until it is over, nobody is refused."""
    node = programs.node("--drain-delay=2s", "--endpoint-wait=0")
    programs.agent(node.upstream_url, "web", service.port).registered()
    node.send(signal.SIGTERM)
    until(lambda: node.admin("/readyz")[0] == 503, "the node's warning")
    for _ in range(5):
        assert curl(*ASK, f"{node.url}/").stdout == b"hello\n"
    assert node.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_agent_that_is_told_to_stop_finishes_what_is_in_flight(
    programs: Programs, service: Service, number: signal.Signals
) -> None:
    node = programs.node("--endpoint-wait=0")
    agent = programs.agent(node.upstream_url, "web", service.port).registered()
    with in_flight(service, node) as running:
        agent.send(number)
        until(lambda: node.metric("pico_endpoints") == 0, "the end of its registration")
        assert b"endpoint_not_found" in curl("-H", "x-pico-endpoint: web", f"{node.url}/").stdout
        assert agent.process.poll() is None
        service.permit()
        assert running.communicate(timeout=CURL_S)[0] == b"it was worth it\n"
    assert agent.wait() == 0


@pytest.mark.parametrize("which,number", [("node", signal.SIGTERM), ("agent", signal.SIGINT)])
def test_the_second_signal_stops_at_once(
    programs: Programs, service: Service, which: str, number: signal.Signals
) -> None:
    node = programs.node()
    agent = programs.agent(node.upstream_url, "web", service.port).registered()
    with in_flight(service, node) as running:
        told: Program = node if which == "node" else agent
        told.send(number)
        told.until_said("drains" if which == "node" else "finishes its requests")
        assert told.process.poll() is None
        told.send(number)
        assert told.wait(within_s=8.0) == 0  # the grace period is 30 s
        running.communicate(timeout=CURL_S)
        assert running.returncode != 0
    service.permit()


def test_the_signal_after_an_operators_drain_is_the_first(programs: Programs, service: Service) -> None:
    """As where an orchestrator has a hook that drains, and then sends its signal."""
    node = programs.node()
    programs.agent(node.upstream_url, "web", service.port).registered()
    with in_flight(service, node) as running:
        assert curl("--fail", "--json", "{}", f"http://{HOST}:{node.admin_port}/-/drain").returncode == 0
        node.until_said("drains")
        node.send(signal.SIGTERM)
        until(lambda: refuses(node.proxy_port), "the closing of the proxy door")
        assert node.admin("/livez")[0] == 200
        service.permit()
        assert running.communicate(timeout=CURL_S)[0] == b"it was worth it\n"
    assert node.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("which", ["node", "agent"])
def test_a_signal_to_what_is_ending_changes_no_exit_code(
    programs: Programs, service: Service, which: str, number: signal.Signals
) -> None:
    node = programs.node()
    agent = programs.agent(node.upstream_url, "web", service.port).registered()
    told: Program = node if which == "node" else agent
    told.send(number)
    told.until_said("stopped")
    told.send(number)
    assert told.wait() == 0


def test_signals_at_which_others_open_their_logs_again_end_nobody(programs: Programs, service: Service) -> None:
    node = programs.node_begun()
    agent = programs.agent(node.ready().upstream_url, "web", service.port).registered()
    for program in (node, agent):
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            program.send(number)
            assert curl(*ASK, f"{node.url}/hello").stdout == b"hello\n"
    for program in (agent, node):
        program.send(signal.SIGTERM)
        assert program.wait() == 0


def test_a_signal_is_heard_though_the_caller_has_blocked_it(programs: Programs, service: Service) -> None:
    """As a supervisor does that waits for signals itself: what it starts inherits what it has blocked."""
    within = [sys.executable, "-c", BLOCKED]
    node = programs.node_begun(within=within).ready()
    target = f"--endpoint=web={HOST}:{service.port}"
    agent = programs.agent_of(f"--server={node.upstream_url}", target, within=within).registered()
    for program in (agent, node):
        program.send(signal.SIGTERM)
        assert program.wait() == 0


def test_a_grace_period_ends(programs: Programs, service: Service) -> None:
    node = programs.node("--grace-period=500ms")
    agent = programs.agent(node.upstream_url, "web", service.port, "--grace-period=500ms").registered()
    with in_flight(service, node) as running:
        agent.send(signal.SIGTERM)
        assert agent.wait() == 0
        running.communicate(timeout=CURL_S)
        assert running.returncode != 0
    programs.agent(node.upstream_url, "web", service.port).registered()
    with in_flight(service, node) as running:
        node.send(signal.SIGTERM)
        assert node.wait() == 0
        assert b"502" in running.communicate(timeout=CURL_S)[1]
        assert '"outcome":"node_stopped"' in node.output
        assert "1 requests are cut off by the stop" in node.errors
    service.permit()
    service.permit()


def test_an_agent_follows_a_node_that_is_started_anew(programs: Programs, service: Service) -> None:
    first = programs.node()
    ports = [f"--{door}-port={getattr(first, f'{door}_port')}" for door in ("proxy", "admin", "upstream")]
    agent = programs.agent(first.upstream_url, "web", service.port, "--backoff-max=500ms").registered()
    first.send(signal.SIGKILL)
    first.wait()
    agent.until_said("retrying")
    second = programs.program("pico.cli.node", *DOORS, *ports, "--gossip-port=0", "--drain-delay=0")
    second.until_said("is ready")
    second.until_said("registered endpoint web")
    assert curl(*ASK, f"{first.url}/").stdout == b"hello\n"
    assert agent.errors.count("retrying") == 1, "the same failure again is no news"


@pytest.mark.parametrize("door", ["proxy", "admin", "upstream"])
def test_a_node_whose_port_is_taken_says_so_in_one_line(programs: Programs, door: str) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        ports = [option for option in ANY_PORTS if door not in option]
        code, said = programs.run("node", *DOORS, *ports, f"--{door}-port={port}")
    complaints = [line for line in said.splitlines() if "level=info" not in line]
    assert code == 1
    assert len(complaints) == 1, said
    assert re.fullmatch(rf"pico-node: .*--{door}-port.*{port}.*in use.*", complaints[0])


# One for each way to the line; what is wrong with words and values is told apart in tests/cli.
BAD = {
    "unknown option": ("node", ["--frob"], "pico-node: unknown option --frob"),
    "no number": ("node", ["--proxy-port=many"], "pico-node: --proxy-port"),
    "no certificate": (
        "node",
        [f"--proxy-tls-cert={__file__}", f"--proxy-tls-key={__file__}"],
        f"pico-node: --proxy-tls-cert: '{__file__}' is not usable: expected certificates in PEM",
    ),
    "no authorities": (
        "agent",
        ["--server=https://localhost:1", "--endpoint=web=3000", f"--ca-file={__file__}"],
        f"pico-agent: --ca-file: '{__file__}' is not usable: expected certificates in PEM",
    ),
    "nothing": ("agent", [], "pico-agent: --server is missing"),
    "no endpoint": ("agent", ["--server=http://localhost:1", "--endpoint=a.b=3000"], "pico-agent: --endpoint"),
}


@pytest.mark.parametrize("program,words,begins", BAD.values(), ids=BAD.keys())
def test_a_wrong_word_is_answered_with_one_line(
    programs: Programs, program: str, words: list[str], begins: str
) -> None:
    code, said = programs.run(program, *words)
    assert code == 2
    assert len(said.splitlines()) == 1
    assert said.startswith(begins)


@contextmanager
def door_that_answers(status: str) -> Iterator[str]:
    """Something that is no node of Pico, or one that will not have this agent."""
    with socket.create_server((HOST, 0)) as listening:

        def answer() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield f"http://{HOST}:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def test_an_agent_that_is_refused_for_good_ends_with_one_line(programs: Programs) -> None:
    with door_that_answers("403 Forbidden") as server:
        code, said = programs.run("agent", f"--server={server}", "--endpoint=web=3000")
    assert code == 1
    errors = [line for line in said.splitlines() if "level=error" in line]
    assert len([line for line in errors if "the agent ends" in line]) == 1, said
    assert "403" in errors[-1]


def test_an_agent_goes_on_after_an_answer_that_may_heal(programs: Programs) -> None:
    with door_that_answers("503 Service Unavailable") as server:
        agent = programs.agent_of(f"--server={server}", "--endpoint=web=3000", "--backoff-max=100ms")
        agent.until_said("retrying")
        agent.send(signal.SIGTERM)
        assert agent.wait() == 0


def test_an_agent_takes_the_next_server(programs: Programs, service: Service) -> None:
    node = programs.node()
    with socket.create_server((HOST, 0)) as nobody:
        gone = nobody.getsockname()[1]
    programs.agent_of(
        f"--server=http://{HOST}:{gone}", f"--server={node.upstream_url}", f"--endpoint=web={HOST}:{service.port}"
    ).registered()
    assert curl(*ASK, f"{node.url}/").stdout == b"hello\n"


def test_an_agent_has_an_admin_door_when_it_is_asked_to(programs: Programs, service: Service) -> None:
    node = programs.node()
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    agent = programs.agent(node.upstream_url, "web", service.port, f"--admin-port={port}").registered()
    assert answer_of(port, "/livez")[0] == 200
    assert answer_of(port, "/readyz")[0] == 200
    assert 'pico_tunnel_up{endpoint="web"} 1.0' in answer_of(port, "/metrics")[1]
    node.send(signal.SIGKILL)
    until(lambda: answer_of(port, "/readyz")[0] == 503, "the agent's notice")
    agent.send(signal.SIGTERM)
    assert agent.wait() == 0


def test_node_and_agent_do_without_standard_streams(programs: Programs, service: Service) -> None:
    closed = ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh")
    proxy, upstream, admin = free_port(), free_port(), free_port()
    ports = (f"--proxy-port={proxy}", f"--upstream-port={upstream}", f"--admin-port={admin}")
    node = programs.node_begun(*ports, within=closed)
    service_option = f"--endpoint=web={HOST}:{service.port}"
    agent = programs.agent_of(f"--server=http://{HOST}:{upstream}", service_option, "--access-log=json", within=closed)

    def answered() -> bool:
        assert node.process.poll() is None and agent.process.poll() is None
        return curl(*ASK, f"http://{HOST}:{proxy}/hello").stdout == b"hello\n"

    until(answered, "an answer through both")
    for program in (agent, node):
        program.send(signal.SIGTERM)
        assert program.wait() == 0


def test_a_node_that_runs_out_of_files_says_so_and_goes_on(programs: Programs) -> None:
    few = ("sh", "-c", 'ulimit -n 64 && exec "$@"', "sh")
    node = programs.node_begun(within=few).ready()
    assert node.errors.count("the limit of open files is 64, ") == 1
    with ExitStack() as clients:
        for _ in range(100):
            clients.enter_context(socket.create_connection((HOST, node.admin_port)))
        node.until_said("--admin-port accepts nobody for a moment: Too many open files")
    until(lambda: node.admin("/readyz")[0] == 200, "an answer of the admin door")


def test_requests_that_take_all_files_of_an_agent_keep_no_probe_out_and_no_tunnel(
    programs: Programs, service: Service
) -> None:
    few = ("sh", "-c", 'ulimit -n 80 && exec "$@"', "sh")
    node = programs.node()
    port = free_port()
    words = (f"--server={node.upstream_url}", f"--endpoint=web={HOST}:{service.port}", f"--admin-port={port}")
    programs.agent_of(*words, within=few).registered()
    with ExitStack() as clients:
        for _ in range(100):
            client = clients.enter_context(socket.create_connection((HOST, node.proxy_port)))
            client.sendall(b"GET /wait HTTP/1.1\r\nHost: web.test\r\n\r\n")
        node.until_said("gave it up: cannot connect to")
        assert answer_of(port, "/livez")[0] == 200
        with socket.create_connection((HOST, port)):
            assert answer_of(port, "/metrics")[0] == 200


def test_clients_that_take_all_files_keep_no_probe_and_nobody_else_out(programs: Programs, service: Service) -> None:
    few = ("sh", "-c", 'ulimit -n 80 && exec "$@"', "sh")
    node = programs.node_begun(within=few).ready()
    programs.agent(node.upstream_url, "web", service.port).registered()
    with ExitStack() as clients:
        for _ in range(100):
            clients.enter_context(socket.create_connection((HOST, node.proxy_port)))
        assert node.admin("/livez")[0] == 200
        assert curl(*ASK, f"{node.url}/hello").stdout == b"hello\n", "who has asked nothing for a second makes room"
        assert node.admin("/metrics")[0] == 200
