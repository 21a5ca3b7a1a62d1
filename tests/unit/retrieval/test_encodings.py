"""Encodings on disk: blocks become arrays, an interruption costs the missing blocks alone, others' are refused."""

import numpy as np
import pytest

from retrieval.codes import unpack
from retrieval.encodings import (
    Block,
    EncodingPlan,
    ForeignEncodingsError,
    begin,
    finish,
    is_complete,
    missing_blocks,
    read_encodings,
    write_block,
)

NAMES = tuple(f"image, {number} ü.jpg" for number in range(10))
PLAN = EncodingPlan(NAMES, {"weights": "abc"}, block_size=4)
VALUES = np.random.default_rng(0).standard_normal((10, 5)).astype(np.float32)
FEATURES = np.random.default_rng(1).standard_normal((10, 3)).astype(np.float32)
UNREADABLE = {1: "cut", 9: 'no "image"'}


def block(number, plan=PLAN):
    places = [place for place in plan.positions(number) if place not in UNREADABLE]
    reasons = {place: UNREADABLE[place] for place in plan.positions(number) if place in UNREADABLE}
    return Block(np.array(places), VALUES[places], FEATURES[places], reasons)


def encoded(folder, numbers=(0, 1, 2)):
    begin(folder, PLAN)
    for number in numbers:
        write_block(folder, number, block(number))


def test_blocks_in_any_order_become_whole_arrays(tmp_path):
    encoded(tmp_path, (2, 0, 1))
    finish(tmp_path, PLAN)
    found = read_encodings(tmp_path)
    kept = [place for place in range(10) if place not in UNREADABLE]
    assert found.names == tuple(NAMES[place] for place in kept)
    assert np.array_equal(found.values, VALUES[kept])
    assert np.array_equal(found.features, FEATURES[kept])
    assert np.array_equal(unpack(np.asarray(found.codes), 5), VALUES[kept] > 0)
    assert found.bits == 5
    assert found.unreadable == {NAMES[place]: reason for place, reason in UNREADABLE.items()}
    assert found.identity == {"weights": "abc"}
    assert not (tmp_path / "blocks").exists()
    assert not list(tmp_path.glob(".*"))


def test_what_is_missing_or_damaged_is_encoded_again(tmp_path):
    encoded(tmp_path, (0, 2))
    assert missing_blocks(tmp_path, PLAN) == [1]
    file = tmp_path / "blocks" / "0000002.npz"
    file.write_bytes(file.read_bytes()[:100])
    assert missing_blocks(tmp_path, PLAN) == [1, 2]
    with pytest.raises(ValueError, match="2 of 3 blocks"):
        finish(tmp_path, PLAN)
    with pytest.raises(ValueError, match="no complete encodings"):
        read_encodings(tmp_path)
    encoded(tmp_path, (1, 2))
    finish(tmp_path, PLAN)
    assert is_complete(tmp_path)
    assert missing_blocks(tmp_path, PLAN) == []


def test_an_interruption_while_joining_loses_nothing(tmp_path, monkeypatch):
    encoded(tmp_path)
    monkeypatch.setattr("retrieval.encodings._lines", lambda names: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        finish(tmp_path, PLAN)
    monkeypatch.undo()
    assert missing_blocks(tmp_path, PLAN) == []
    finish(tmp_path, PLAN)
    assert len(read_encodings(tmp_path)) == 8


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (EncodingPlan(NAMES, {"weights": "xyz"}, 4), "weights differ"),
        (EncodingPlan(NAMES[:-1], {"weights": "abc"}, 4), "images, names differ"),
        (EncodingPlan(NAMES[::-1], {"weights": "abc"}, 4), "names differ"),
        (EncodingPlan(NAMES, {"weights": "abc", "views": "2"}, 4), "views differ"),
    ],
)
def test_encodings_of_another_kind_are_refused(tmp_path, other, expected):
    encoded(tmp_path)
    with pytest.raises(ForeignEncodingsError, match=expected):
        begin(tmp_path, other)


def test_a_damaged_description_is_refused(tmp_path):
    encoded(tmp_path)
    (tmp_path / "encodings.json").write_text("{")
    with pytest.raises(ForeignEncodingsError, match="damaged"):
        begin(tmp_path, PLAN)


def test_features_alone_make_no_codes(tmp_path):
    plan = EncodingPlan(("a", "b"), {})
    begin(tmp_path, plan)
    write_block(tmp_path, 0, Block(np.array([0, 1]), None, FEATURES[:2], {}))
    finish(tmp_path, plan)
    found = read_encodings(tmp_path)
    assert (found.codes, found.values, found.bits) == (None, None, 0)
    assert np.array_equal(found.features, FEATURES[:2])


def test_names_that_are_there_twice_or_hold_line_breaks_are_refused():
    with pytest.raises(ValueError, match="twice"):
        EncodingPlan(("a", "a"), {})
    with pytest.raises(ValueError, match="line break"):
        EncodingPlan(("a\nb",), {})
