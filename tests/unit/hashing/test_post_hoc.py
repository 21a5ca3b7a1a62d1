"""The post-hoc baselines: one pass over the features, and hash layers by plain linear algebra."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from lightning import Trainer
from scipy.linalg import orthogonal_procrustes
from small_tasks import IMAGES, small_batch, small_task
from torch.utils.data import DataLoader

from callbacks.checkpoints import LastCheckpoint
from lit_modules.hashing.itq import ITQ, itq_projection, quantizing_rotation
from lit_modules.hashing.lsh import LSH, random_hyperplanes
from lit_modules.hashing.pcah import PCAH, principal_components
from lit_modules.hashing.post_hoc import Projection, drawn_images, scaled_to_codes
from records.notices import RunWarning

METHODS = [ITQ, LSH, PCAH]


@pytest.fixture
def features():
    random = np.random.default_rng(0)
    return (random.standard_normal((200, 10)) @ random.standard_normal((10, 10)) + 3).astype(np.float32)


def slow_components(features, bits):
    """Return the components of the largest variance, by the singular values of the centred features."""
    centred = features.astype(np.float64) - features.astype(np.float64).mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    return centred @ directions[:bits].T


def test_pcah_projects_on_the_principal_components(features):
    values, expected = principal_components(features, 4)(features), slow_components(features, 4)
    signs = np.sign((values * expected).sum(axis=0))
    np.testing.assert_allclose(values * signs, expected, rtol=1e-3, atol=1e-3)


def slow_rotation(values, rotation, iterations):
    """Gong et al.'s alternation by SciPy's solution of the Procrustes problem."""
    for _ in range(iterations):
        codes = [[1.0 if value > 0 else -1.0 for value in row] for row in values @ rotation.T]
        transposed, _ = orthogonal_procrustes(values, np.array(codes))
        rotation = transposed.T
    return rotation


def quantization_loss(values, rotation):
    rotated = values @ rotation.T
    return np.square(np.where(rotated > 0, 1.0, -1.0) - rotated).sum()


def test_itq_alternates_as_the_slow_loop_does(features):
    values = slow_components(features, 6) / 5
    start = quantizing_rotation(values, iterations=0, seed=4)
    np.testing.assert_allclose(start @ start.T, np.eye(6), atol=1e-12)
    for iterations in (1, 7):
        found = quantizing_rotation(values, iterations, seed=4)
        np.testing.assert_allclose(found, slow_rotation(values, start, iterations), atol=1e-9)


def test_every_iteration_of_itq_loses_no_more_than_the_one_before(features):
    values = slow_components(features, 6) / 5
    losses = [quantization_loss(values, quantizing_rotation(values, iterations)) for iterations in range(30)]
    assert all(after <= before + 1e-9 for before, after in itertools.pairwise(losses))
    assert losses[-1] < 0.95 * losses[0]


def test_itq_is_a_rotation_of_the_principal_components(features):
    values, components = itq_projection(features, 5)(features), principal_components(features, 5)(features)
    np.testing.assert_allclose(values @ values.T, components @ components.T, rtol=1e-3, atol=1e-1)
    assert np.abs(values - components).max() > 1e-2


def test_lsh_separates_by_the_angle():
    angle = 1.0
    pair = np.array([[1.0, 0.0], [np.cos(angle), np.sin(angle)]])
    h = random_hyperplanes(pair, 20_000, seed=0, centre=False)(pair)
    assert np.mean((h[0] > 0) != (h[1] > 0)) == pytest.approx(angle / np.pi, abs=0.015)


def test_lsh_goes_through_the_mean_or_the_origin(features):
    mean = features.mean(axis=0, keepdims=True)
    assert np.abs(random_hyperplanes(features, 30, seed=0)(mean)).max() < 1e-4
    assert (random_hyperplanes(features, 30, seed=0, centre=False).bias == 0).all()


def test_the_scale_is_the_one_with_the_smallest_quantization_error(features):
    projection = principal_components(features, 4)

    def error(factor):
        return np.square(np.abs(projection(features) * factor) - 1).mean()

    scaled = scaled_to_codes(projection, features)
    factor = scaled.weight[0, 0] / projection.weight[0, 0]
    assert factor > 0
    assert error(factor) < min(error(0.98 * factor), error(1.02 * factor))
    np.testing.assert_allclose(scaled.bias, factor * projection.bias, rtol=1e-6)


def test_constant_features_have_a_scale_too():
    flat = Projection(np.zeros((3, 2)), np.zeros(3))
    assert (scaled_to_codes(flat, np.ones((5, 2))).weight == 0).all()


@pytest.mark.parametrize("fit", [principal_components, itq_projection])
def test_more_bits_than_components_are_refused(features, fit):
    with pytest.raises(ValueError, match=r"task\.bits=11: features of width 10 .* choose task\.bits=10"):
        fit(features, 11)
    with pytest.raises(ValueError, match=r"task\.bits=8: 7 images have fewer principal components"):
        fit(features[:7], 8)


def loaders(multi_label=False):
    batches = [small_batch(8, multi_label, start=start, seed=start) for start in range(0, IMAGES, 8)]
    train = DataLoader(batches, batch_size=None)
    query = DataLoader([small_batch(6, multi_label, seed=99)], batch_size=None)
    return train, [query, DataLoader(batches, batch_size=None)]


def fit(module, multi_label=False, **settings):
    train, evaluation = loaders(multi_label)
    trainer = Trainer(
        **{"max_epochs": 1, "enable_checkpointing": False, **settings},
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, train, evaluation)
    return module


def training_features(module):
    train, _ = loaders()
    module.eval()
    return np.concatenate([module.encode(batch).numpy() for batch in train])


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_one_pass_sets_the_hash_layer_from_all_training_images_before_validation(method, multi_label):
    module = fit(small_task(method, multi_label), multi_label)
    features = training_features(module)
    expected = scaled_to_codes(module.fit_features(features), features)
    np.testing.assert_allclose(module.hash_layer.weight.detach().numpy(), expected.weight, rtol=1e-5)
    np.testing.assert_allclose(module.hash_layer.bias.detach().numpy(), expected.bias, rtol=1e-5)
    database = np.square(np.abs(expected(features)) - 1).mean()
    assert module.exact_metrics["val/quantization_error"] == pytest.approx(database, rel=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_the_backbone_stays_as_it_was_loaded(method):
    module = small_task(method)
    before = {name: tensor.clone() for name, tensor in module.backbone.state_dict().items()}
    fit(module)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.backbone.state_dict().items())


@pytest.mark.parametrize("method", METHODS)
def test_a_second_epoch_computes_the_same(method):
    once, twice = fit(small_task(method)), fit(small_task(method), max_epochs=2)
    assert torch.equal(once.hash_layer.weight, twice.hash_layer.weight)
    assert torch.equal(once.hash_layer.bias, twice.hash_layer.bias)


def test_the_fitted_hash_layer_is_in_the_checkpoint(tmp_path):
    last = LastCheckpoint(str(tmp_path))
    module = fit(small_task(PCAH), callbacks=[last], enable_checkpointing=True)
    stored = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(stored["hash_layer.weight"], module.hash_layer.weight)
    assert torch.equal(stored["hash_layer.bias"], module.hash_layer.bias)


def test_fit_samples_are_drawn_by_seed_from_all_images():
    drawn = [drawn_images(IMAGES, 14, seed).tolist() for seed in (0, 0, 1)]
    assert [sum(each) for each in drawn] == [14, 14, 14]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(drawn_images(IMAGES, IMAGES, 0).tolist())


def test_fit_samples_limit_what_is_fitted():
    module = fit(small_task(PCAH, fit_samples=14))
    everything = training_features(module)
    features = everything[drawn_images(IMAGES, 14, 0).numpy()]
    expected = scaled_to_codes(principal_components(features, 12), features)
    np.testing.assert_allclose(module.hash_layer.weight.detach().numpy(), expected.weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", [ITQ, PCAH])
def test_more_bits_than_components_are_refused_before_anything_is_encoded(method):
    with pytest.raises(ValueError, match=r"task\.bits=17: features of width 16 .* choose task\.bits=16"):
        small_task(method, bits=17)
    with pytest.raises(ValueError, match=r"task\.bits=12: 8 images have fewer principal components"):
        small_task(method, fit_samples=8)


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match=r"task\.fit_samples is 0"):
        small_task(PCAH, fit_samples=0)
    with pytest.raises(ValueError, match=r"task\.iterations is 0"):
        small_task(ITQ, iterations=0)


def test_augmentation_is_switched_off_and_large_features_are_said(monkeypatch):
    module = small_task(LSH)

    class Data:
        augmentation = "crop"

    class Fake:
        datamodule = Data()

    module._trainer = Fake()
    monkeypatch.setattr("lit_modules.hashing.post_hoc.NOTEWORTHY_BYTES", 100)
    with (
        pytest.warns(RunWarning, match=r"features of 24 training images take .* task\.fit_samples=N"),
        pytest.warns(RunWarning, match="random weights"),
    ):
        module.on_fit_start()
    assert Fake.datamodule.augmentation is None
