"""From a dashboard to the classes of wandb-workspaces, which make it at Weights & Biases.

The package is an extra and is imported here alone, where it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from records.dashboard import GROUP, TASK, Dashboard, Panel, Section
from records.errors import UserError
from records.wandb_names import CONFUSION, PRECISION_RECALL, Chart

COLUMNS = 3
WIDTH, HEIGHT = 8, 6
"""Of a panel in a report, whose grid is 24 wide."""

_CHARTS = {chart.name: chart for chart in (CONFUSION, PRECISION_RECALL)}


def check_installed() -> None:
    """Make sure that wandb-workspaces is there.

    Raises:
        UserError: it is not.
    """
    try:
        import wandb_workspaces.workspaces  # noqa: F401
    except ImportError as error:
        raise UserError(
            "mode=dashboard makes W&B's panels with the package wandb-workspaces: install the extra, "
            "pip install -e '.[dashboard]'; offline=true writes what would be made without it"
        ) from error


def own_entity() -> str:
    """Ask W&B for the entity of the account that is logged in."""
    import wandb

    return str(wandb.Api().default_entity)


def workspace_of(dashboard: Dashboard) -> Any:
    """Return the `Workspace`; its `save()` makes it."""
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces import expr

    groups = [expr.Metric(GROUP) if one == GROUP else expr.Config(one) for one in dashboard.group_by]
    return ws.Workspace(
        entity=dashboard.entity,
        project=dashboard.project,
        name=dashboard.name,
        sections=[
            ws.Section(
                name=section.name,
                panels=[panel_of(panel) for panel in section.panels],
                is_open=True,
                layout_settings=ws.SectionLayoutSettings(columns=COLUMNS, rows=-(-len(section.panels) // COLUMNS)),
            )
            for section in dashboard.sections
        ],
        runset_settings=ws.RunsetSettings(
            groupby=groups, pinned_columns=[f"summary:{name}" for name in dashboard.columns]
        ),
    )


def report_of(dashboard: Dashboard) -> Any:
    """Return the `Report`; its `save()` makes it. A section shows the runs of its own tasks."""
    import wandb_workspaces.reports.v2 as wr

    blocks: list[Any] = [wr.TableOfContents()]
    for section in dashboard.sections:
        blocks += [
            wr.H2(section.name),
            wr.PanelGrid(runsets=[_runset(dashboard, section)], panels=_placed(section.panels)),
        ]
    return wr.Report(
        entity=dashboard.entity, project=dashboard.project, title=dashboard.name, blocks=blocks, width="fluid"
    )


def _runset(dashboard: Dashboard, section: Section) -> Any:
    import wandb_workspaces.reports.v2 as wr
    from wandb_workspaces import expr

    # A filter is stored as it is given, and W&B keeps a nested setting below `value`.
    first, rest = TASK.split(".")
    of_tasks = expr.And(expr.Config(f"{first}.value.{rest}").isin(list(section.tasks))) if section.tasks else ""
    return wr.Runset(
        entity=dashboard.entity,
        project=dashboard.project,
        name=section.name,
        filters=of_tasks,
        groupby=[one if one == GROUP else f"config.{one}" for one in dashboard.group_by],
    )


def _placed(panels: Sequence[Panel]) -> list[Any]:
    """Return the panels of a report, from left to right and from top to bottom."""
    import wandb_workspaces.reports.v2 as wr

    placed = []
    for number, panel in enumerate(panels):
        row, column = divmod(number, COLUMNS)
        made = panel_of(panel)
        made.layout = wr.Layout(x=column * WIDTH, y=row * HEIGHT, w=WIDTH, h=HEIGHT)
        placed.append(made)
    return placed


def panel_of(panel: Panel) -> Any:
    """Return the panel as W&B knows it."""
    return _MADE[panel.kind](panel)


def _lines(panel: Panel) -> Any:
    import wandb_workspaces.reports.v2 as wr

    return wr.LinePlot(title=panel.title, x=panel.over, y=list(panel.names), title_x="Optimizer step")


def _bars(panel: Panel) -> Any:
    import wandb_workspaces.reports.v2 as wr

    return wr.BarPlot(title=panel.title, metrics=list(panel.names))


def _points(panel: Panel) -> Any:
    import wandb_workspaces.reports.v2 as wr

    (name,) = panel.names
    return wr.ScatterPlot(title=panel.title, x=wr.Config(panel.over), y=wr.SummaryMetric(name))


def _chart(panel: Panel) -> Any:
    import wandb_workspaces.reports.v2 as wr

    chart: Chart = _CHARTS[panel.names[0]]
    return wr.CustomChart(
        query={"summaryTable": {"tableKey": chart.table}},
        chart_name=chart.kind,
        chart_fields=dict(chart.fields),
        chart_strings={"title": chart.title},
    )


def _pictures(panel: Panel) -> Any:
    import wandb_workspaces.reports.v2 as wr

    return wr.MediaBrowser(title=panel.title, media_keys=list(panel.names), num_columns=1)


def _table(panel: Panel) -> Any:
    import wandb_workspaces.reports.v2 as wr

    return wr.WeavePanelSummaryTable(table_name=panel.names[0])


def _settings(panel: Panel) -> Any:
    import wandb_workspaces.reports.v2 as wr

    return wr.RunComparer(diff_only="split")


_MADE: dict[str, Callable[[Panel], Any]] = {
    "lines": _lines,
    "bars": _bars,
    "points": _points,
    "chart": _chart,
    "pictures": _pictures,
    "table": _table,
    "settings": _settings,
}
