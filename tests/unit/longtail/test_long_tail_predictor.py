"""What a trained classifier says of samples is what it is judged by."""

import torch
from small_methods import small_batch, small_method

from lit_modules.longtail.ce import CrossEntropy
from lit_modules.predictor import Predictor


class Flipped(CrossEntropy):
    """A method that is judged by something else than its logits."""

    def scores(self, outputs):
        return -2 * outputs["logits"]


def test_the_judged_scores_become_probabilities():
    module, batch = small_method(Flipped).eval(), small_batch()
    with torch.no_grad():
        logits = module(batch)["logits"].double()
        found = Predictor(module).predict_step(batch)
    assert set(found) == {"scores"}
    torch.testing.assert_close(found["scores"], torch.softmax(-2 * logits, dim=1), atol=1e-6, rtol=1e-5)
