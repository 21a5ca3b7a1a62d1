"""Every code block of README.md and docs/ is run, or says why not; every command of them is one that the door takes."""

import copy
import functools
import itertools
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml
from code_blocks import CHINESE, HOUSE, PAGES, README, blocks_of, runs_of, without_blocks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import OmegaConf

from launch import check, compose, plugins, stored
from launch.command_line import parse_overrides, read_command_line
from launch.groups import CONF, choice_names, group_names
from launch.help import help_page
from launch.problems import as_text
from launch.sweep_plan import resumed_line
from records.run_directory import open_run

GROUPS = group_names()
is_installed = plugins._is_installed

MARKS = ("", "not run", "ci", "file", "refused")
LANGUAGES = ("bash", "python", "yaml", "text")

# what stands for runs, folders and files of the reader's, by the names that the pages give them
RUNS = {
    "DIR": "task=greedyhash",
    "RUN": "task=ce",
    "outputs/RUN": "task=greedyhash",
    "outputs/photos": "task=greedyhash data=folder data.root=photos",
    "outputs/ibiohash": "experiment=ibiohash/beit2",
    "outputs/ibiohash-seed1": "experiment=ibiohash/beit2",
    "outputs/ce": "task=ce",
    "outputs/ce/0": "task=ce",
    "outputs/gml": "task=gml",
    "outputs/sade": "task=sade",
    "outputs/first": "task=greedyhash",
    "outputs/start": "task=classify",
    # what mode=report writes for a place, on result pages the run that others start from
    "PLACE": "task=classify",
    "PLACE/0": "task=classify",
}
STAND_INS = {"task=NAME": "task=dpsh", "experiment=hashing/NAME": "experiment=hashing/dch_coco_alexnet"}
FOLDERS = ("FOLDER", "photos", "birds", "nuswide")
FILES = ("photo.jpg", "resnet32.pth", "FEATURES.npz")


def name_of(page):
    return page.relative_to(HOUSE).as_posix()


pages = pytest.mark.parametrize("page", PAGES, ids=name_of)


@functools.cache
def groups_composed(groups):
    return compose.compose_config(list(groups))


def composed(overrides):
    """Compose as `launch.compose` does; the same choices of groups, which take the time, are composed once."""
    parsed = [one for one in parse_overrides(tuple(overrides))[0] if not one.key_or_group.startswith("hydra.")]
    groups = tuple(one.input_line for one in parsed if one.key_or_group in GROUPS)
    config = copy.deepcopy(groups_composed(groups))
    ConfigLoaderImpl._apply_overrides_to_config([one for one in parsed if one.key_or_group not in GROUPS], config)
    return config


def data_folders():
    files = sorted((CONF / "data").glob("*.yaml"))
    roots = [yaml.safe_load(file.read_text(encoding="utf-8")).get("root") for file in files]
    return [root.replace("${paths.data_dir}", "data") for root in roots if root is not None]


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """Make the folder that a reader of the pages works in: runs, data sets, and files with the names they give."""
    folder = tmp_path_factory.mktemp("reader")
    for name in (*FOLDERS, *data_folders()):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (folder / name).touch()
    for name, overrides in RUNS.items():
        run = folder / name
        run.mkdir(parents=True, exist_ok=True)
        config = composed(overrides.split())
        config.paths.run_dir, config.paths.data_dir = str(run), "data"
        OmegaConf.save(OmegaConf.create(OmegaConf.to_container(config, resolve=True)), run / "config.yaml")
        (run / "result.json").touch()
    (folder / "DIR" / "sweep.json").write_text('{"overrides": ["seed=0,1"]}')
    return folder


@pytest.fixture
def at_the_readers(reader, monkeypatch):
    """Stand in the reader's folder, with open_clip installed."""
    monkeypatch.chdir(reader)
    monkeypatch.delenv("DATA_DIR", raising=False)
    monkeypatch.setattr(plugins, "_is_installed", lambda module: module == "open_clip" or is_installed(module))
    monkeypatch.setattr(check, "compose_config", composed)
    return reader


