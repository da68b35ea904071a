"""The chart in ``deploy/helm``: rendered by Helm itself, as a library, and judged by the schemas of Kubernetes.

There is no cluster in here. So not shown: admission, scheduling, and that a NetworkPolicy is enforced. What the nodes
would read and run is read and run. After a change that is meant, ``PICO_WRITE_GOLDEN=1`` writes ``golden/`` anew.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import pico
from tests.system.processes import HOST, Node, Programs, answer_of, until

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "pico"
SIDECAR = ROOT / "deploy" / "helm" / "sidecar.yaml"
GOLDEN = Path(__file__).parent / "golden"
EVERYTHING: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "everything.yaml").read_text())
VALUES: dict[str, dict[str, Any]] = {"default": {}, "everything": EVERYTHING}
VERSIONS = ("1.29", "1.37")
"""The oldest that the chart takes, and the newest of which there are schemas."""

helm = pytest.importorskip("helm_python", reason="pip install helm-python-sdk (Linux on x86-64)")
Manifest = dict[str, Any]


def rendered(values: dict[str, Any]) -> str:
    files = helm.Chart.load(str(CHART)).render(values, name="web", namespace="prod")
    texts = (text.strip() for name, text in sorted(files.items()) if name.endswith(".yaml"))
    return "\n---\n".join(text for text in texts if text) + "\n"


def installed(values: dict[str, Any]) -> str:
    """As an installation would do it: judged by the schema of the chart first."""
    helm.Chart.load(str(CHART)).validate_schema(values)
    return rendered(values)


def manifests(values: dict[str, Any]) -> list[Manifest]:
    return [manifest for manifest in yaml.safe_load_all(rendered(values)) if manifest]


def one(kind: str, values: dict[str, Any], name: str = "") -> Manifest:
    (found,) = [
        manifest
        for manifest in manifests(values)
        if manifest["kind"] == kind and (not name or manifest["metadata"]["name"] == name)
    ]
    return found


def pod(values: dict[str, Any]) -> Manifest:
    spec: Manifest = one("StatefulSet", values)["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("name", VALUES)
def test_helm_finds_no_fault(name: str) -> None:
    report = helm.lint(str(CHART), VALUES[name], strict=True)
    assert report["errors"] == []
    assert [message["error"] for message in report["messages"] if message["severity"] > 1] == []


@pytest.mark.parametrize("name", VALUES)
def test_what_is_rendered_is_what_was_looked_at(name: str) -> None:
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("PICO_WRITE_GOLDEN"):
        path.write_text(rendered(VALUES[name]))
    assert rendered(VALUES[name]) == path.read_text(), "PICO_WRITE_GOLDEN=1 writes it anew"


def everything_of_kubernetes() -> Iterator[tuple[str, Manifest]]:
    for name, values in VALUES.items():
        for manifest in manifests(values):
            if manifest["apiVersion"] != "monitoring.coreos.com/v1":  # of which there is no schema here
                yield f"{name} {manifest['kind']} {manifest['metadata']['name']}", manifest
    for manifest in yaml.safe_load_all(SIDECAR.read_text()):
        yield "sidecar", manifest


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("manifest", [pytest.param(one, id=name) for name, one in everything_of_kubernetes()])
def test_kubernetes_has_a_schema_for_it(manifest: Manifest, version: str) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    kubernetes_validate.validate(manifest, version, strict=True)


def test_the_chart_is_of_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == pico.__version__
    assert pod({})["containers"][0]["image"] == f"pico:{pico.__version__}"
    assert f"image: pico:{pico.__version__}\n" in SIDECAR.read_text()


REFUSED = {
    "latest": ({"image": {"tag": "latest"}}, "tag"),
    "a key that there is not": ({"replicas": 3}, "replicas"),
    "no number": ({"replicaCount": "three"}, "replicaCount"),
    "a setting in capitals": ({"config": {"proxyPort": 1}}, "proxyPort"),
    "one name for all nodes": ({"config": {"node_id": "node"}}, "config"),
    "a service that there is not": ({"service": {"type": "ExternalName"}}, "type"),
    "a digest that is none": ({"image": {"digest": "0123"}}, "digest"),
    "not enough time": ({"terminationGracePeriodSeconds": 30}, "30 is not enough"),
    "no duration": ({"config": {"grace_period": "long"}}, "no duration"),
}


@pytest.mark.parametrize("values,said", REFUSED.values(), ids=REFUSED.keys())
def test_values_that_cannot_be_meant_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(helm.HelmError, match=re.escape(said)):
        installed(values)


def test_the_time_to_end_is_longer_than_what_the_end_takes() -> None:
    assert pod({})["terminationGracePeriodSeconds"] == 5 + 1 + 30 + 20
    assert pod(EVERYTHING)["terminationGracePeriodSeconds"] == 5 + 2 + 60 + 20
    assert pod({"config": {"drain_delay": "0", "grace_period": "500ms"}})["terminationGracePeriodSeconds"] == 5 + 1 + 20


def test_admin_and_gossip_are_in_no_service_for_others() -> None:
    for values in VALUES.values():
        for manifest in manifests(values):
            if manifest["kind"] == "Service" and not manifest["metadata"]["name"].endswith("-headless"):
                assert {port["targetPort"] for port in manifest["spec"]["ports"]} <= {"proxy", "upstream"}
        (policy,) = [manifest for manifest in manifests(values) if manifest["kind"] == "NetworkPolicy"]
        for rule in policy["spec"]["ingress"]:
            if {port["port"] for port in rule["ports"]} & {"admin", "gossip-tcp", "gossip-udp"}:
                assert rule["from"], "an empty list would be everybody"


def test_peers_are_found_before_they_are_ready() -> None:
    headless = one("Service", {}, "web-pico-headless")["spec"]
    assert headless["clusterIP"] == "None"
    assert headless["publishNotReadyAddresses"] is True
    assert one("StatefulSet", {})["spec"]["serviceName"] == "web-pico-headless"
    assert settings({})["join"] == "web-pico-headless.prod.svc:8003"


def test_a_change_of_the_settings_rolls_the_nodes() -> None:
    def checksum(values: dict[str, Any]) -> str:
        annotations = one("StatefulSet", values)["spec"]["template"]["metadata"]["annotations"]
        return str(annotations["checksum/config"])

    assert checksum({}) == checksum({"replicaCount": 4})
    assert checksum({}) != checksum({"config": {"log_level": "debug"}})


def settings(values: dict[str, Any]) -> dict[str, Any]:
    """What a node reads."""
    read: dict[str, Any] = yaml.safe_load(one("ConfigMap", values)["data"]["pico.yaml"])
    return read


def test_every_setting_of_a_node_is_reachable(tmp_path: Path) -> None:
    """Each with its default goes through the chart, and what comes out is a file that pico-node takes."""
    schema = json.loads(pico_config("schema").stdout)["properties"]
    shown = json.loads(pico_config("show", "--json").stdout)
    given = {name: one["value"] for name, one in shown.items() if one["value"] not in (None, "", [])}
    assert set(given) <= set(schema)
    allowed = json.loads((CHART / "values.schema.json").read_text())["properties"]["config"]["propertyNames"]["pattern"]
    assert [name for name in schema if not re.match(allowed, name)] == []
    given = {name: value for name, value in given.items() if name != "node_id"}
    read = settings({"config": given})
    assert {name: read[name] for name in given} == given
    file = tmp_path / "pico.yaml"
    file.write_text(one("ConfigMap", {"config": given})["data"]["pico.yaml"])
    checked = pico_config("check", str(file))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def pico_config(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pico.cli.pico", "config", *words],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_secrets_are_mounted_where_the_settings_look_for_them() -> None:
    read = settings(EVERYTHING)
    mounts = {mount["mountPath"]: mount["name"] for mount in pod(EVERYTHING)["containers"][0]["volumeMounts"]}
    volumes = {volume["name"]: volume.get("secret", {}).get("secretName") for volume in pod(EVERYTHING)["volumes"]}
    for door in ("proxy", "upstream", "admin"):
        folder = f"/etc/pico/tls/{door}"
        assert (read[f"{door}_tls_cert"], read[f"{door}_tls_key"]) == (f"{folder}/tls.crt", f"{folder}/tls.key")
        assert volumes[mounts[folder]] == f"{door}-tls"
    assert read["cluster_key_file"] == "/etc/pico/cluster/keys"
    assert volumes[mounts["/etc/pico/cluster"]] == "cluster-key"


def test_probes_speak_tls_where_the_admin_port_does() -> None:
    for values, scheme in (({}, "HTTP"), (EVERYTHING, "HTTPS")):
        container = pod(values)["containers"][0]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container[probe]["httpGet"]["scheme"] == scheme


def test_a_node_runs_as_the_chart_has_it(programs: Programs, tmp_path: Path) -> None:
    """With its file, its arguments and its name; on free ports, and with the name of the Service as this machine's."""
    container = pod({})["containers"][0]
    with_ports = {f"{door}_{what}": value for door in Node.DOORS for what, value in (("port", 0), ("host", HOST))}
    read = {**settings({}), **with_ports, "join": f"{HOST}:1", "drain_delay": "0"}
    file = tmp_path / "pico.yaml"
    file.write_text(yaml.safe_dump(read))
    (argument,) = container["args"]
    started = programs.program("pico.cli.node", argument.replace("/etc/pico/node/pico.yaml", str(file)))
    port = int(started.until_said(r"--admin-port listens on \S+:(\d+)")[1])
    started.until_said("is ready")
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        path = container[probe]["httpGet"]["path"]
        until(lambda path=path: answer_of(port, path)[0] == 200, probe)
    assert answer_of(port, one("ServiceMonitor", EVERYTHING)["spec"]["endpoints"][0]["path"])[0] == 200


def test_the_agent_of_the_example_takes_its_options() -> None:
    (deployment,) = yaml.safe_load_all(SIDECAR.read_text())
    template = deployment["spec"]["template"]["spec"]
    (agent,) = template["initContainers"]
    assert agent["restartPolicy"] == "Always"
    shown = pico_config("show", "--agent", *agent["args"])
    assert shown.returncode == 0, shown.stderr
    assert template["terminationGracePeriodSeconds"] > 30 + 5
