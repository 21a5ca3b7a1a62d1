"""Values of path keys survive Hydra's grammar whatever they contain."""

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from launch.paths import is_path_key, quote_paths, relocate

AWKWARD = [
    "a b/c",
    "x[1]/y",
    "one,two",
    "Ausgänge/图像",
    "it's",
    'say "hi"',
    "a=b",
    "(1)",
    "{2}",
    "123",
    "true",
    "c:d",
    "#5",
]


def parse(override):
    return OverridesParser.create().parse_override(override).value()


def parse_sweep(override):
    """Return the override of each job, as Hydra's own sweeper writes it."""
    (jobs,) = BasicSweeper.split_arguments([OverridesParser.create().parse_override(override)], max_batch_size=None)
    return [text for job in jobs for text in job]


@pytest.mark.parametrize("name", AWKWARD)
@pytest.mark.parametrize("key", ["run", "init_from", "task.encoders.dogs.run", "paths.data_dir", "data.root", "+image"])
def test_awkward_names_come_through_as_they_are(key, name):
    (quoted,) = quote_paths([f"{key}={name}"], multirun=False)
    assert parse(quoted) == name


def test_other_keys_are_left_alone():
    overrides = ["task.bits=48", "+note='a b'", "data=digits", "~callbacks.seed"]
    assert quote_paths(overrides, multirun=False) == overrides


def test_words_for_people_need_no_quotes():
    quoted = quote_paths(["baseline=task=ldam bits=32", "title=Bits, by seeds", "into=docs/a b.md"], multirun=False)
    assert [parse(one) for one in quoted] == ["task=ldam bits=32", "Bits, by seeds", "docs/a b.md"]
    assert not is_path_key("title")


def test_quoted_values_and_null_and_interpolations_are_left_alone():
    overrides = ["run='a b'", 'run="a,b"', "run=null", "data.root=${paths.data_dir}/x"]
    assert quote_paths(overrides, multirun=False) == overrides


def test_an_interpolation_reaches_the_jobs_of_a_sweep():
    (job,) = parse_sweep("init_from=outputs/ce/${seed}")
    assert parse(quote_paths([job], multirun=False)[0]) == "outputs/ce/${seed}"


def test_a_comma_separates_jobs_under_multirun_unless_the_path_exists(tmp_path):
    existing = tmp_path / "a,b"
    existing.mkdir()
    assert quote_paths(["run=x,y"], multirun=True) == ["run=x,y"]
    assert parse(quote_paths([f"run={existing}"], multirun=True)[0]) == str(existing)


def test_a_home_folder_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert parse(quote_paths(["run=~/a"], multirun=False)[0]) == "/somewhere/a"


def test_relocate_moves_whole_path_parts_only():
    node = {"a": "/old/x", "b": ["/old", "/older/y"], "c": 3, "d": {"e": "/not/old"}}
    assert relocate(node, "/old", "/new") == {"a": "/new/x", "b": ["/new", "/older/y"], "c": 3, "d": {"e": "/not/old"}}


def test_relocate_leaves_words_alone():
    assert relocate({"name": "tiny"}, "tiny", "/new") == {"name": "tiny"}
