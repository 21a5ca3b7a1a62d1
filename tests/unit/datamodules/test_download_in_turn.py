import multiprocessing
import time

from datamodules.files import cifar_files
from datamodules.files.cifar_files import CIFAR10_PYTHON, ensure_files

PROCESSES = 4


def fetch_and_count(root, distribution):
    """Stand in for a download: it takes a while, and leaves a line for each time that it is done."""
    with (root / "downloads").open("a") as file:
        file.write("one\n")
    time.sleep(0.3)
    aside = root / ".download-aside"
    aside.mkdir()
    for name in distribution.files:
        (aside / name).touch()
    aside.rename(root / distribution.folder)


def wait_and_ensure(root, barrier, found):
    cifar_files._download = fetch_and_count
    barrier.wait()
    found.put(ensure_files(root, [CIFAR10_PYTHON], download=True).folder)


def test_of_many_processes_one_downloads_and_the_others_wait(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, found = context.Barrier(PROCESSES), context.Queue()
    processes = [context.Process(target=wait_and_ensure, args=(tmp_path, barrier, found)) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    assert [found.get(timeout=30) for _ in processes] == [CIFAR10_PYTHON.folder] * PROCESSES
    for process in processes:
        process.join()
    assert (tmp_path / "downloads").read_text() == "one\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == [CIFAR10_PYTHON.folder, "downloads"]
