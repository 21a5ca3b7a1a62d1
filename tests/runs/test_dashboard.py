"""mode=dashboard: what it would make at W&B, without a network; and W&B's own classes, where they are installed."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from callbacks import wandb_account
from launch.compose import compose_config
from launch.groups import CONF, choice_names
from modes import dashboard, wandb_panels
from records.console import be_quiet
from records.dashboard import PILLARS, Dashboard, as_outline
from records.errors import UserError


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "netrc").write_text("")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    def connect(*arguments, **named):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(wandb_account.socket, "create_connection", connect)


def configured(folder, *overrides):
    return compose_config(["mode=dashboard", f"paths.run_dir='{folder}'", *overrides])


def planned(*pillars: str) -> Dashboard:
    settings = {"project": "p", "entity": "team", "title": "All", "pillars": list(pillars or PILLARS)}
    return dashboard.planned(settings)


def test_without_an_account_it_is_written_down(tmp_path, capsys):
    assert dashboard.run(configured(tmp_path, "project=mine", "entity=team"), []) == 0
    said = capsys.readouterr().out
    outline = (tmp_path / "dashboard.md").read_text()
    assert said.startswith(outline)
    assert "nothing was made at W&B: there is no API key for api.wandb.ai" in said
    assert "Project `team/mine`" in outline
    assert "grouped by task and then by sweep" in outline
    content = json.loads((tmp_path / "dashboard.json").read_text())
    assert [section["name"] for section in content["sections"]] == ["Training", "Hashing", "Long tail", "Few-shot"]
    assert content["group_by"] == ["task.name", "Group"]


def test_quiet_mode_says_only_where_it_is(tmp_path, capsys):
    be_quiet(True)
    assert dashboard.run(configured(tmp_path), []) == 0
    be_quiet(False)
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_every_pillar_shows_what_it_is_judged_by():
    wanted = {
        "hashing": "val/map@all test/map@5000 test/precision@10 test/precision_recall test/gallery_table "
        "test/bit_balance test/bit_correlation",
        "longtail": "test/many test/medium test/few test/gm test/hm test/lowest_recall test/classes "
        "test/confusion_matrix",
        "fewshot": "test/accuracy test/seen test/unseen test/harmonic test/confusion_matrix",
    }
    for pillar, names in wanted.items():
        training, section = planned(pillar).sections
        assert training.tasks == ()
        shown = {name for panel in section.panels for name in panel.names}
        assert set(names.split()) <= shown
    (shots,) = [panel for panel in planned("fewshot").sections[1].panels if panel.kind == "points"]
    assert (shots.over, shots.names) == ("data.shots", ("test/accuracy",))


def test_every_task_has_its_pillar():
    found = dashboard.tasks_by_pillar()
    assert sorted(name for names in found.values() for name in names) == sorted(choice_names("task"))
    assert {"greedyhash", "ride_routed", "lpp"} <= {*found["hashing"], *found["longtail"], *found["fewshot"]}
    assert "ride_routed" in found["longtail"]


def test_the_cuts_are_those_of_the_data():
    cuts = dashboard.map_cuts()
    assert cuts[0] == "all"
    assert {"20", "1000", "5000"} <= set(cuts)
    assert [int(cut) for cut in cuts[1:]] == sorted(int(cut) for cut in cuts[1:])


def test_the_project_is_the_one_that_runs_are_logged_to(tmp_path):
    logger = yaml.safe_load((CONF / "logger" / "wandb.yaml").read_text())["wandb"]
    assert configured(tmp_path).project == logger["project"]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("kind=page", "kind=page; choices: workspace, report"),
        ("pillars=[hashing,tail]", "choices, one or more of them: hashing, longtail, fewshot"),
        ("pillars=[]", r"pillars=\[\]"),
        ("offline=perhaps", "choices: true, false, auto"),
    ],
)
def test_what_is_no_choice_is_refused(override, said, tmp_path):
    with pytest.raises(UserError, match=said):
        dashboard.run(configured(tmp_path, override), [])


def test_without_the_extra_the_command_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[dashboard\]'"):
        dashboard.run(configured(tmp_path, "offline=false"), [])


@pytest.mark.parametrize("kind", ["workspace", "report"])
def test_with_an_account_it_is_made_there(kind, tmp_path, monkeypatch, capsys):
    made = []

    def build(plan):
        made.append(plan)
        return SimpleNamespace(save=lambda: None, url="https://wandb.invalid/x")

    monkeypatch.setattr(wandb_panels, "check_installed", lambda: None)
    monkeypatch.setattr(wandb_panels, "own_entity", lambda: "me")
    monkeypatch.setattr(wandb_panels, f"{kind}_of", build)
    assert dashboard.run(configured(tmp_path, f"kind={kind}", "offline=false"), []) == 0
    assert made[0].entity == "me"
    assert f"{kind}: https://wandb.invalid/x" in capsys.readouterr().out


def test_what_wandb_refuses_is_an_error_and_the_outline_stays(tmp_path, monkeypatch, capsys):
    def refuse(plan):
        raise ConnectionError("no such project")

    monkeypatch.setattr(wandb_panels, "check_installed", lambda: None)
    monkeypatch.setattr(wandb_panels, "workspace_of", refuse)
    assert dashboard.run(configured(tmp_path, "entity=team", "offline=false"), []) == 1
    assert "did not take the dashboard (ConnectionError: no such project)" in capsys.readouterr().err
    assert (tmp_path / "dashboard.md").is_file()


def test_the_outline_names_every_panel():
    plan = planned()
    text = as_outline(plan)
    for section in plan.sections:
        assert f"## {section.name}" in text
        for panel in section.panels:
            assert f"- **{panel.title}**" in text
            assert all(f"`{name}`" in text for name in panel.names)


def test_the_workspace_is_one_that_wandb_takes():
    pytest.importorskip("wandb_workspaces")
    plan = planned()
    made = wandb_panels.workspace_of(plan)._to_model().model_dump(by_alias=True, exclude_none=True)
    sections = made["spec"]["section"]["panelBankConfig"]["sections"]
    assert [one["name"] for one in sections] == [section.name for section in plan.sections]
    assert [len(one["panels"]) for one in sections] == [len(section.panels) for section in plan.sections]
    (runs,) = made["spec"]["section"]["runSets"]
    assert runs["grouping"] == [
        {"section": "config", "name": "task.value.name"},
        {"section": "run", "name": "group"},
    ]
    assert "summary:test/map@all" in runs["runFeed"]["columnOrder"]
    kinds = {panel["viewType"] for one in sections for panel in one["panels"]}
    assert kinds == {
        "Run History Line Plot", "Bar Chart", "Scatter Plot", "Media Browser", "Weave", "Vega2", "Run Comparer",
    }  # fmt: skip


def test_a_chart_reads_the_table_that_is_logged_with_it():
    pytest.importorskip("wandb_workspaces")
    import wandb

    from callbacks.wandb_tables import confusion_content
    from records.wandb_names import CONFUSION

    (panel,) = [one for one in planned("longtail").sections[1].panels if one.kind == "chart"]
    made = wandb_panels.panel_of(panel)._to_model().model_dump(by_alias=True, exclude_none=True)["config"]
    logged = confusion_content(np.eye(2, dtype=int), ["a", "b"])
    logged.set_key(CONFUSION.name)
    assert isinstance(logged.table, wandb.Table)
    spec = logged.spec.config_value["panel_config"]
    assert (made["panelDefId"], made["fieldSettings"]) == (spec["panelDefId"], spec["fieldSettings"])
    (query,) = made["userQuery"]["queryFields"]
    (table,) = [field for field in query["fields"] if field["name"] == "summaryTable"]
    assert table["args"][0]["value"] == logged.spec.table_key


def test_a_report_shows_each_pillar_the_runs_of_its_tasks():
    pytest.importorskip("wandb_workspaces")
    import wandb_workspaces.reports.v2 as wr

    plan = planned()
    report = wandb_panels.report_of(plan)
    grids = [block for block in report.blocks if isinstance(block, wr.PanelGrid)]
    assert len(grids) == len(plan.sections)
    assert grids[0].runsets[0].filters == ""
    assert grids[1].runsets[0].filters.startswith('Config("task.value.name") in [')
    assert "greedyhash" in grids[1].runsets[0].filters
    assert "greedyhash" not in grids[2].runsets[0].filters
    assert grids[1].runsets[0].groupby == ["config.task.name", "Group"]
    places = [(panel.layout.x, panel.layout.y) for panel in grids[1].panels]
    assert len(set(places)) == len(places)
    assert max(x for x, _ in places) + wandb_panels.WIDTH <= 24
