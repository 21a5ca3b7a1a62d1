"""Mixup, CutMix and CMO are a function of (seed, epoch, step), and a loss judges blended images against both labels."""

import numpy as np
import pytest
import torch

from lit_modules.blending import batch as blending
from lit_modules.blending.batch import Blending
from lit_modules.blending.cutmix import draw_box, paste_box
from lit_modules.blending.labels import OWN_SHARE, PARTNER_LABEL, dominant_label, two_target_loss
from lit_modules.blending.mixup import mix
from records.errors import UserError


def batch(number=6, size=8):
    image = torch.arange(number).float().view(-1, 1, 1, 1).expand(-1, 3, size, size) / number
    return {"image": image.clone(), "label": torch.arange(number), "index": torch.arange(number)}


def taken(samples, rows):
    return {key: values[rows] for key, values in samples.items()}


def test_images_of_bytes_and_floats_blend_alike():
    image = torch.randint(256, (4, 3, 2, 2), dtype=torch.uint8)
    own = {"image": image, "label": torch.tensor([0, 1, 2, 3]), "index": torch.arange(4)}
    rows = torch.tensor([1, 0, 3, 2])
    mixed = mix(own, taken(own, rows), 0.3)
    expected = (0.3 * image.double() + 0.7 * image[rows].double()) / 255
    torch.testing.assert_close(mixed["image"].double(), expected, atol=1e-6, rtol=0)
    as_floats = own | {"image": image.float() / 255}
    torch.testing.assert_close(mix(as_floats, taken(as_floats, rows), 0.3)["image"], mixed["image"])
    assert mixed[PARTNER_LABEL].tolist() == [1, 0, 3, 2]
    assert dominant_label(mixed).tolist() == [1, 0, 3, 2]
    assert dominant_label(mix(own, taken(own, rows), 0.8)).tolist() == [0, 1, 2, 3]
    assert own["image"] is image


def test_features_blend_and_are_not_cut():
    own = {"feature": torch.randn(4, 5), "label": torch.arange(4)}
    rows = torch.tensor([3, 2, 1, 0])
    mixed = mix(own, taken(own, rows), 0.25)
    torch.testing.assert_close(mixed["feature"], 0.25 * own["feature"] + 0.75 * own["feature"][rows])
    with pytest.raises(UserError, match=r"task\.cutmix_alpha=1.*cache_features=false"):
        Blending(cutmix_alpha=1.0).blend(own, taken(own, rows), 0, 0)


def test_the_loss_and_its_parts_are_shared_out():
    own, partner = (
        {"loss": torch.tensor(2.0), "part": torch.tensor(1.0)},
        {"loss": torch.tensor(4.0), "part": torch.tensor(0.0)},
    )
    shared = two_target_loss(own, partner, torch.tensor(0.25))
    assert {name: value.item() for name, value in shared.items()} == {"loss": 3.5, "part": 0.25}


def test_a_box_is_pasted_and_its_area_counts():
    rows = torch.tensor([3, 0, 1, 2, 5, 4])
    plain = batch()
    pasted = paste_box(plain, taken(plain, rows), (1, 4, 2, 8))
    assert pasted[OWN_SHARE].tolist() == pytest.approx([1 - 18 / 64] * 6)
    for row, partner in enumerate(rows.tolist()):
        assert pasted[PARTNER_LABEL][row] == partner
        for y in range(8):
            for x in range(8):
                source = partner if 1 <= y < 4 and 2 <= x < 8 else row
                assert pasted["image"][row, 1, y, x] == pytest.approx(source / 6)
    assert torch.equal(plain["image"], batch()["image"])


def test_boxes_lie_inside_and_cover_what_was_drawn():
    generator = np.random.default_rng(0)
    shares = []
    for _ in range(2000):
        top, bottom, left, right = draw_box(64, 64, 1.0, generator)
        assert 0 <= top <= bottom <= 64
        assert 0 <= left <= right <= 64
        shares.append((bottom - top) * (right - left) / 64**2)
    # half of the image on average, less what the edges cut off
    assert 0.25 < np.mean(shares) < 0.5


def test_draws_are_a_function_of_seed_epoch_and_step():
    both = Blending(0.8, 1.0, seed=3)
    again = Blending(0.8, 1.0, seed=3)
    for step in range(4):
        assert torch.equal(both.partners(64, 1, step), again.partners(64, 1, step))
        first, second = (one.blend(batch(), batch(), 1, step) for one in (both, again))
        assert torch.equal(first["image"], second["image"])
    places = ((0, 3, 5), (1, 3, 5), (0, 4, 5), (0, 3, 6))
    assert len({Blending(1.0, seed=seed).share(epoch, step) for seed, epoch, step in places}) == 4
    assert len({tuple(Blending(1.0, seed=s).partners(64, e, t).tolist()) for s, e, t in places}) == 4
    assert both.partners(64, 3, 5).sort().values.tolist() == list(range(64))


def test_with_both_each_step_does_one_and_with_one_that_alone():
    both = Blending(0.8, 1.0, seed=3)
    assert 60 < sum(both.pastes(0, step) for step in range(200)) < 140
    assert not any(Blending(0.8).pastes(0, step) for step in range(20))
    assert all(Blending(0.0, 1.0).pastes(0, step) for step in range(20))
    plain, rows = batch(), torch.tensor([5, 4, 3, 2, 1, 0])
    mixed = Blending(0.8).blend(plain, taken(plain, rows), 0, 0)
    share = Blending(0.8).share(0, 0)
    assert mixed[OWN_SHARE].tolist() == pytest.approx([share] * 6)
    expected = share * torch.arange(6) / 6 + (1 - share) * rows / 6
    assert torch.allclose(mixed["image"][:, 0, 0, 0], expected)
    shares = {float(Blending(0.0, 1.0).blend(plain, plain, 0, step)[OWN_SHARE][0]) for step in range(5)}
    assert len(shares) > 1


def test_some_steps_and_the_ends_of_a_run_stay_plain():
    assert not Blending().happens(0, 0)
    half = Blending(cutmix_alpha=1.0, probability=0.5)
    assert 60 < sum(half.happens(0, step) for step in range(200)) < 140
    # epochs 4 to 196 of 200 in the authors' code of CMO
    cmo = Blending(cutmix_alpha=1.0, plain_share=0.015)
    assert [epoch for epoch in range(200) if cmo.happens(epoch, 0, epoch / 200)] == list(range(4, 197))


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"mixup_alpha": -1.0}, "task.mixup_alpha"),
        ({"cutmix_alpha": -0.5}, "task.cutmix_alpha"),
        ({"probability": 0.0}, "task.blend_probability"),
        ({"plain_share": 0.5}, "task.plain_share"),
    ],
)
def test_values_out_of_range_are_refused(settings, key):
    with pytest.raises(ValueError) as error:
        Blending(**settings)
    assert str(error.value).startswith(key)


def test_no_two_draws_of_a_step_share_their_random_numbers():
    names = ("SHARE", "PARTNER", "CHOICE", "BOX", "CHANCE")
    streams = [getattr(blending, f"{name}_STREAM") for name in names]
    first = [np.random.default_rng([5, 1, 2, stream]).integers(2**63) for stream in streams]
    assert len(set(first)) == len(names)
