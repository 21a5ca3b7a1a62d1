import pytest

from records.metric_names import HEADLINE, bounds_of, interval_of, is_bound, is_count, is_score, title_of


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("test/map@all", "mAP@all"),
        ("asymmetric_map@1000", "asymmetric mAP@1000"),
        ("reranked_map@all", "re-ranked mAP@all"),
        ("val/precision@10", "P@10"),
        ("recall@100", "R@100"),
        ("ndcg@100", "NDCG@100"),
        ("precision@radius2", "precision within Hamming radius 2"),
        ("empty_balls@radius2", "empty balls within Hamming radius 2"),
        ("bit_balance", "bit balance"),
        ("lowest_recall", "lowest recall"),
    ],
)
def test_names_as_people_write_them(name, title):
    assert title_of(name) == title


def test_counts_statistics_and_bounds_are_no_scores():
    assert [name for name in ("val/empty_queries", "empty_balls@radius2", "map@all") if is_count(name)] == [
        "val/empty_queries",
        "empty_balls@radius2",
    ]
    assert all(is_score(f"val/{name}") for name in (*HEADLINE, "recall@radius2"))
    for name in ("empty_queries", "bit_balance", "quantization_error", "map@all_low", "map@all_high"):
        assert not is_score(f"val/{name}")


def test_scores_before_a_new_training_are_told_like_those_after_it_and_chosen_settings_are_no_scores():
    assert is_count("test/before_zero_recall_classes")
    assert is_score("test/before_accuracy")
    assert not is_score("val/tau")
    assert title_of("test/before_hm") == "before HM"


def test_a_share_of_the_work_is_no_score():
    assert not is_score("val/experts_share")
    assert not is_count("val/experts_share")
    assert not is_score("test/weight_backward")
    assert title_of("test/experts_share") == "experts share"


def test_an_interval_belongs_to_its_metric():
    low, high = bounds_of("test/map@all")
    metrics = {"test/map@all": 0.5, low: 0.4, high: 0.6, "test/accuracy": 0.9, "test/orphan_low": 0.1}
    assert interval_of("test/map@all", metrics) == (0.4, 0.6)
    assert interval_of("test/accuracy", metrics) is None
    assert [name for name in metrics if is_bound(name, metrics)] == [low, high]
