"""The graph of a cascade: what is refused, how scores are combined, where images go."""

import math

import pytest
import torch

from lit_modules.fewshot.cascade_graph import class_groups, combine, next_stages, overlay, read_graph
from lit_modules.fewshot.encoder_parameters import EncoderSize, parameter_report, refuse_too_many
from lit_modules.metrics.stage_counts import StageCounts
from records.errors import UserError

GROUPS = ("all", "seen", "unseen", "dogs")


def nodes(**changes):
    stages = {
        "zero": {"classes": "all", "encoders": {"a": 0.5, "b": 0.5}, "routes": [{"to": "few", "when": "seen"}]},
        "few": {"classes": "seen", "encoders": {"a": 1}, "routes": [{"to": "dogs", "when": "dogs", "above": 0.5}]},
        "dogs": {"classes": "dogs", "encoders": {"c": 1}},
    }
    for name, change in changes.items():
        stages[name] = {**stages.get(name, {"encoders": {"a": 1}}), **change}
    return stages


def test_stages_come_after_all_that_lead_to_them():
    shuffled = dict(reversed(nodes().items()))
    graph = read_graph(shuffled, GROUPS, "zero")
    assert [stage.name for stage in graph.stages] == ["zero", "few", "dogs"]
    assert graph.entry.calibration == "softmax"
    assert graph.text == "zero (all) -> few if seen; few (seen) -> dogs if dogs; dogs (dogs)"
    diamond = nodes(zero={"routes": [{"to": "dogs", "when": "dogs"}, {"to": "few", "when": "seen"}]})
    assert [stage.name for stage in read_graph(diamond, GROUPS, "zero").stages] == ["zero", "few", "dogs"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dogs": {"routes": [{"to": "zero"}]}}, "circle: zero -> few -> dogs -> zero"),
        ({"few": {"routes": []}}, "dogs: no route leads"),
        ({"few": {"routes": [{"to": "dog"}]}}, r"dog is no stage.*did you mean dogs"),
        ({"few": {"routes": [{"when": "dogs"}]}}, "says not where to"),
        ({"few": {"routes": [{"to": "dogs", "over": 1}]}}, "routes.0.*over is no key"),
        ({"few": {"routes": [{"to": "dogs", "above": 0.6, "below": 0.5}]}}, "above <= below"),
        ({"few": {"classes": "cats"}}, "cats is no group"),
        ({"few": {"encoders": {"a": 0}}}, "each share above 0"),
        ({"few": {"encoders": {"a": None}}}, "one at least"),
        ({"few": {"calibration": "sofmax"}}, "softmax, zscore, none"),
        ({"few": {"class": "seen"}}, r"class is no key.*did you mean classes"),
        ({"a-b": {}}, "named by letters"),
    ],
)
def test_what_is_wrong_is_named(changes, message):
    with pytest.raises(UserError, match=message):
        read_graph(nodes(**changes), GROUPS, "zero")


def test_an_unknown_entry_is_refused():
    with pytest.raises(UserError, match=r"entry=zeros is no stage.*did you mean zero\?"):
        read_graph(nodes(), GROUPS, "zeros")


def test_groups_come_from_counts_and_beginnings():
    groups = class_groups(("dog_a", "cat_b", "dog_c"), (2, 0, 1), {"dogs": ["dog_"]})
    assert {name: rows.tolist() for name, rows in groups.items()} == {
        "all": [0, 1, 2], "seen": [0, 2], "unseen": [1], "dogs": [0, 2],
    }  # fmt: skip
    with pytest.raises(UserError, match="no class begins with 'Dog_'"):
        class_groups(("dog_a",), (1,), {"dogs": ["Dog_"]})
    with pytest.raises(UserError, match="rename it"):
        class_groups(("dog_a",), (1,), {"seen": ["dog_"]})


def test_probabilities_of_different_scales_are_averaged():
    small, large = torch.tensor([[0.1, 0.3, 0.2]]), torch.tensor([[40.0, 10.0, 42.0]])
    combined = combine([small, large], [3, 1], "softmax")
    for place in range(3):
        expected = 0.0
        for scores, share in ((small, 0.75), (large, 0.25)):
            row = scores[0].tolist()
            expected += share * math.exp(row[place]) / sum(math.exp(one) for one in row)
        assert math.exp(combined[0, place]) == pytest.approx(expected, abs=1e-6)


