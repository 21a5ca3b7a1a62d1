import gc

import pytest
from torch.utils.data import DataLoader, Dataset

from records.errors import UserError


class Broken(Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, position: int) -> int:
        try:
            raise OSError("the disk says no")
        except OSError as error:
            raise UserError("the first line: of the text\nand the second") from error


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_text_is_the_same_whether_a_worker_raised_it_or_not(
    num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the time that a loader gives a worker that has raised, which does not end by itself
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.1)
    with pytest.raises(UserError) as caught:
        next(iter(DataLoader(Broken(), num_workers=num_workers)))
    assert str(caught.value) == "the first line: of the text\nand the second"
    del caught
    gc.collect()
