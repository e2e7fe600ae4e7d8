"""Links to the evidence page, to one host and to the runbook; marks of starts and of loaded rules."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard as models

RUNBOOK = "docs/runbook.md"
"""The role replaces it by `monitoring_runbook`."""
PAGE = "http://${node}:8321/"
"""The evidence page of a host; the role replaces it by `monitoring_page`."""
_AT_THIS_TIME = "since_us=${__from}000&until_us=${__to}000"
"""The time range, which Grafana has in milliseconds, as the page has it in its address."""

Links = list[Builder[models.DashboardLink]]

_FILTERS = {"rule": "rule", "address": "network"}
"""Labels that the page can search for, and its parameters for them."""


def dashboard_links() -> Links:
    """Return the links at the top of a dashboard."""
    return [
        dashboard.DashboardLink("Sensor")
        .type(models.DashboardLinkType.DASHBOARDS)
        .tags(["sensor"])
        .include_vars(True)
        .keep_time(True),
        evidence_link(),
        _link("Runbook", RUNBOOK, "What to do about each alert"),
    ]


def evidence_link() -> dashboard.DashboardLink:
    """Return a link to the evidence of a host in the time range."""
    return _link(
        "Evidence page of ${node}", f"{PAGE}?{_AT_THIS_TIME}", "The evidence page, for this time range"
    )


def host_links(instance: str) -> Links:
    """Return the links to the dashboards of one host; ``instance`` is Grafana's variable for its name."""
    variables = f"var-datasource=${{datasource}}&var-host={instance}&${{__url_time_range}}"
    names = {"Loss and throughput": "sensor-throughput", "Evidence": "sensor-evidence"}
    return [
        dashboard.DashboardLink(f"Dashboard {name}, only {instance}").url(f"/d/{uid}?{variables}")
        for name, uid in names.items()
    ]


def column_links() -> dict[str, Links]:
    """Return the links of a table's cells, by column."""
    value = "${__value.text}"
    found: dict[str, Links] = {
        label: [_link(f"Evidence page: {label} {value}", f"{PAGE}?{parameter}={value}&{_AT_THIS_TIME}")]
        for label, parameter in _FILTERS.items()
    }
    return {"instance": host_links(value), **found}


def marks(source: models.DataSourceRef, condition: str) -> list[Builder[models.AnnotationQuery]]:
    """Return the marks on every panel: when a sensor was started, and when its rules were loaded."""
    return [
        _Mark("Start", "orange", f"sensor_start_timestamp_seconds{{{condition}}}", source),
        _Mark("Rules loaded", "blue", f"sensor_rules_last_load_timestamp_seconds{{{condition}}}", source),
    ]


def _link(title: str, url: str, tooltip: str = "") -> dashboard.DashboardLink:
    return dashboard.DashboardLink(title).url(url).tooltip(tooltip).target_blank(True)


class _Mark(dashboard.AnnotationQuery):
    """Marks at the times that are the values of a metric, and not when they were scraped."""

    def __init__(self, name: str, color: str, metric: str, source: models.DataSourceRef) -> None:
        super().__init__()
        self._internal = _AtItsValue(
            name=name, datasource=source, enable=True, icon_color=color, expr=f"{metric} * 1000"
        )


class _AtItsValue(models.AnnotationQuery):
    """An annotation with the fields of Prometheus' data source, which the library does not know."""

    def to_json(self) -> dict[str, object]:
        return super().to_json() | {
            "useValueForTime": True,
            "titleFormat": f"{self.name}: {{{{instance}}}}",
        }
