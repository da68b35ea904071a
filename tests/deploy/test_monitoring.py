"""What is shipped for Prometheus and Grafana asks for series and labels that there are, and alerts when it should."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from pico.observability.cluster_metrics import CHANNELS
from pico.observability.metrics import AgentMetrics, NodeMetrics
from pico.protocol.http import Failure
from tests.deploy.promql import selectors

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
OF_PROMETHEUS = {"job", "instance"}
"""Labels that every series gets when it is scraped."""

promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed: Debian has it in prometheus"
)


def rendered() -> dict[str, set[str]]:
    """Every series that a node and an agent can tell, with its labels."""
    codes = [failure.code for failure in Failure]
    node = NodeMetrics(node_id="n", version="1", failure_codes=codes, actors=("proxy-door",), endpoint_series_max=1)
    node.request_finished(b"GET", 200, 0.1, 0.1, 1, 1)
    node.tls_not_after = lambda: {"proxy": 1.0}
    node.by_endpoint.loads = lambda: [("web", 1, 1)]
    agent = AgentMetrics(version="1", endpoints=["web"], failure_codes=codes)
    agent.request_finished(200, 0.1, 0.1, 1, 1)
    for metrics in (node, agent):
        metrics.actors.inboxes = lambda: [(Path, 1)]
    found: dict[str, set[str]] = {"up": set()}
    for metrics in (node, agent):
        for family in text_string_to_metric_families(metrics.render().decode()):
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


def rules(name: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / name).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> Iterator[tuple[str, str]]:
    for file in ("alerts.yml", "recording.yml"):
        for rule in rules(file):
            yield f"{file}: {rule.get('alert') or rule.get('record')}", rule["expr"]
    for path in DASHBOARDS:
        for panel in panels(json.loads(path.read_text())):
            for target in panel.get("targets", ()):
                yield f"{path.name}: {panel['title']}", target["expr"]


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", ())


def unknown(expression: str, known: dict[str, set[str]]) -> list[str]:
    return [
        f"{name}{sorted(labels - known.get(name, set()))}"
        for name, labels in selectors(expression.replace("$__rate_interval", "5m"))
        if name not in known or labels - known[name] - OF_PROMETHEUS
    ]


def test_every_series_and_label_that_is_asked_for_is_told() -> None:
    known = rendered()
    recorded = rules("recording.yml")
    for rule in recorded:
        known[rule["record"]] = set(rule["record"].split(":")[0].split("_"))
    asked = list(expressions())
    assert len(asked) > 30
    assert {where: found for where, expression in asked if (found := unknown(expression, known))} == {}


def test_what_nobody_tells_is_noticed() -> None:
    known = rendered()
    assert unknown("sum by (job) (rate(pico_wishes_total[5m]))", known)
    assert unknown('rate(pico_requests_total{colour="red"}[5m])', known)
    assert unknown("sum by (colour) (pico_upstreams)", known)
    assert not unknown('sum by (instance) (rate(pico_requests_total{code=~"5.."}[5m] offset 5m)) > 0 or up', known)


def test_a_label_that_an_expression_makes_is_not_asked_for() -> None:
    known = rendered()
    made = 'sum by (reason) (label_replace(rate(pico_gossip_channels_total[5m]), "reason", "$1", "result", "(.*)"))'
    assert not unknown(made, known)
    assert unknown(made.replace('"reason", "$1"', '"other", "$1"'), known)


def test_the_channels_that_an_alert_passes_over_are_told_by_these_names() -> None:
    (rule,) = (rule for rule in rules("alerts.yml") if rule["alert"] == "PicoGossipRefused")
    passed_over = set(re.search(r'result!~"([^"]+)"', rule["expr"])[1].split("|"))  # type: ignore[index]
    assert passed_over < set(CHANNELS)
    assert {"cluster", "unsealed", "unknown_key", "same_name"} <= set(CHANNELS) - passed_over


def kebab(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()


@pytest.mark.parametrize("rule", rules("alerts.yml"), ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_wrong_and_where_to_read_on(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert anchor == kebab(rule["alert"])
    headings = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor in [re.sub(r"[^\w-]+", "-", heading.lower()) for heading in headings]
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"].endswith(".")


def test_each_alert_has_a_test_that_sees_it_fire() -> None:
    tests = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]
    fired = {
        re.search(r'alertname="(\w+)"', case["expr"])[1]  # type: ignore[index]
        for test in tests
        for case in test["promql_expr_test"]
        if case["exp_samples"]
    }
    assert fired == {rule["alert"] for rule in rules("alerts.yml")}


def run_promtool(*words: str) -> None:
    done = subprocess.run(["promtool", *words], cwd=PROMETHEUS, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@promtool
def test_promtool_takes_the_configuration_and_the_rules() -> None:
    run_promtool("check", "config", "prometheus.yml")
    run_promtool("check", "rules", "alerts.yml", "recording.yml")


@promtool
def test_alerts_fire_when_they_should_and_only_then() -> None:
    run_promtool("test", "rules", "alerts_test.yml")


def test_the_scrape_jobs_are_those_that_alerts_ask_for() -> None:
    jobs = {job["job_name"] for job in yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]}
    asked = {job for _, text in expressions() for job in re.findall(r'job="([^"]+)"', text)}
    assert asked == jobs == {"pico-node", "pico-agent"}


def test_what_compose_runs_is_what_prometheus_scrapes() -> None:
    services = yaml.safe_load((ROOT / "deploy" / "docker-compose.yml").read_text())["services"]
    jobs = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    hosts = [target.split(":")[0] for job in jobs for static in job["static_configs"] for target in static["targets"]]
    assert set(hosts) <= set(services)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_can_be_provisioned(path: Path) -> None:
    dashboard = json.loads(path.read_text())
    assert dashboard["uid"] == path.stem
    assert "id" not in dashboard
    found = list(panels(dashboard))
    assert len({panel["id"] for panel in found}) == len(found)
    for panel in found:
        assert panel["title"]
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": "prometheus"}
            assert panel["description"].endswith(".")
    boxes = [panel["gridPos"] for panel in found]
    for index, box in enumerate(boxes):
        assert box["x"] + box["w"] <= 24
        for other in boxes[:index]:
            apart_x = box["x"] >= other["x"] + other["w"] or other["x"] >= box["x"] + box["w"]
            apart_y = box["y"] >= other["y"] + other["h"] or other["y"] >= box["y"] + box["h"]
            assert apart_x or apart_y
