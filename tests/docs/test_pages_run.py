"""The code blocks of README.md and docs/ that are not marked otherwise, run in the order of their pages.

A page has a folder of its own, with the runs, images and files that its commands name; a page that writes files of the
project has a copy of the project. A training is run for one epoch, and nothing else of a command is changed.
"""

import importlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from code_blocks import CHINESE, HOUSE, PAGES, blocks_of
from PIL import Image
from sklearn.datasets import load_digits

pytestmark = pytest.mark.slow

# the reader's commands in these pages are run by tests of their own, on data made for them
RUN_BY_THEIR_OWN_TEST = {"docs/ibiohash.md": "test_ibiohash_page.py", "docs/own-data.md": "test_own_data.py"}
NOT_IN_A_COPY = (".git", ".venv", "outputs", "site", "wandb", "data")
"""Folders of the project that its files are not in."""
ONE_EPOCH = "trainer.max_epochs=1"
COPIES = {"outputs/RUN": "RUN"}


def is_run(block):
    return block.language in ("bash", "python") and block.kind in ("", "refused")


def pages_to_run():
    pages = [page for page in PAGES if page != CHINESE and any(is_run(block) for block in blocks_of(page))]
    return [page for page in pages if page.relative_to(HOUSE).as_posix() not in RUN_BY_THEIR_OWN_TEST]


def surroundings():
    variables = {name: value for name, value in os.environ.items() if name not in ("DATA_DIR", "OUTPUT_DIR")}
    return {**variables, "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}


class Server:
    """The process of command_server.py; each command is a fork of it, so that packages are imported once."""

    def __init__(self, folder):
        self.log = folder / "printed.txt"
        command = [sys.executable, str(HOUSE / "tests" / "docs" / "command_server.py")]
        self.process = subprocess.Popen(
            command, env=surroundings(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, arguments, folder):
        """Run `python run.py ARGUMENTS` in a folder; return its exit code and what it printed."""
        order = {"arguments": arguments, "folder": str(folder), "log": str(self.log)}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        code = int(self.process.stdout.readline())
        return code, self.log.read_text(encoding="utf-8")

    def close(self):
        self.process.stdin.close()
        self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.close()


def write_images(folder):
    digits = load_digits().images[:12]
    (folder / "FOLDER").mkdir()
    for number, image in enumerate(digits):
        grey = np.rint(np.kron(image, np.ones((5, 5))) * (255 / 16)).astype(np.uint8)
        Image.fromarray(grey).save(folder / "FOLDER" / f"{number:02}.jpg")
    shutil.copy(folder / "FOLDER" / "00.jpg", folder / "photo.jpg")


def write_features(file):
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(5, 16))
    arrays = {"text_features": centres}
    for part, size in (("train", 100), ("val", 50), ("test", 50)):
        labels = np.arange(size) % 5
        arrays[f"{part}_features"] = centres[labels] + 0.3 * generator.normal(size=(size, 16))
        arrays[f"{part}_labels"] = labels
    for name in [name for name in arrays if name.endswith("features")]:
        arrays[name] /= np.linalg.norm(arrays[name], axis=1, keepdims=True)
    np.savez(file, **arrays)


def write_weights(file):
    from lit_modules.backbones.backbone import build_backbone

    torch.save(build_backbone("own", "cifar_resnet32", False, 32).network.state_dict(), file)


def stop_in_the_middle(arguments, folder):
    """Train into DIR, and press Ctrl-C once there is a checkpoint: a run that can be gone on with, and used."""
    process = subprocess.Popen(
        [sys.executable, str(HOUSE / "run.py"), *arguments],
        cwd=folder,
        env=surroundings(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not (folder / "DIR" / "checkpoints" / "last.ckpt").exists():
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130


@pytest.fixture(scope="module")
def material(server, tmp_path_factory):
    """Make what pages call DIR, RUN, FOLDER, photo.jpg, FEATURES.npz and resnet32.pth."""
    folder = tmp_path_factory.mktemp("material")
    code, printed = server.run(["task=ce", ONE_EPOCH, "hydra.run.dir=RUN"], folder)
    assert code == 0, printed
    stop_in_the_middle(["trainer.max_epochs=4", "hydra.run.dir=DIR"], folder)
    write_images(folder)
    write_features(folder / "FEATURES.npz")
    write_weights(folder / "resnet32.pth")
    return folder


def copy_project(folder):
    caches = shutil.ignore_patterns("__pycache__", ".*_cache")
    top = set(NOT_IN_A_COPY)
    shutil.copytree(
        HOUSE, folder, ignore=lambda path, names: caches(path, names) | (top if path == str(HOUSE) else set())
    )


@pytest.fixture
def place(request, material, tmp_path):
    """Make the page's folder: a copy of the project where it writes files of it, and the material that it names."""
    page = request.getfixturevalue("page")
    folder = tmp_path / "page"
    if any(block.kind == "file" for block in blocks_of(page)):
        copy_project(folder)
    else:
        folder.mkdir()
    text = "\n".join(block.text for block in blocks_of(page) if is_run(block))
    for name in (*(path.name for path in material.iterdir()), *COPIES):
        source, target = material / COPIES.get(name, name), folder / name
        if Path(name).parts[0] in text and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    return folder


def budget_of(arguments):
    """Return what shortens a command: one epoch where it trains, and it alone may."""
    others = ("mode=", "run=", "debug=", "--", "sweep.resume=")
    return [] if any(word.startswith(others) for word in arguments) else [ONE_EPOCH]


def run_command(words, folder, server):
    assert words[0] == "python", words
    if words[1] != "run.py":
        return run_process(words[1:], folder)
    arguments = [*words[2:], *budget_of(words[2:])]
    if (folder / "run.py").exists():
        return run_process(["run.py", *arguments], folder)
    return server.run(arguments, folder)


def run_process(arguments, folder):
    # no configuration of the tests around: a copy of the project has its own
    variables = {name: value for name, value in surroundings().items() if not name.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**variables, "PYTHONPATH": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", pages_to_run(), ids=lambda page: page.relative_to(HOUSE).as_posix())
def test_the_blocks_of_a_page_run(page, place, server):
    for block in blocks_of(page):
        if block.kind == "file":
            (place / block.argument).parent.mkdir(parents=True, exist_ok=True)
            (place / block.argument).write_text(block.text, encoding="utf-8")
        if not is_run(block):
            continue
        commands = block.commands if block.is_shell else [["python", "-c", block.text]]
        for words in commands:
            code, printed = run_command(words, place, server)
            wanted = 2 if block.kind == "refused" else 0
            assert code == wanted, f"{block.place}: {shlex.join(words)}\n{printed}"


@pytest.mark.parametrize(("page", "test"), RUN_BY_THEIR_OWN_TEST.items())
def test_other_pages_have_a_test_that_runs_every_command_of_them(page, test, tmp_path, monkeypatch):
    own = importlib.import_module(test.removesuffix(".py"))
    (body,) = [value for name, value in vars(own).items() if name.startswith("test_the_pages_commands")]
    run = []

    class AllHaveRunError(Exception):
        pass

    def note(command, folder):
        run.append(command)
        if len(run) == len(wanted):
            raise AllHaveRunError
        return ""

    wanted = [words for block in blocks_of(HOUSE / page) if is_run(block) for words in block.commands]
    assert wanted
    monkeypatch.setattr(own, "run", note)
    with pytest.raises(AllHaveRunError):
        body(tmp_path)
    assert run == wanted
