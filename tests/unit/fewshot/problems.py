"""Few-shot problems like CLIP's: clusters far from the origin and near each other, and text near the clusters."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Problem:
    support: torch.Tensor
    labels: torch.Tensor
    text: torch.Tensor
    validation: torch.Tensor
    validation_labels: torch.Tensor
    test: torch.Tensor
    test_labels: torch.Tensor

    def fit(self, head, **changes):
        parts = {
            "support": self.support,
            "labels": self.labels,
            "text": self.text,
            "unlabelled": self.test,
            "validation": (self.validation, self.validation_labels),
            **changes,
        }
        head.fit(**parts)
        return head

    def accuracy(self, head):
        return (head.predict(self.test).argmax(dim=-1) == self.test_labels).double().mean().item()


def problem(classes=8, shots=4, width=24, test=20, spread=0.28, text_error=0.3, seed=0, views=1):
    """Return unit features in float64: a big common mean, class centres around it, text off the centres."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    common = 4 * F.normalize(noise(width), dim=0)
    centres = common + F.normalize(noise(classes, width), dim=1)
    gap = F.normalize(noise(width), dim=0)

    def draw(number, views=None):
        labels = torch.arange(classes).repeat_interleave(number)
        shape = (len(labels), width) if views is None else (len(labels), views, width)
        centre = centres[labels] if views is None else centres[labels].unsqueeze(1)
        return F.normalize(centre + spread * noise(*shape), dim=-1), labels

    support, labels = draw(shots, None if views == 1 else views)
    validation, validation_labels = draw(6)
    images, test_labels = draw(test)
    text = F.normalize(centres + 2 * gap + text_error * noise(classes, width), dim=-1)
    return Problem(support, labels, text, validation, validation_labels, images, test_labels)


def stacked(number=3, **settings):
    """Return several problems as one with a leading dimension, and the problems themselves."""
    single = [problem(seed=seed, **settings) for seed in range(number)]
    names = Problem.__dataclass_fields__
    return Problem(*(torch.stack([getattr(one, name) for one in single]) for name in names)), single


def check_stack(make_head, **settings):
    """Check that a stack of problems is solved as each problem by itself."""
    together, single = stacked(**settings)
    head = together.fit(make_head())
    logits = head.predict(together.test)
    for place, one in enumerate(single):
        alone = one.fit(make_head())
        torch.testing.assert_close(logits[place], alone.predict(one.test), rtol=1e-7, atol=1e-8)


def dot(left, right):
    return sum(a * b for a, b in zip(left, right, strict=True))
