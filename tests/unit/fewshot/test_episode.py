"""What a head is fitted on: checked, brought to unit length, in float32 at least."""

import pytest
import torch

from lit_modules.fewshot.episode import class_counts, class_means, class_sums, make_episode, unit_rows
from records.errors import UserError

LABELS = torch.tensor([0, 1, 1])


def features(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_rows_become_unit_and_leave_half_precision():
    episode = make_episode(features(3, 5, dtype=torch.float16), LABELS, features(2, 5))
    support = episode.support.features
    assert support.dtype == torch.float32
    torch.testing.assert_close(support.norm(dim=-1), torch.ones(3))
    assert make_episode(features(3, 5, dtype=torch.float64), LABELS, None).support.features.dtype == torch.float64


def test_the_views_of_an_image_are_averaged_or_kept_apart():
    views = features(3, 4, 5)
    episode = make_episode(views, LABELS, None)
    for image in range(3):
        total = sum(row / row.norm() for row in views[image])
        torch.testing.assert_close(episode.support.features[image], total / total.norm())
    apart = episode.support_views
    assert apart.features.shape == (12, 5)
    assert apart.labels.tolist() == [0] * 4 + [1] * 8


def test_one_view_is_the_image_itself():
    single = make_episode(features(3, 5), LABELS, None)
    assert torch.equal(single.support.features, make_episode(features(3, 1, 5), LABELS, None).support.features)


def test_sums_means_and_counts_equal_a_loop_also_for_an_absent_class():
    rows = features(3, 5, dtype=torch.float64)
    expected = torch.stack([rows[0], rows[1] + rows[2], torch.zeros(5, dtype=torch.float64)])
    torch.testing.assert_close(class_sums(rows, LABELS, 3), expected)
    torch.testing.assert_close(class_means(rows, LABELS, 3), expected / torch.tensor([[1.0], [2.0], [1.0]]))
    assert class_counts(LABELS, 3).tolist() == [1, 2, 0]


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_a_row_that_is_no_direction_is_named(bad):
    rows = features(4, 3)
    rows[2] = bad
    with pytest.raises(UserError, match=r"1 of 4 test features are zero or not finite, the first at \(2,\)"):
        unit_rows(rows, "test")


def test_half_precision_overflow_is_named():
    with pytest.raises(UserError, match="not finite"):
        make_episode(torch.full((3, 5), 70000.0).half(), LABELS, None)


def test_widths_must_agree():
    with pytest.raises(UserError, match="support 5, text 6"):
        make_episode(features(3, 5), LABELS, features(2, 6))


def test_labels_must_be_classes():
    with pytest.raises(UserError, match="lie between 0 and 1; with 1 classes"):
        make_episode(features(3, 5), LABELS, None, num_classes=1)


def test_every_class_has_a_text():
    with pytest.raises(UserError, match="2 text embeddings for 3 classes"):
        make_episode(features(3, 5), LABELS, features(2, 5), num_classes=3)


def test_support_and_labels_must_fit():
    with pytest.raises(UserError, match="do not go together"):
        make_episode(features(4, 5), LABELS, None)


def test_no_rows_are_no_support_and_no_validation():
    empty = torch.zeros(0, 5)
    episode = make_episode(empty, LABELS[:0], features(2, 5), validation=(empty, LABELS[:0]))
    assert episode.views is None
    assert episode.validation is None


def test_something_must_say_how_many_classes_there_are():
    with pytest.raises(UserError, match="given neither"):
        make_episode(None, None, None)
