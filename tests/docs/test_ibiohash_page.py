"""The commands of docs/ibiohash.md, in their order, on a small data set in the contest's layout."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from retrieval.submission import problems_of

HOUSE = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(HOUSE / "tests" / "unit" / "datamodules"))
from ibiohash_material import write_archive  # noqa: E402

# a network and images for seconds in place of hours; what the page teaches stays as it is
SMALL = [
    "model=tiny", "~model.drop_path_rate", "data.image_size=32", "data.num_workers=0", "data.val_fraction=0.2",
    "data.test_fraction=0.2", "trainer.max_epochs=2", "trainer.precision=32-true", "trainer.accelerator=cpu",
    "optim.lr=2e-3",
]  # fmt: skip


def commands():
    page = (HOUSE / "docs" / "ibiohash.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    return [shlex.split(line) for line in lines]


def run(command, folder):
    assert command[:2] == ["python", "run.py"]
    small = SMALL if any(word.startswith("experiment=") for word in command) else []
    variables = {name: value for name, value in os.environ.items() if name not in ("DATA_DIR", "OUTPUT_DIR")}
    arguments = [sys.executable, str(HOUSE / "run.py"), *command[2:], *small]
    done = subprocess.run(arguments, cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_the_pages_commands_lead_to_valid_submissions(tmp_path):
    archive = write_archive(tmp_path / "data" / "iBioHash", per_class=60, classes=4)
    listed = commands()
    assert len(listed) == 8
    printed = [run(command, tmp_path) for command in listed]
    assert "240 images in 4 classes" in printed[0]
    folders = sorted((tmp_path / "outputs" / "ibiohash" / "submissions").iterdir())
    assert len(folders) == sum("mode=submit" in command for command in listed) == 3
    for folder in folders:
        files = [(folder / name).read_bytes() for name in ("submit_query.csv", "submit_gallery.csv", "submit.csv")]
        assert problems_of(*files, list(archive.query), list(archive.gallery)) == []
        assert 0 < json.loads((folder / "result.json").read_text())["metrics"]["test/map@20"] <= 1
        with np.load(folder / "gallery_codes.npz") as codes:
            assert codes["names"].tolist() == sorted(archive.gallery)
            assert codes["codes"].shape == (108, 1)
    own = tmp_path / "outputs" / "ibiohash" / "codes" / "own"
    for name in ("submit_query.csv", "submit_gallery.csv"):
        assert (own / name).read_bytes() == (folders[0] / name).read_bytes()
    encoded = tmp_path / "outputs" / "ibiohash" / "codes" / "Gallery" / "submit_gallery.csv"
    assert encoded.read_bytes() == (folders[0] / "submit_gallery.csv").read_bytes()
    trained = json.loads((tmp_path / "outputs" / "ibiohash" / "result.json").read_text())["metrics"]
    plain = json.loads((folders[0] / "result.json").read_text())["metrics"]
    assert plain["test/map@20"] == pytest.approx(trained["test/map@20"], abs=1e-9)
