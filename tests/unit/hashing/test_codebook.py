"""The codebook: buffers that are restored, a warning where classes share a centre."""

import warnings

import pytest
import torch
from plain_numbers import cosine

from lit_modules.hashing.codebook import Codebook
from records.notices import RunWarning


def test_a_codebook_is_restored_whatever_its_seed():
    stored, other = Codebook(5, 6, seed=1, rule="bernoulli"), Codebook(5, 6, seed=2, rule="bernoulli")
    assert not torch.equal(stored.signs, other.signs)
    other.load_state_dict(stored.state_dict())
    assert torch.equal(stored.signs, other.signs)
    assert torch.equal(stored.tie, other.tie)


def test_classes_that_share_a_centre_are_said():
    with pytest.warns(RunWarning, match=r"of the 40 classes share a hash centre of 6 bits"):
        Codebook(40, 6, seed=0, rule="bernoulli")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Codebook(40, 6, seed=0)


def test_the_minimum_distance_is_noted(caplog):
    with caplog.at_level("INFO"):
        Codebook(1000, 64, seed=0)
    assert "1,000 hash centres of 64 bits" in caplog.text
    assert "at least 28 bits (the Gilbert-Varshamov bound promises 20)" in caplog.text


def test_cosines_with_the_centres():
    codebook = Codebook(3, 5, seed=0)
    h = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    expected = [[cosine(row, centre) for centre in codebook.signs.tolist()] for row in h.tolist()]
    torch.testing.assert_close(codebook.cosine(h), torch.tensor(expected))


def test_ties_of_several_classes_are_broken_by_the_same_code():
    codebook = Codebook(2, 8, seed=0)
    codebook.signs[1] = -codebook.signs[0]
    both = codebook(torch.ones(3, 2))
    assert torch.equal(both, codebook.tie.expand(3, -1))
