"""Draws as one stack: what is stacked, what is solved once, and that each equals the draw solved by itself."""

import math

import pytest
import torch
from problems import problem
from problems import stacked as stacked_material

from lit_modules.fewshot.ape import APE
from lit_modules.fewshot.clap import CLAP
from lit_modules.fewshot.episode import epoch_order
from lit_modules.fewshot.gda import GDA
from lit_modules.fewshot.inmap import InMaP
from lit_modules.fewshot.linear_probe import LinearProbe
from lit_modules.fewshot.lpp import LPP
from lit_modules.fewshot.problem import Problem, chunks, plan_stacks, same_as, solutions, stacked
from lit_modules.fewshot.prototype import Prototype
from lit_modules.fewshot.tip_adapter import TipAdapter
from lit_modules.fewshot.tip_adapter_f import TipAdapterF
from lit_modules.fewshot.transclip import TransCLIP
from lit_modules.fewshot.zeroshot import ZeroShot

SEEDS = [4, 9, 2]
HEADS = {
    "zeroshot": lambda seed: ZeroShot(),
    "prototype": lambda seed: Prototype(text_weight="search"),
    "tip_adapter": lambda seed: TipAdapter(alpha_steps=20, beta_steps=5),
    "gda": lambda seed: GDA(),
    "ape": lambda seed: APE(alpha_steps=20, beta_steps=3, gamma_steps=2),
    "linear_probe": lambda seed: LinearProbe(bisections=1, max_iterations=50),
    "lpp": lambda seed: LPP(epochs=30),
    "clap": lambda seed: CLAP(epochs=3, batch_size=10, seed=seed),
    "tip_adapter_f": lambda seed: TipAdapterF(epochs=3, batch_size=10, seed=seed, alpha_steps=20, beta_steps=5),
    "inmap": lambda seed: InMaP(),
    "transclip": lambda seed: TransCLIP(iterations=3),
}
CLOSED_FORM = ("zeroshot", "prototype", "tip_adapter", "gda", "ape", "linear_probe")


def posed(one, dtype=torch.float64):
    parts = (one.support, one.text, one.test, one.validation)
    support, text, test, validation = (part.to(dtype) for part in parts)
    return Problem(8, support, one.labels, text, test, validation, one.validation_labels)


@pytest.fixture(scope="module")
def draws():
    return [posed(problem(seed=seed)) for seed in SEEDS]


@pytest.mark.parametrize("name", HEADS)
def test_each_draw_of_a_stack_equals_the_draw_by_itself(draws, name):
    together = HEADS[name](SEEDS)
    stacked(draws).fit(together, "cpu")
    for place, (draw, seed) in enumerate(zip(draws, SEEDS, strict=True)):
        alone = HEADS[name](seed)
        draw.fit(alone, "cpu")
        found = together.state_of(place)
        assert found.keys() == alone.state.keys()
        for key, wanted in alone.state.items():
            # closed forms to the last digits of float64, iterations to 1e-9
            tolerance = 1e-12 if name in CLOSED_FORM else 1e-9
            torch.testing.assert_close(found[key], wanted, rtol=tolerance, atol=tolerance, msg=f"{name}.{key}")


def test_a_problem_of_a_stack_stops_where_it_would_have_stopped_by_itself():
    problems = [posed(problem(seed=seed, spread=spread, text_error=0.6)) for seed, spread in ((0, 0.1), (1, 0.5))]
    together = InMaP()
    stacked(problems).fit(together, "cpu")
    steps = together.state["steps"].tolist()
    for place, one in enumerate(problems):
        alone = InMaP()
        one.fit(alone, "cpu")
        assert steps[place] == alone.facts["steps"]
        torch.testing.assert_close(together.state["proxies"][place], alone.state["proxies"], rtol=1e-9, atol=1e-9)
    assert steps[0] != steps[1]


def test_a_seed_for_each_problem_orders_each_as_it_alone():
    labels = torch.zeros(3, 7, dtype=torch.int64)
    orders = epoch_order(SEEDS, 2, 5, labels)
    for row, seed in zip(orders, SEEDS, strict=True):
        assert torch.equal(row, epoch_order(seed, 2, 5, labels[0]))
        assert sorted(row.tolist()) == list(range(7))
    assert not torch.equal(orders[0], orders[1])
    assert torch.equal(epoch_order(4, 2, 5, labels), orders[0].expand(3, 7))
    with pytest.raises(ValueError, match="2 seeds for problems"):
        epoch_order([1, 2], 0, 5, labels)


def test_problems_are_stacked_along_a_leading_dimension_and_shared_tensors_are_not_copied(draws):
    text = draws[0].text
    shared = [Problem(8, one.support, one.labels, text) for one in draws]
    together = stacked(shared)
    assert together.support.shape == (3, *draws[0].support.shape)
    assert torch.equal(together.labels[1], draws[1].labels)
    assert together.text.shape == (3, *text.shape)
    assert together.text.data_ptr() == text.data_ptr()
    assert together.validation is None
    material, single = stacked_material()
    assert torch.equal(stacked([posed(one) for one in single]).support, material.support)


def test_chunks_hold_what_the_memory_allows_and_equal_shapes_alone(draws):
    need = draws[0].working_bytes
    assert chunks(draws, 3 * need) == [[0, 1, 2]]
    assert chunks(draws, 2.5 * need) == [[0, 1], [2]]
    assert chunks(draws, 0.0) == [[0], [1], [2]]
    other = posed(problem(shots=2))
    assert chunks([draws[0], other, draws[1]], math.inf) == [[0], [1], [2]]
    assert chunks([draws[0], draws[1], other], math.inf) == [[0, 1], [2]]


def test_a_bigger_problem_takes_more_memory(draws):
    assert posed(problem(classes=8, shots=8)).working_bytes > draws[0].working_bytes
    assert Problem(8, text=draws[0].text).working_bytes > 0


def test_a_problem_of_the_very_same_tensors_is_solved_once(draws):
    same = Problem(8, text=draws[0].text, unlabelled=draws[0].unlabelled)
    equal = Problem(8, text=draws[0].text.clone(), unlabelled=draws[0].unlabelled)
    again = Problem(8, text=draws[0].text, unlabelled=draws[0].unlabelled)
    assert same_as([same, equal, again], ["a", "a", "a"]) == [0, 1, 0]
    assert same_as([same, again], ["seed 0", "seed 1"]) == [0, 1]


def test_a_plan_solves_what_is_the_same_once_and_serves_every_problem(draws):
    same = Problem(8, text=draws[0].text)
    problems = [same, draws[0], same, draws[1], draws[2]]
    plan = plan_stacks(problems, ["a"] * 5, math.inf)
    assert plan == [{0: [0, 2]}, {1: [1], 3: [3], 4: [4]}]
    assert plan_stacks(problems, [*"abcde"], 0.0) == [{place: [place]} for place in range(5)]
    assert plan_stacks([same] * 3, ["a"] * 3, 0.0) == [{0: [0, 1, 2]}]


def test_solutions_are_those_of_each_problem(draws):
    together = solutions(GDA(), draws, "cpu")
    alone = [solutions(GDA(), [one], "cpu")[0] for one in draws]
    for one, other in zip(together, alone, strict=True):
        assert one.keys() == other.keys()
        for key, wanted in other.items():
            torch.testing.assert_close(one[key], wanted, rtol=1e-12, atol=1e-12)
