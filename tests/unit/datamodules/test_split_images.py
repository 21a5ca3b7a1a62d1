"""A split as images to encode: what evaluation sees, under names that stay."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from datamodules.digits import Digits
from datamodules.files.split_images import SplitImages, split_names
from datamodules.folder import FolderRetrieval


def test_arrays_are_numbered_and_read_as_evaluation_reads_them():
    data = Digits(image_size=16, seed=0)
    data.setup()
    names = split_names(data, "query")
    assert len(names) == data.sizes["query"] == len(set(names))
    assert names[:2] == ("query/000", "query/001")
    item = SplitImages(data, "query")[7]
    assert item["reason"] == ""
    assert item["index"] == 7
    assert torch.equal(item["image"][0], data.evaluation_view("query")[7]["image"])


def test_files_are_named_by_their_paths_and_damage_is_a_reason(tmp_path):
    for number in range(20):
        path = tmp_path / f"class {number % 2}" / f"{number:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((20, 20), number * 10, dtype=np.uint8)).save(path)
    data = FolderRetrieval(root=tmp_path, image_size=16, seed=0)
    data.setup()
    names = split_names(data, "database")
    assert len(names) == 16
    assert all((tmp_path / name).is_file() for name in names)
    images = SplitImages(data, "database")
    Path(names[3]).write_bytes(b"")
    assert names[3] in images[3]["reason"]
    assert images[3]["image"].shape == images[4]["image"].shape == (1, 3, 16, 16)
    assert images[4]["reason"] == ""
