"""How codes are made of encodings: what each option changes, and what does not go together."""

import numpy as np
import pytest

from lit_modules.hashing.itq import itq_projection
from modes.recipe import Recipe, codes_of, rows_of
from records.errors import UserError
from retrieval.codes import unpack
from retrieval.encodings import Encodings
from retrieval.expansion import augment_database, directions, expand_queries, fuse

RNG = np.random.default_rng(0)
QUERY, GALLERY, TRAINING = (RNG.standard_normal((size, 8)).astype(np.float32) for size in (4, 30, 50))


def encodings(values=QUERY, features=QUERY, names="abcd"):
    return Encodings(tuple(names), None, 0, values, features, {}, {})


def bits(codes, length):
    return [unpack(some, length) for some in codes]


def test_without_options_codes_are_the_signs_of_the_hash_values():
    query, gallery = bits(codes_of(QUERY, GALLERY, None, 8, Recipe(), 0), 8)
    assert np.array_equal(query, QUERY > 0)
    assert np.array_equal(gallery, GALLERY > 0)


def test_neighbours_come_before_signs_and_queries_see_the_augmented_gallery():
    recipe = Recipe(database_augmentation=3, query_expansion=2, alpha=1.0)
    query, gallery = bits(codes_of(QUERY, GALLERY, None, 8, recipe, 0), 8)
    better = augment_database(GALLERY, 3, 1.0)
    assert np.array_equal(gallery, better > 0)
    assert np.array_equal(query, expand_queries(QUERY, better, 2, 1.0) > 0)
    assert not np.array_equal(gallery, GALLERY > 0)
    assert not np.array_equal(query, QUERY > 0)


def test_itq_is_fitted_on_training_images_alone():
    query, gallery = bits(codes_of(QUERY, GALLERY, TRAINING, 6, Recipe(itq=True, itq_iterations=7), 3), 6)
    projection = itq_projection(directions(TRAINING), 6, 7, 3)
    assert np.array_equal(query, projection(directions(QUERY)) > 0)
    assert np.array_equal(gallery, projection(directions(GALLERY)) > 0)


def test_rows_are_hash_values_or_fused_features():
    values = RNG.standard_normal((4, 3)).astype(np.float32)
    assert np.array_equal(rows_of([encodings(values)], Recipe()), values)
    recipe = Recipe(fuse=("other",), itq=True, weights=(1.0, 0.5))
    wide = RNG.standard_normal((4, 11)).astype(np.float32)
    found = rows_of([encodings(), encodings(features=wide)], recipe)
    assert np.array_equal(found, fuse([QUERY, wide], [1.0, 0.5]))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"fuse": ["other"]}, "add recipe.itq=true"),
        ({"weights": [1.0, 2.0]}, "it takes 1 numbers above 0"),
        ({"fuse": ["other"], "itq": True, "weights": [1.0, -2.0]}, "it takes 2 numbers above 0"),
        ({"database_augmentation": -1}, "recipe.database_augmentation is -1"),
        ({"query_expansion": -1}, "neither is below 0"),
        ({"alpha": -0.5}, "neither is below 0"),
        ({"itq_images": 0}, "recipe.itq_images is 0"),
        ({"zooms": 1.0}, "recipe.zooms is 1.0"),
        ({"flip": 1}, "recipe.flip is 1"),
        ({"tta": True}, "recipe.tta is unknown; the choices are flip, zooms"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, expected):
    with pytest.raises(UserError, match=expected):
        Recipe.from_config(settings)


def test_settings_are_read():
    recipe = Recipe.from_config({"flip": True, "zooms": [1, 1.2], "alpha": 2, "fuse": [], "weights": None})
    assert recipe == Recipe(flip=True, zooms=(1, 1.2), alpha=2)
    assert recipe.views.number == 4


def test_what_a_run_cannot_give_is_refused():
    with pytest.raises(UserError, match="the run has no hash layer"):
        rows_of([encodings(values=None)], Recipe())
    with pytest.raises(UserError, match="have not read the same images"):
        rows_of([encodings(), encodings(names="abce")], Recipe(fuse=("other",), itq=True))
    with pytest.raises(UserError, match=r"have 8 bits and 48 are submitted: train with task\.bits=48"):
        codes_of(QUERY, GALLERY, None, 48, Recipe(), 0)
    with pytest.raises(UserError, match=r"recipe\.itq: .*choose task\.bits=8 or fewer"):
        codes_of(QUERY, GALLERY, TRAINING, 48, Recipe(itq=True), 0)
