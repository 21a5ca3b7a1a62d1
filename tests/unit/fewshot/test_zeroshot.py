"""Zero-shot recognition against a loop, and what it needs."""

import pytest
import torch
from problems import check_stack, dot, problem

from lit_modules.fewshot.zeroshot import ZeroShot
from records.errors import UserError


def test_logits_are_scaled_cosines():
    one = problem()
    logits = one.fit(ZeroShot(scale=50.0)).predict(3 * one.test)
    for i in (0, 7, 31):
        for c in range(8):
            assert logits[i, c].item() == pytest.approx(50 * dot(one.test[i].tolist(), one.text[c].tolist()))


def test_it_needs_no_support_but_text():
    one = problem()
    head = ZeroShot()
    head.fit(None, None, one.text)
    assert one.accuracy(head) > 0.5
    with pytest.raises(UserError, match="needs a text embedding for each class"):
        head.fit(one.support, one.labels, None)


def test_a_head_that_was_not_fitted_says_so():
    with pytest.raises(RuntimeError, match="before fit"):
        ZeroShot().predict(torch.ones(1, 3))


def test_scale_must_be_positive():
    with pytest.raises(ValueError, match=r"task\.scale is 0"):
        ZeroShot(scale=0)


def test_a_stack_of_problems():
    check_stack(ZeroShot)
