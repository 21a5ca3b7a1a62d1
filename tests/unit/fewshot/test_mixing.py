"""The weights at which an image is right are one interval: against trying every weight."""

import torch

from lit_modules.fewshot.mixing import accuracy_over_weights, first_best, winning_interval


def logits(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_accuracies_equal_those_of_trying_every_weight():
    base, extra = logits(2, 40, 5, seed=0), logits(2, 40, 5, seed=1)
    labels = torch.randint(5, (2, 40), generator=torch.Generator().manual_seed(2))
    weights = torch.linspace(0, 8, 33, dtype=torch.float64)
    found = accuracy_over_weights(base, extra, labels, weights)
    for problem in range(2):
        for place, weight in enumerate(weights.tolist()):
            right = 0
            for i in range(40):
                mixed = [base[problem, i, c].item() + weight * extra[problem, i, c].item() for c in range(5)]
                right += max(range(5), key=mixed.__getitem__) == labels[problem, i].item()
            assert found[problem, place].item() == right / 40


def test_the_bounds_are_where_the_label_ties_with_a_class():
    base = torch.tensor([[0.0, 1.0, 3.0]], dtype=torch.float64)
    extra = torch.tensor([[1.0, 0.0, 2.0]], dtype=torch.float64)
    lower, upper = winning_interval(base, extra, torch.tensor([0]))
    assert (lower.item(), upper.item()) == (1.0, -3.0)
    lower, upper = winning_interval(base[:, :2], extra[:, :2], torch.tensor([0]))
    assert (lower.item(), upper.item()) == (1.0, torch.inf)


def test_an_image_that_ties_at_every_weight_is_wrong():
    base = torch.tensor([[1.0, 1.0]])
    assert accuracy_over_weights(base, base, torch.tensor([0]), torch.tensor([0.0, 1.0])).tolist() == [0, 0]


def test_an_extra_that_says_nothing_leaves_the_base():
    base = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    found = accuracy_over_weights(base, torch.zeros(2, 2), torch.tensor([0, 0]), torch.tensor([0.5]))
    assert found.tolist() == [0.5]


def test_the_first_of_equals_is_best():
    best, place = first_best(torch.tensor([[1.0, 3.0, 3.0], [2.0, 1.0, 2.0]]))
    assert best.tolist() == [3, 2]
    assert place.tolist() == [1, 0]
