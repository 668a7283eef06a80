"""Write Grafana's dashboards/*.json from boards/.

    python docker/grafana/dashboards.py [FOLDER]

Tests compare the committed files with this script's output and run every query on Prometheus.
"""

import json
import sys
from pathlib import Path

from boards import drift, gpu, model, service
from grafana_foundation_sdk.builders import common, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as styles
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from panels import WINDOWS, Board, Panel

FOLDER = Path(__file__).parent / "dashboards"
BOARDS = [service.BOARD, model.BOARD, drift.BOARD, gpu.BOARD]
SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
_KINDS = {
    "lines": timeseries.Panel,
    "stacked": timeseries.Panel,
    "stat": stat.Panel,
    "table": table.Panel,
    "heatmap": heatmap.Panel,
}
_VARIABLES = {
    "job": ("tidegate_build_info", "job"),
    "instance": ('tidegate_build_info{job="$job"}', "instance"),
    "model": ('tidegate_model_info{job="$job"}', "model"),
    "version": ('tidegate_model_info{job="$job",model="$model"}', "version"),
}
_Variable = build.DatasourceVariable | build.QueryVariable | build.CustomVariable


def dashboard(board: Board) -> str:
    """Return the JSON of one dashboard."""
    made = (
        build.Dashboard(board.title)
        .uid(board.uid)
        .description(board.about)
        .tags(["tidegate"])
        .refresh("30s")
        .time("now-6h", "now")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .link(
            build.DashboardLink("Tidegate")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags(["tidegate"])
            .as_dropdown(True)
            .include_vars(True)
            .keep_time(True)
        )
        .annotation(_alerts())
        .variables([_variable(name) for name in ("datasource", "job", *board.variables)])
    )
    for row in board.rows:
        made = made.with_row(build.Row(row.title))
        for panel in row.panels:
            made = made.with_panel(_panel(panel))
    # Links and annotations refer to a panel by its id.
    whole = made.build()
    for number, one in enumerate(whole.panels or [], 1):
        one.id_val = number
    return json.dumps(whole, cls=JSONEncoder, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _alerts() -> build.AnnotationQuery:
    firing = 'ALERTS{job="$job",alertname=~"Tidegate.*",alertstate="firing"}'
    return (
        build.AnnotationQuery()
        .name("Alerts")
        .datasource(SOURCE)
        .enable(True)
        .icon_color("red")
        .expr(firing)
    )


def _variable(name: str) -> _Variable:
    if name == "datasource":
        return build.DatasourceVariable(name).label("Prometheus").type("prometheus")
    if name == "window":
        chosen = models.VariableOption(selected=True, text="1h", value="1h")
        return build.CustomVariable(name).values(",".join(WINDOWS)).current(chosen)
    metric, label = _VARIABLES[name]
    made = (
        build.QueryVariable(name)
        .datasource(SOURCE)
        .query(f"label_values({metric}, {label})")
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )
    if name not in ("instance", "version"):
        return made
    every = models.VariableOption(selected=True, text=["All"], value=["$__all"])
    return made.multi(True).include_all(True).all_value(".*").current(every)


def _panel(panel: Panel) -> timeseries.Panel | stat.Panel | table.Panel | heatmap.Panel:
    made = (
        _KINDS[panel.kind]()
        .title(panel.title)
        .description(panel.about)
        .datasource(SOURCE)
        .unit(panel.unit)
        .height(4 if panel.kind in ("stat", "table") else 8)
        .span(panel.width)
        .targets([_target(panel, place) for place in range(len(panel.queries))])
    )
    if panel.limit is not None:
        made = made.thresholds(_limit(panel.limit))
    if isinstance(made, timeseries.Panel):
        made = _drawn(made, panel)
    return made


def _target(panel: Panel, place: int) -> prometheus.Dataquery:
    query = panel.queries[place]
    target = prometheus.Dataquery().expr(query.expr).ref_id("ABCDEFGH"[place])
    if panel.kind == "table":
        return target.format(PromQueryFormat.TABLE).instant()
    if panel.kind == "heatmap":
        target = target.format(PromQueryFormat.HEATMAP)
    if query.exemplars:
        target = target.exemplar(True)
    return target.range().legend_format(query.legend or "__auto")


def _limit(value: float) -> build.ThresholdsConfig:
    steps = [
        models.Threshold(value=None, color="green"),
        models.Threshold(value=value, color="red"),
    ]
    return build.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)


def _drawn(made: timeseries.Panel, panel: Panel) -> timeseries.Panel:
    legend = common.VizLegendOptions().show_legend(True)
    legend = legend.placement(styles.LegendPlacement.BOTTOM).display_mode(
        styles.LegendDisplayMode.LIST
    )
    made = made.legend(legend).tooltip(
        common.VizTooltipOptions().mode(styles.TooltipDisplayMode.MULTI)
    )
    if panel.kind == "stacked":
        stacking = common.StackingConfig().mode(styles.StackingMode.NORMAL)
        made = made.stacking(stacking).fill_opacity(25)
    if panel.limit is not None:
        dashed = common.GraphThresholdsStyleConfig().mode(styles.GraphThresholdsStyleMode.DASHED)
        made = made.thresholds_style(dashed)
    return made


def main(folder: Path) -> None:
    """Write every dashboard."""
    folder.mkdir(exist_ok=True)
    for board in BOARDS:
        path = folder / f"{board.uid.removeprefix('tidegate-')}.json"
        path.write_text(dashboard(board), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
