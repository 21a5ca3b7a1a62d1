"""The commands of docs/own-data.md, in their order, on a folder of real images."""

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

HOUSE = Path(__file__).resolve().parents[2]

# a network and images for seconds in place of minutes; what the page teaches stays as it is
SMALL = ["model=tiny", "data.image_size=32", "data.num_workers=0", "trainer.max_epochs=4", "trainer.accelerator=cpu"]


def commands():
    page = (HOUSE / "docs" / "own-data.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    return [shlex.split(line) for line in lines]


def write_photos(folder, numbers):
    """Write digits into folders of two classes, called as the page calls them."""
    names = {0: "robin", 1: "wren"}
    digits = load_digits()
    rows = [("path", "label")]
    chosen = [number for number in np.flatnonzero(digits.target < 2) if number % 2 == numbers]
    for place, number in enumerate(chosen):
        bird = names[int(digits.target[number])]
        grey = np.rint(np.kron(digits.images[number], np.ones((5, 5))) * (255 / 16)).astype(np.uint8)
        (folder / bird).mkdir(parents=True, exist_ok=True)
        rows.append((f"{bird}/{place:03}.jpg", bird))
        Image.fromarray(grey).save(folder / rows[-1][0])
    # those that the page names
    for name in ("robin/001.jpg", "wren/007.jpg"):
        if not (folder / name).exists():
            Image.fromarray(grey).save(folder / name)
    with (folder / "images.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def run(command, folder):
    assert command[:2] == ["python", "run.py"]
    small = SMALL if any(word.startswith("task=") for word in command) else []
    words = [word for word in command[2:] if not (small and word.startswith("model="))]
    variables = {name: value for name, value in os.environ.items() if name not in ("DATA_DIR", "OUTPUT_DIR")}
    arguments = [sys.executable, str(HOUSE / "run.py"), *words, *small]
    done = subprocess.run(arguments, cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_the_pages_commands_lead_to_an_index(tmp_path):
    write_photos(tmp_path / "photos", 0)
    write_photos(tmp_path / "more_photos", 1)
    (tmp_path / "new_photos").mkdir()
    source = tmp_path / "photos" / "robin" / "001.jpg"
    (tmp_path / "new_photos" / "a.jpg").write_bytes(source.read_bytes())
    listed = commands()
    assert len(listed) == 8
    printed = [run(command, tmp_path) for command in listed]
    place = tmp_path / "outputs" / "photos"
    assert len(list((place / "searches").glob("*/gallery.png"))) == 2
    assert len(list((place / "predictions").glob("*/prediction.png"))) == 1
    assert "distance" in printed[1]
    assert "probability" in printed[2]
    codes = place / "codes" / "more_photos"
    names = (codes / "names.txt").read_text().splitlines()
    assert np.load(codes / "codes.npy").shape == (len(names), 1)
    (kept,) = codes.glob("index/*/names.txt")
    left = [name for name in names if name != "wren/007.jpg"]
    assert kept.read_text().splitlines() == [*left, str(tmp_path / "new_photos" / "a.jpg")]
