"""PaCo's loss against a loop of plain numbers; its queue, its momentum encoder, and that a state restores both."""

import math

import pytest
import torch
from slow_numbers import COUNTS, assert_equals_slow, dot, draw, normalised, priors
from small_methods import one_step, small_batch, small_method

from lit_modules.longtail.paco import KeyQueue, PaCo, paco_loss
from records.errors import UserError

LABELS, CONTRAST_LABELS = [0, 2, 0, 1, 3], [0, 2, 0, 1, 3, 3, 1, 2]
LOGITS, QUERIES = draw(5, 4, seed=1), draw(5, 3, seed=2)
CONTRAST = torch.nn.functional.normalize(draw(8, 3, seed=3))


@pytest.mark.parametrize(("alpha", "beta", "gamma"), [(0.01, 1.0, 1.0), (0.3, 0.5, 2.0)])
def test_the_loss_and_its_gradients(alpha, beta, gamma):
    def slow(rows, vectors):
        queries = [normalised(vector) for vector in vectors]
        columns = queries + CONTRAST.tolist()
        labels = LABELS + CONTRAST_LABELS
        total = 0.0
        for i, row in enumerate(rows):
            centres = [z + math.log(p) for z, p in zip(row, priors(), strict=True)]
            others = {j: dot(queries[i], columns[j]) / 0.1 for j in range(len(columns)) if j != i}
            mass = sum(math.exp(z) for z in centres) + gamma * sum(math.exp(s) for s in others.values())
            positives = [(beta, centres[LABELS[i]])]
            positives += [(alpha, s) for j, s in others.items() if labels[j] == LABELS[i]]
            total -= sum(w * (s - math.log(mass)) for w, s in positives) / sum(w for w, _ in positives)
        return total / len(rows)

    def fast(logits, queries):
        directions = torch.nn.functional.normalize(queries)
        labels = torch.tensor(LABELS), torch.tensor(CONTRAST_LABELS)
        return paco_loss(logits, directions, CONTRAST, *labels, torch.tensor(COUNTS), 0.1, alpha, beta, gamma)

    assert_equals_slow(lambda z: fast(z, QUERIES), lambda rows: slow(rows, QUERIES.tolist()), LOGITS)
    assert_equals_slow(lambda q: fast(LOGITS, q), lambda vectors: slow(LOGITS.tolist(), vectors), QUERIES)


def test_the_queue_holds_the_latest_keys_whatever_the_batch_size():
    queue = KeyQueue(5, 1)
    assert len(queue.read()[0]) == 0
    for start, size in ((0, 3), (3, 3), (6, 2)):
        numbers = torch.arange(start, start + size)
        queue.write(numbers.float().unsqueeze(1), numbers)
    keys, labels = queue.read()
    assert sorted(labels.tolist()) == [3, 4, 5, 6, 7]
    assert keys.flatten().tolist() == labels.tolist()
    queue.write(torch.arange(10, 20).float().unsqueeze(1), torch.arange(10, 20))
    assert sorted(queue.read()[1].tolist()) == [15, 16, 17, 18, 19]


def test_the_key_encoder_follows_without_gradient():
    module = small_method(PaCo, momentum=0.9, queue_size=16)
    start = [parameter.clone() for parameter in module.key_backbone.parameters()]
    batch = small_batch(views=2)
    one_step(module, batch)
    assert all(torch.equal(a, b) for a, b in zip(start, module.key_backbone.parameters(), strict=True))
    leaders = [parameter.clone() for parameter in module.backbone.parameters()]
    one_step(module, batch)
    for old, leader, new in zip(start, leaders, module.key_backbone.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * leader)
        assert not new.requires_grad
    assert (module.queue.labels >= 0).sum() == 16


def test_queries_are_normalised_by_the_batch_between_the_two_layers():
    module = small_method(PaCo, width=3).double().train()
    features = draw(6, module.backbone.num_features, seed=4)
    first, norm, _, second = module.projection.layers
    torch.nn.init.uniform_(norm.weight)
    torch.nn.init.uniform_(norm.bias)
    hidden = (features @ first.weight.T + first.bias).tolist()
    columns = []
    for column, gain, shift in zip(zip(*hidden, strict=True), norm.weight.tolist(), norm.bias.tolist(), strict=True):
        mean = sum(column) / 6
        deviation = math.sqrt(sum((x - mean) ** 2 for x in column) / 6 + 1e-5)
        columns.append([max(gain * (x - mean) / deviation + shift, 0.0) for x in column])
    found = module.projection(features)
    for row, query in zip(zip(*columns, strict=True), found.tolist(), strict=True):
        outputs = [dot(row, weight) + b for weight, b in zip(second.weight.tolist(), second.bias.tolist(), strict=True)]
        assert query == pytest.approx(normalised(outputs))


def test_batch_norms_of_the_key_encoder_have_statistics_of_their_own():
    module = small_method(PaCo, momentum=0.9)
    batch = small_batch(views=2)
    for _ in range(2):
        one_step(module, batch)
    statistics = [module.projection.layers[1], module.key_projection.layers[1]]
    query, key = (norm.running_mean for norm in statistics)
    assert not torch.equal(query, key)
    assert all(norm.num_batches_tracked == 2 for norm in statistics)
    with torch.no_grad():
        module.projection.layers[1].weight.fill_(2.0)
    before = module.key_projection.layers[1].weight.clone()
    one_step(module, batch)
    torch.testing.assert_close(module.key_projection.layers[1].weight, 0.9 * before + 0.1 * 2.0)


def test_the_queue_and_the_encoder_are_restored_with_the_weights():
    straight, resumed = (small_method(PaCo, queue_size=12) for _ in range(2))
    batches = [small_batch(views=2, seed=seed) for seed in range(4)]
    for batch in batches[:2]:
        one_step(straight, batch)
    resumed.load_state_dict(straight.state_dict())
    for batch in batches[2:]:
        assert one_step(straight, batch) == one_step(resumed, batch)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_weights_loaded_for_the_backbone_go_to_the_key_encoder_too():
    module = small_method(PaCo)
    for parameter in module.backbone.parameters():
        parameter.data.add_(1.0)
    module.started_from(())
    pairs = zip(module.backbone.parameters(), module.key_backbone.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_evaluation_takes_the_classifier_alone_and_training_needs_two_views():
    module = small_method(PaCo).eval()
    assert set(module(small_batch())) == {"features", "logits"}
    with pytest.raises(UserError, match=r"data\.views=1: PaCo.*needs 2"):
        module.train()(small_batch())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_weights": {"kind": "balanced"}}, r"task\.class_weights\.kind=balanced"),
        ({"mixup_alpha": 1.0}, r"task\.mixup_alpha=1"),
    ],
)
def test_weights_and_mixup_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        small_method(PaCo, **settings)
