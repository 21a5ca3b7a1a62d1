"""mode=inspect on data whose features are made first: it tells what encoding would cost, and fills no bank."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from digit_contest import write_contest

from datamodules.encoded.feature_bank import BankKey, FeatureBank, fill_bank
from launch.compose import compose_config
from lit_modules.backbones.frozen_encoder import FrozenEncoder
from modes import inspect
from modes.encoding_cost import EncodingCost, EncodingSurvey


def test_encoding_is_timed_and_the_feature_bank_is_not_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    encode = FrozenEncoder.encode_images
    monkeypatch.setattr(
        FrozenEncoder, "encode_images", lambda one, images: encoded.append(len(images)) or encode(one, images)
    )
    write_contest(tmp_path / "data", per_class=20, test_images=1)
    given = [
        "mode=inspect", "task=cascade", "data=jittor", "model=tiny", "+model@task.encoders.other=tiny",
        "task.encoders.other.width=8", "task.groups.expert=[Thu-dog_]", "steps=2", f"data.root='{tmp_path}/data'",
        f"data.bank_dir='{tmp_path}/bank'", "data.encode_batch_size=8", "data.num_workers=0",
        f"paths.run_dir='{tmp_path}/page'", "trainer.accelerator=cpu",
    ]  # fmt: skip
    assert inspect.run(compose_config(given), given) == 0
    page = (tmp_path / "page" / "report.md").read_text()
    # of every bank of images three batches, the first of them not timed
    assert set(encoded) == {8}
    assert len(encoded) == 3 * page.count("| encoding the images of") >= 6
    assert page.count("| encoding the images of") == page.count("(2 batches timed, one process)")
    assert "by tiny (2) | " in page, "two encoders of one name"
    assert "| encoding in all | " in page
    assert "| training not timed | task=cascade is fitted at once" in page
    assert "| train | 40 |" in page
    assert not (tmp_path / "bank").exists()


def test_what_encoding_takes_is_extrapolated_from_batches_behind_the_first(tmp_path: Path) -> None:
    moments = iter([0.0, 50.0, 52.0, 54.0])
    bank = FeatureBank(tmp_path / "bank", BankKey("images", "encoder", "centre", 1, "list"), 1000, 100)
    survey = EncodingSurvey(2, lambda: next(moments))
    rows = survey(bank, "images", lambda start, stop: (torch.zeros(10, 1, 7) for _ in range(start, stop, 10)))
    assert rows.shape == (1000, 1, 7)
    assert survey.found == [EncodingCost("images", 1000, 1000, 5.0, 2)]
    assert survey.found[0].seconds == 200
    assert "3 min for 1,000 of 1,000, at 5.0 a second (2 batches timed" in survey.found[0].text
    assert inspect.encoding_rows(survey.found)["encoding in all"].startswith("3 min")
    assert not bank.folder.exists()


def test_a_bank_that_is_there_costs_nothing(tmp_path: Path) -> None:
    bank = FeatureBank(tmp_path / "bank", BankKey("images", "encoder", "centre", 1, "list"), 20, 10)
    filled = fill_bank(bank, lambda start, stop: iter([torch.rand(stop - start, 1, 3)]))
    survey = EncodingSurvey(2)
    assert torch.equal(survey(bank, "images", lambda start, stop: pytest.fail("it was encoded again")), filled)
    assert inspect.encoding_rows(survey.found) == {"encoding images": "20 are in the feature bank already"}
    bank.path(1).unlink()
    EncodingSurvey(0, found=survey.found)(bank, "images", lambda start, stop: iter([torch.rand(stop - start, 1, 3)]))
    assert survey.found[-1].text == "10 of 20 to be encoded, not timed (steps=0)"
