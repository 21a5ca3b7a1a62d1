"""What a trained task says of samples: codes, probabilities of classifiers, cosines of codebooks, nothing else."""

import pytest
import torch
from small_tasks import BITS, CLASSES, small_batch, small_task

from lit_modules.hashing.classify import Classify
from lit_modules.hashing.csq import CSQ
from lit_modules.hashing.dpsh import DPSH
from lit_modules.predictor import Predictor, kind_of_scores


def said(task, **settings):
    module, batch = small_task(task, **settings).eval(), small_batch(5)
    with torch.no_grad():
        return module, module(batch), Predictor(module).predict_step(batch)


def test_a_classifier_says_probabilities():
    module, outputs, found = said(Classify)
    assert kind_of_scores(module) == "probability"
    exponentials = outputs["logits"].double().exp()
    torch.testing.assert_close(found["scores"], exponentials / exponentials.sum(1, keepdim=True))
    torch.testing.assert_close(found["values"], outputs["h"])
    assert found["values"].shape == (5, BITS)


def test_a_codebook_says_cosines():
    module, outputs, found = said(CSQ, bits=16)
    assert kind_of_scores(module) == "cosine"
    for row in range(5):
        for label in range(CLASSES):
            h, centre = outputs["h"][row].double(), module.codebook.signs[label].double()
            expected = (h * centre).sum() / (h.norm() * centre.norm())
            assert found["scores"][row, label].item() == pytest.approx(expected.item(), abs=1e-6)


def test_a_task_without_classes_says_codes_alone():
    assert set(said(DPSH, gather_batch=True)[2]) == {"values"}
