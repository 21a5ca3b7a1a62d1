"""The images that an expert was trained on against those that the cascade is judged by."""

import shutil
import warnings

import pytest
from digit_contest import write_contest

from datamodules.few_shot_images import JittorImages
from datamodules.jittor import Jittor
from modes.expert_images import ExpertRun, check_unseen
from records.errors import UserError
from records.notices import RunWarning
from records.run_directory import RunDirectory

DRAW = {"shots": 4, "validation": "min4", "split_seed": 0, "test_fraction": 0.5}


@pytest.fixture(scope="module")
def contest(tmp_path_factory):
    root = tmp_path_factory.mktemp("contest")
    write_contest(root, per_class=16, test_images=1)
    return root


def expert(folder, root, **changes):
    """The run of an expert on the dogs, of which nothing is there but its draw."""
    own = {**DRAW, "root": str(root), "only": ["Thu-dog_"], "seed": 0, **changes}
    given = {"batch_size": 4, "num_workers": 0, "augment": None}
    JittorImages(**own, **given, image_size=8, split_dir=folder / "splits").setup()
    node = {"_target_": "datamodules.few_shot_images.JittorImages", "name": "jittor_images", **own, **given}
    return ExpertRun(
        "task.encoders.dogs.run", RunDirectory(folder), {**node, "split_dir": str(folder / "elsewhere")}, 8
    )


def check(one, root, **changes):
    own = {**DRAW, "root": str(root), **changes}
    check_unseen(one, Jittor(**own, seed=0, batch_size=4), own)


@pytest.mark.parametrize("changes", [{}, {"hold_unseen": ["Stanford-Cars_"]}, {"validation": "none"}])
def test_one_draw_shares_no_image(changes, contest, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(expert(tmp_path, contest), contest, **changes)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"split_seed": 1}, r"data\.split_seed \(0 there, 1 here\)"),
        ({"test_fraction": 0.7, "validation": "none"}, r"data\.test_fraction \(0\.5 there, 0\.7 here\)"),
    ],
)
def test_another_draw_that_judges_by_images_of_the_expert_is_refused(changes, named, contest, tmp_path):
    one = expert(tmp_path, contest, shots=None, validation="none")
    with pytest.raises(UserError, match=rf"trained on \d+ of the \d+ images of this run's test part.*{named}"):
        check(one, contest, **changes)


def test_the_number_of_images_is_that_of_both_lists(contest, tmp_path):
    one = expert(tmp_path, contest, shots=None, validation="none")
    rows = JittorImages(
        **{key: value for key, value in one.data.items() if key not in ("_target_", "name")}, image_size=8
    )
    learnt = {rows.data.source.names[place].split("/")[-1] for place in rows.positions("train").tolist()}
    data = Jittor(**{**DRAW, "split_seed": 1}, root=contest, seed=0, batch_size=4)
    count = sum(file.name in learnt for file in data.images.files["test"])
    with pytest.raises(UserError, match=rf"trained on {count} of the {len(data.images.files['test'])} images"):
        check(one, contest, split_seed=1)


def test_validation_images_are_a_warning(contest, tmp_path):
    with pytest.warns(RunWarning, match=r"trained on 6 of the 20 validation images.*data\.shots \(4 there, 2 here\)"):
        check(expert(tmp_path, contest), contest, shots=2)


def test_images_that_have_moved_since_are_found_in_the_cascade_s_own_folder(contest, tmp_path):
    first = tmp_path / "first"
    shutil.copytree(contest, first)
    one = expert(tmp_path / "run", first, shots=None, validation="none")
    with pytest.raises(UserError, match="images of this run's test part"):
        check(one, contest, split_seed=1)
    shutil.rmtree(first)
    with pytest.raises(UserError, match="images of this run's test part"):
        check(one, contest, split_seed=1)


def test_images_that_are_not_to_be_found_are_a_warning(contest, tmp_path):
    one = expert(tmp_path / "run", contest, split_seed=1)
    other = ExpertRun(one.key, one.run, {**one.data, "split_seed": 2}, 8)
    with pytest.warns(RunWarning, match=r"nobody has looked.*data\.split_seed \(2 there, 0 here\)"):
        check(other, contest)
