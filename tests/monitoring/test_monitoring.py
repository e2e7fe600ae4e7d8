"""The files for Prometheus and Grafana are valid, up to date and documented."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards.__main__ import DASHBOARDS, FILES, write
from sensor.metrics.catalogue import METRICS, as_table

ROOT = Path(__file__).parents[2]
SHIPPED = FILES.parent
RULES = {path.stem: yaml.safe_load(path.read_text()) for path in (SHIPPED / "rules").glob("*.yml")}
ALERTS = [rule for group in RULES["sensor-alerts"]["groups"] for rule in group["rules"]]


def panels(name: str) -> list[dict[str, Any]]:
    """Return the panels of a dashboard file."""
    return list(json.loads((FILES / f"{name}.json").read_text())["panels"])


def test_the_page_lists_every_metric() -> None:
    """The table in docs/metrics.md is the one that the catalogue generates."""
    assert as_table() in (ROOT / "docs" / "metrics.md").read_text()


def test_the_dashboards_are_current(tmp_path: Path) -> None:
    """The dashboard files are the ones that the generator makes."""
    write(tmp_path)
    for name in DASHBOARDS:
        assert (tmp_path / f"{name}.json").read_text() == (FILES / f"{name}.json").read_text(), (
            "make dashboards"
        )


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_panel_explains_itself(name: str) -> None:
    """Each has a unique title, a description, a unit, and the selected data source."""
    titles = [panel["title"] for panel in panels(name)]
    assert len(set(titles)) == len(titles)
    for panel in panels(name):
        assert len(panel["description"]) > 10
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])


def test_the_first_panel_is_the_law() -> None:
    """The first question is whether every frame is accounted for."""
    assert panels("throughput")[0]["title"] == "The law of the counters"


def test_every_metric_in_an_expression_exists() -> None:
    """Rules and panels use only names of the sensor's metrics and of recording rules."""
    suffixes = {"histogram": ("_bucket", "_count", "_sum")}
    known = {
        metric.written_name + suffix for metric in METRICS for suffix in suffixes.get(metric.kind, ("",))
    }
    rules = [rule for one in RULES.values() for group in one["groups"] for rule in group["rules"]]
    known |= {rule["record"] for rule in rules if "record" in rule}
    asked = [rule["expr"] for rule in rules]
    asked += [target["expr"] for name in DASHBOARDS for panel in panels(name) for target in panel["targets"]]
    asked += [
        mark["expr"]
        for name in DASHBOARDS
        for mark in json.loads((FILES / f"{name}.json").read_text())["annotations"]["list"]
    ]
    names = {name for text in asked for name in re.findall(r"(?:[\w]+:)?sensor_\w+(?::\w+)?", text)}
    assert names - known == set()


@pytest.mark.parametrize("name", DASHBOARDS)
def test_links_and_marks(name: str) -> None:
    """Panels lead to the evidence of their time range, series to their host; restarts are marked."""
    content = json.loads((FILES / f"{name}.json").read_text())
    text = json.dumps(content)
    addresses = set(re.findall(r"/\?([^\"]*)since_us=\$\{__from\}000&until_us=\$\{__to\}000", text))
    assert addresses <= {"", "rule=${__value.text}&", "network=${__value.text}&"}
    page = (ROOT / "sensor/api/pages/view.js").read_text()
    assert {"since_us", "until_us", "rule", "network"} <= set(re.findall(r'"(\w+)"', page))
    for panel in content["panels"]:
        assert panel["links"][0]["url"].startswith("http://${node}:8321/?since_us=${__from}000")
        series = any("{{instance}}" in target.get("legendFormat", "") for target in panel["targets"])
        hosts = json.dumps(panel["fieldConfig"])
        assert ("var-host=${__field.labels.instance}" in hosts) == series, panel["title"]
    uids = {json.loads((FILES / f"{other}.json").read_text())["uid"] for other in DASHBOARDS}
    assert set(re.findall(r"/d/([\w-]+)", text)) <= uids
    assert {"http://${node}:8321/", "docs/runbook.md"} <= set(
        re.findall(r"replace\('([^']+)'", (SHIPPED.parent / "tasks" / "grafana.yml").read_text())
    )
    assert [one["expr"] for one in content["annotations"]["list"]] == [
        f'sensor_{metric}_timestamp_seconds{{instance=~"$host"}} * 1000'
        for metric in ("start", "rules_last_load")
    ]


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_every_alert_says_what_to_do(alert: dict[str, Any]) -> None:
    """Each has a severity, a summary, a description, and a section in the runbook."""
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert alert["annotations"]["summary"]
    assert alert["annotations"]["description"]
    path, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    sections = re.findall(r"^## (\w+)$", (ROOT / path).read_text(), re.MULTILINE)
    assert anchor == alert["alert"].lower()
    assert alert["alert"] in sections


def test_promtool_accepts_the_files() -> None:
    """Promtool finds no fault in configuration and rules."""
    for command in (
        ["check", "config", "--lint=all", "--lint-fatal", str(SHIPPED / "prometheus.yml")],
        ["check", "rules", "--lint=all", "--lint-fatal", *map(str, (SHIPPED / "rules").glob("*.yml"))],
    ):
        done = subprocess.run(["promtool", *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_fires_in_its_case_only() -> None:
    """Each alert has a case, and fires in no other; those that last have theirs in ``lasting_alerts.yml``."""
    cases = [Path(__file__).with_name(f"{name}.yml") for name in ("alerts", "lasting_alerts")]
    done = subprocess.run(["promtool", "test", "rules", *map(str, cases)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    asked = "".join(path.read_text() for path in cases)
    assert [alert["alert"] for alert in ALERTS if not re.search(rf"\b{alert['alert']}\b", asked)] == []


def test_the_command_for_the_table_works() -> None:
    """The command named in docs/metrics.md prints the table."""
    command = [sys.executable, "-m", "sensor.metrics.catalogue"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == as_table()
