"""The parts that the dashboards share: variables, queries, and panels with a description and a unit."""

from __future__ import annotations

from typing import Protocol, TypeVar

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    GraphTresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    Threshold,
    ThresholdsMode,
    VariableHide,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from dashboards.links import Links, column_links, dashboard_links, evidence_link, host_links, marks

FRAMES_PER_SECOND, BITS_PER_SECOND, SHARE, SECONDS = "pps", "bps", "percentunit", "s"
FRAMES, BYTES, BYTES_PER_SECOND, MATCHES = "locale", "bytes", "binBps", "locale"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
HOST = 'instance=~"$host"'
INTERFACE = 'instance=~"$host",interface=~"$interface"'

Targets = dict[str, str]
"""PromQL expressions by the legend of their series, which may contain labels: ``{{cpu}}``."""

AnyPanel = Builder[models.Panel]
Steps = dict[float | None, str]
"""Colours by the lowest value they are for; None: from the bottom."""


class _Panel(Protocol):
    def title(self, title: str) -> object: ...
    def description(self, description: str) -> object: ...
    def unit(self, unit: str) -> object: ...
    def datasource(self, datasource: DataSourceRef) -> object: ...
    def with_target(self, target: prometheus.Dataquery) -> object: ...
    def thresholds(self, thresholds: dashboard.ThresholdsConfig) -> object: ...
    def span(self, w: int) -> object: ...
    def height(self, h: int) -> object: ...
    def links(self, links: Links) -> object: ...
    def data_links(self, links: Links) -> object: ...


Panel = TypeVar("Panel", bound=_Panel)


def by(labels: str, counter: str, conditions: str = HOST) -> str:
    """Return an expression for the rate of a counter, summed by labels."""
    return f"sum by ({labels}) (rate(sensor_{counter}_total{{{conditions}}}[$__rate_interval]))"


def empty_dashboard(
    title: str, uid: str, description: str, *, interfaces: bool = False
) -> dashboard.Dashboard:
    """Return a dashboard without panels, with variables for data source, host and, if asked, interface."""
    result = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["sensor"])
        .refresh("30s")
        .time("now-1h", "now")
        .timezone("browser")
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(_labels("host", "Host", "label_values(sensor_build_info, instance)"))
        .with_variable(_node())
        .links(dashboard_links())
        .annotations(marks(SOURCE, HOST))
    )
    if interfaces:
        query = 'label_values(sensor_interface_carrier{instance=~"$host"}, interface)'
        result = result.with_variable(_labels("interface", "Interface", query))
    return result


def _labels(name: str, label: str, query: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".+")
    )


def _node() -> dashboard.QueryVariable:
    """Return the hidden variable with the name of the host, or of the first one, without a port."""
    return (
        dashboard.QueryVariable("node")
        .datasource(SOURCE)
        .query('label_values(sensor_build_info{instance=~"$host"}, instance)')
        .regex(r"/^(.+):\d+$/")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .hide(VariableHide.HIDE_VARIABLE)
    )


def stats(
    title: str, description: str, unit: str, targets: Targets, *, steps: Steps, width: int = 24
) -> stat.Panel:
    """Return a panel with one large number per series."""
    panel = (
        stat.Panel()
        .color_mode(BigValueColorMode.BACKGROUND)
        .graph_mode(BigValueGraphMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .orientation(VizOrientation.VERTICAL)
        .thresholds(thresholds(steps))
    )
    return _filled(panel, title, description, unit, targets, instant=True, width=width, height=4)


def bars(title: str, description: str, unit: str, targets: Targets, *, width: int = 12) -> bargauge.Panel:
    """Return a panel with one bar per series, showing current values."""
    panel = (
        bargauge.Panel()
        .orientation(VizOrientation.HORIZONTAL)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(thresholds({None: "blue"}))
        .min(0)
    )
    return _filled(panel, title, description, unit, targets, instant=True, width=width, height=11)


def lines(
    title: str,
    description: str,
    unit: str,
    targets: Targets,
    *,
    stacked: bool = False,
    limit: float | None = None,
    width: int = 12,
) -> timeseries.Panel:
    """Return a panel with lines over time; the area above ``limit`` is red."""
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.TABLE).placement(LegendPlacement.BOTTOM)
    tooltip = common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING)
    panel = (
        timeseries.Panel()
        .legend(legend.show_legend(True).calcs(["lastNotNull", "max"]))
        .tooltip(tooltip)
        .min(0)
    )
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL)).fill_opacity(30)
    if limit is not None:
        area = common.GraphThresholdsStyleConfig().mode(GraphTresholdsStyleMode.AREA)
        panel = panel.thresholds_style(area).thresholds(thresholds({None: "transparent", limit: "red"}))
    return _filled(panel, title, description, unit, targets, instant=False, width=width, height=9)


def rows(title: str, description: str, unit: str, targets: Targets, *, width: int = 24) -> table.Panel:
    """Return a table with a row per set of labels and a column per target, sorted by the first target."""
    names = [chr(ord("A") + number) for number in range(len(targets))]
    renamed = {f"Value #{name}": legend for name, legend in zip(names, targets, strict=True)}
    if len(targets) == 1:
        renamed = {"Value": next(iter(targets))}
    hidden = {"Time": True, "job": True, "__name__": True}
    panel = (
        table.Panel()
        .with_transformation(DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(
            DataTransformerConfig(
                id_val="organize", options={"excludeByName": hidden, "renameByName": renamed}
            )
        )
        .sort_by([common.TableSortByFieldState().display_name(next(iter(targets))).desc(True)])
    )
    for column, links in column_links().items():
        built = [link.build() for link in links]
        panel.override_by_name(column, [DynamicConfigValue(id_val="links", value=built)])
    return _filled(panel, title, description, unit, targets, instant=True, width=width, height=10)


def thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    """Return Grafana's thresholds for these steps."""
    found = [Threshold(value=value, color=color) for value, color in steps.items()]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(found)


def _filled(
    panel: Panel,
    title: str,
    description: str,
    unit: str,
    targets: Targets,
    *,
    instant: bool,
    width: int,
    height: int,
) -> Panel:
    panel.title(title)
    panel.description(description)
    panel.unit(unit)
    panel.datasource(SOURCE)
    panel.span(width)
    panel.height(height)
    panel.links([evidence_link()])
    if any("{{instance}}" in legend for legend in targets):
        panel.data_links(host_links("${__field.labels.instance}"))
    for number, (legend, expression) in enumerate(targets.items()):
        query = prometheus.Dataquery().datasource(SOURCE).expr(expression).legend_format(legend)
        query = query.ref_id(chr(ord("A") + number))
        query = query.instant() if instant else query.range()
        panel.with_target(query.format(PromQueryFormat.TABLE) if isinstance(panel, table.Panel) else query)
    return panel