def test_standard_scores_do_not_depend_on_scale_or_shift():
    first, second = torch.randn(5, 7, generator=torch.manual_seed(0)), torch.randn(5, 7)
    combined = combine([first, second], [1, 1], "zscore")
    assert torch.allclose(combined, combine([3 * first + 2, 50 * second - 7], [1, 1], "zscore"), atol=1e-5)
    row = first[0].tolist()
    mean = sum(row) / 7
    deviation = math.sqrt(sum((one - mean) ** 2 for one in row) / 7)
    single = combine([first], [0.3], "zscore")[0].tolist()
    assert single == pytest.approx([(one - mean) / deviation for one in row], abs=1e-5)
    assert torch.equal(combine([torch.ones(1, 3)], [1], "zscore"), torch.zeros(1, 3).double())


def test_raw_scores_are_added():
    combined = combine([torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, 0.0]])], [1, 3], "none")
    assert combined.tolist() == [[3.25, 0.5]]
    with pytest.raises(ValueError, match="softmax, zscore, none"):
        combine([torch.ones(1, 1)], [1], "both")  # type: ignore[arg-type]


def test_images_go_by_best_class_and_confidence():
    graph = read_graph(nodes(), GROUPS, "zero")
    groups = {
        "all": torch.arange(4),
        "seen": torch.tensor([0, 1, 2]),
        "unseen": torch.tensor([3]),
        "dogs": torch.tensor([2]),
    }
    scores = torch.tensor([[5.0, 0, 0, 0], [0, 0, 0, 5.0], [0, 0, 5.0, 0]])
    assert next_stages(scores, groups["all"], graph.entry, graph, groups).tolist() == [1, -1, 1]
    sure = torch.tensor([[0, 0, 9.0], [9.0, 0, 0], [0, 0, 0.1]])
    assert next_stages(sure, groups["seen"], graph.stages[1], graph, groups).tolist() == [2, -1, -1]


def test_the_first_route_that_fits_wins():
    two = [{"to": "few", "when": "seen", "above": 0.9}, {"to": "dogs", "when": "all"}]
    graph = read_graph(nodes(zero={"routes": two}), GROUPS, "zero")
    groups = {"all": torch.arange(2), "seen": torch.tensor([0])}
    scores = torch.tensor([[9.0, 0.0], [0.1, 0.0], [0.0, 9.0]])
    assert next_stages(scores, groups["all"], graph.entry, graph, groups).tolist() == [1, 2, 2]


def test_a_ranking_goes_on_behind_the_last_stage():
    first = overlay(None, torch.tensor([[3.0, 1.0, 2.0, 0.0]]), torch.arange(4), 4)
    second = overlay(first, torch.tensor([[0.0, 0.5]]), torch.tensor([1, 2]), 4)
    third = overlay(second, torch.tensor([[0.0]]), torch.tensor([3]), 4)
    assert second.argsort(descending=True).tolist() == [[2, 1, 0, 3]]
    assert third.argsort(descending=True).tolist() == [[3, 2, 1, 0]]
    expected = torch.tensor([0.0, 0.5]).double().softmax(dim=0)
    assert torch.allclose(second.softmax(dim=-1)[0, [1, 2]], expected)
    assert overlay(None, torch.tensor([[0.0]]), torch.tensor([1]), 2).tolist() == [[-torch.inf, 0.0]]


def test_a_shared_encoder_is_loaded_once_and_used_twice():
    graph = read_graph(nodes(), GROUPS, "zero")
    sizes = {"a": EncoderSize(100, 50), "b": EncoderSize(30, 20), "c": EncoderSize(7)}
    heads = {"zero:a": 1, "zero:b": 2, "few:a": 3, "dogs:c": 4}
    report = parameter_report(graph, sizes, {"zero": True, "few": False, "dogs": False}, heads)
    assert report == {"loaded": 217, "used": 200 + 3 + 103 + 11, "in zero": 203, "in few": 103, "in dogs": 11}
    refuse_too_many(sizes, 207)
    with pytest.raises(UserError, match=r"limit=206: the encoders have 207 parameters \(a 150, b 50, c 7\)"):
        refuse_too_many(sizes, 206)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_stages_are_counted_image_by_image():
    counts = StageCounts(["zero", "few"])
    guesses = torch.tensor([[0, 1, 2, 2], [-1, 0, 2, -1]])
    answered = torch.tensor([0, 1, 1, 0])
    label = torch.tensor([0, 1, 2, 1])
    for rows in (slice(0, 3), slice(3, 4)):
        counts.update(guesses[:, rows], answered[rows], label[rows])
    assert counts.compute() == {
        "reached_zero": 4, "accuracy_reached_zero": 0.75, "answered_zero": 2, "accuracy_answered_zero": 0.5,
        "reached_few": 2, "accuracy_reached_few": 0.5, "answered_few": 2, "accuracy_answered_few": 0.5,
    }  # fmt: skip
    counts.reset()
    assert "accuracy_reached_few" not in counts.compute()