def problems_of(arguments):
    """Return what the door would refuse a command for, a missing extra apart, without starting anything."""
    line = read_command_line([STAND_INS.get(argument, argument) for argument in arguments])
    run = line.value_of("run")
    if line.problems or line.flags.help:
        return line.problems
    line = resumed_line(line)
    if run is not None and not line.multirun:
        return stored.stored_config(open_run(run), line.overrides)[1]
    problems = check.check_overrides(line.overrides)
    return [problem for problem in problems if not problem.mend.startswith("install the extra")]


@pages
def test_every_block_says_what_is_done_with_it(page):
    for block in blocks_of(page):
        assert block.language in LANGUAGES, f"{block.place}: name a language, one of {', '.join(LANGUAGES)}"
        assert block.kind in MARKS, f"{block.place}: {block.mark} is no mark, see code_blocks.py"
        assert bool(block.argument) == (block.kind in ("not run", "file")), f"{block.place}: {block.mark}"
        if block.language == "text":
            commands = re.findall(r"^(?:\$ )?(?:python|pip|pytest|wandb|git) .*", block.text, re.MULTILINE)
            assert commands == [], f"{block.place}: a command is bash, and text is none"
        if block.language == "yaml":
            assert block.kind in ("file", "not run"), f"{block.place}: say which file it is"
            assert yaml.safe_load(block.text), block.place
        if block.is_shell and block.kind == "":
            known = [words for words in block.commands if words[0] != "python"]
            assert known == [], f"{block.place}: this is run by no test; say why: <!-- not run: REASON -->"


@pages
def test_no_block_is_hidden_in_an_indentation(page):
    assert re.findall(r"(?<=\n\n) {4,}\S.*", without_blocks(page)) == []


@pages
def test_every_command_is_one_that_the_door_takes(page, at_the_readers):
    files = [block.argument for block in blocks_of(page) if block.kind == "file"]
    own = {"=".join(Path(file).with_suffix("").parts[1:]) for file in files if file.startswith("conf/")}
    refused = {
        f"{place}: python run.py {shlex.join(arguments)}": as_text(problems)
        for place, arguments in runs_of(page)
        # a choice that the page itself makes is composed when the page is run
        if not own.intersection(arguments) and (problems := problems_of(arguments))
    }
    assert refused == {}


@pages
def test_a_refused_command_prints_what_the_page_says(page, at_the_readers):
    blocks = blocks_of(page)
    for block, printed in itertools.pairwise(blocks):
        if block.kind != "refused":
            continue
        assert printed.language == "text", printed.place
        ((*start, arguments),) = [(*words[:2], words[2:]) for words in block.commands]
        assert start == ["python", "run.py"]
        assert as_text(problems_of(arguments)).strip() == printed.text.strip()


def test_the_two_readmes_have_the_same_commands():
    english, chinese = blocks_of(README), blocks_of(CHINESE)
    assert [(one.language, one.kind) for one in english] == [(one.language, one.kind) for one in chinese]
    assert [one.commands for one in english] == [one.commands for one in chinese]
    assert "README.zh-CN.md" in README.read_text(encoding="utf-8").splitlines()[2]
    assert "README.md" in CHINESE.read_text(encoding="utf-8").splitlines()[2]


def test_ci_runs_the_blocks_that_say_so():
    marked = [block for page in PAGES if page != CHINESE for block in blocks_of(page) if block.kind == "ci"]
    assert {block.page for block in marked} == {"README.md"}
    assert "<!-- ci -->" in (HOUSE / ".ci" / "run").read_text(encoding="utf-8")


def test_every_page_is_in_the_navigation():
    settings = (HOUSE / "mkdocs.yml").read_text(encoding="utf-8")
    for page in PAGES:
        if page not in (README, CHINESE):
            assert f": {page.relative_to(HOUSE / 'docs').as_posix()}\n" in settings
    extras = tomllib.loads((HOUSE / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert any(one.startswith("mkdocs") for one in extras["docs"])


@pages
def test_every_link_leads_to_a_file(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", without_blocks(page))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_modes_and_tasks_of_the_help_are_those_of_the_tree():
    text = help_page()
    for group in ("mode", "task", "data", "model"):
        for name in choice_names(group):
            assert re.search(rf"^  {name} ", text, re.MULTILINE), f"{group}={name}"
