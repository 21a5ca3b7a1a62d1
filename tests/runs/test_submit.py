"""mode=prepare and mode=submit in one process: what becomes of broken images, further runs, other data."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from launch.compose import compose_config
from launch.stored import stored_config
from modes import prepare, submit, train
from records.errors import UserError
from records.run_directory import open_run
from retrieval.submission import problems_of, read_code_file, read_ranking_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit" / "datamodules"))
from ibiohash_material import write_archive

SHORT = [
    "data=ibiohash", "task.bits=48", "trainer=cpu", "trainer.max_epochs=1", "data.image_size=32", "data.num_workers=0",
    "data.val_fraction=0", "data.test_fraction=0.3", "callbacks.pictures=null", "callbacks.progress=null",
    "metric.bootstrap=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return write_archive(tmp_path_factory.mktemp("data") / "iBioHash", per_class=20, classes=3, queries=2, searched=9)


def train_run(folder, archive, *more):
    overrides = [*SHORT, f"data.root='{archive.root}'", f"paths.run_dir='{folder}'", *more]
    assert train.run(compose_config(overrides), overrides) == 0
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory, archive):
    folder = tmp_path_factory.mktemp("runs")
    return [train_run(folder / str(seed), archive, f"seed={seed}") for seed in (0, 1)]


def submitted(run, *more):
    overrides = ("mode=submit", *more)
    config, problems = stored_config(open_run(run), overrides)
    assert problems == []
    code = submit.run(config, list(overrides))
    folder = max((run / "submissions").iterdir(), key=lambda one: one.stat().st_mtime_ns)
    return code, folder, json.loads((folder / "result.json").read_text())


def files_of(folder):
    return [(folder / name).read_bytes() for name in ("submit_query.csv", "submit_gallery.csv", "submit.csv")]


def test_a_submission_is_valid_and_the_same_again(runs, archive):
    code, folder, result = submitted(runs[0])
    assert code == 0
    assert problems_of(*files_of(folder), list(archive.query), list(archive.gallery)) == []
    trained = json.loads((runs[0] / "result.json").read_text())
    assert result["metrics"]["test/map@20"] == pytest.approx(trained["metrics"]["test/map@20"], abs=1e-12)
    assert files_of(submitted(runs[0])[1]) == files_of(folder)


def test_two_runs_are_fused_by_itq(runs, archive):
    code, folder, result = submitted(
        runs[0], f"recipe.fuse=['{runs[1]}']", "recipe.itq=true", "recipe.weights=[1,0.5]", "recipe.flip=true",
        "recipe.database_augmentation=2", "recipe.query_expansion=2",
    )  # fmt: skip
    assert code == 1, "41 training images have fewer than 48 principal components"
    assert "fewer principal components" in result["reason"]
    assert not (folder / "submit.csv").exists()


def test_images_that_cannot_be_read_are_counted_and_queries_keep_their_line(runs, archive, tmp_path):
    query, gallery = sorted(archive.query)[0], sorted(archive.gallery)[1]
    for part, name in (("Query", query), ("Gallery", gallery)):
        (archive.root / part / part / f"kept-{name}").write_bytes((archive.root / part / part / name).read_bytes())
        (archive.root / part / part / name).write_bytes(b"\xff\xd8 cut")
    try:
        code, folder, result = submitted(runs[0])
    finally:
        for part, name in (("Query", query), ("Gallery", gallery)):
            (archive.root / part / part / f"kept-{name}").replace(archive.root / part / part / name)
    assert code == 0
    queries, _ = read_code_file(files_of(folder)[0], "submit_query.csv")
    assert set(queries) == {*archive.query, f"kept-{query}"}
    assert not queries[query].any()
    searched, _ = read_code_file(files_of(folder)[1], "submit_gallery.csv")
    assert set(searched) == {*archive.gallery, f"kept-{gallery}"} - {gallery}
    rankings, _ = read_ranking_file(files_of(folder)[2], "submit.csv")
    assert list(rankings) == sorted(queries)
    assert [text.split(" cannot")[0] for text in result["warnings"]] == [
        "1 of 7 query images",
        "1 of 28 gallery images",
    ]
    with np.load(folder / "query_codes.npz") as codes:
        assert codes["names"].tolist() == sorted(queries)


def test_a_run_that_holds_out_other_images_is_named(runs, archive, tmp_path):
    other = train_run(tmp_path / "other", archive, "data.split_seed=5")
    _, _, result = submitted(runs[0], f"recipe.fuse=['{other}']", "recipe.itq=true")
    assert any("was trained on other parts of the data" in text for text in result["warnings"])


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (("data=digits",), "a submission is made of data=ibiohash"),
        (("recipe.fuse=[nowhere]", "recipe.itq=true"), "there is no such folder"),
        (("recipe.zooms=[0.2]",), "zooms: 0.2 brings the shorter side"),
        (("checkpoint=best",), "has no checkpoints/best.ckpt"),
    ],
)
def test_what_cannot_be_submitted_is_said(runs, more, expected):
    code, folder, result = submitted(runs[0], *more)
    assert code == 1
    assert expected in result["reason"]
    assert not (folder / "submit.csv").exists()


def test_preparing_prints_what_it_found(archive, capsys, tmp_path):
    settings = [f"data.root='{archive.root}'", f"data.prepared_dir='{tmp_path}'", "data.test_fraction=0.3"]
    overrides = ["mode=prepare", "data=ibiohash", *settings, "data.val_fraction=0.3"]
    assert prepare.run(compose_config(overrides), overrides) == 0
    shown = capsys.readouterr().out
    for expected in ("60 images in 3 classes", "6 images", "27 images", "train 29, val_query 3"):
        assert expected in shown
    assert (tmp_path / "query.txt").is_file()


def test_data_without_an_archive_need_no_preparing():
    with pytest.raises(UserError, match="data=digits needs no preparing; mode=prepare is for data=ibiohash"):
        prepare.run(compose_config(["mode=prepare"]), ["mode=prepare"])
