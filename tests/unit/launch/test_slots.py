"""One machine shared out among jobs that run side by side."""

import pytest

from launch.slots import THREAD_VARIABLES, share_out, visible_gpus


@pytest.mark.parametrize(
    ("slots", "gpus", "expected"),
    [
        (2, ["0", "1"], ["0", "1"]),
        (2, ["0", "1", "2", "3"], ["0,1", "2,3"]),
        (2, ["4", "5", "6"], ["4", "5"]),
        (3, ["GPU-a", "GPU-b"], ["GPU-a", "GPU-b", "GPU-a"]),
        (2, [], [None, None]),
    ],
)
def test_gpus_are_shared_out_evenly_and_by_turns_where_there_are_too_few(slots, gpus, expected):
    assert [slot.get("CUDA_VISIBLE_DEVICES") for slot in share_out(slots, gpus, 8, {})] == expected


@pytest.mark.parametrize(("slots", "cores", "threads"), [(1, 8, "8"), (3, 8, "2"), (4, 2, "1")])
def test_cores_are_shared_out_one_at_least(slots, cores, threads):
    for slot in share_out(slots, [], cores, {}):
        assert slot == dict.fromkeys(THREAD_VARIABLES, threads)


def test_a_number_of_threads_that_the_user_chose_stays():
    (slot,) = share_out(1, [], 8, {"OMP_NUM_THREADS": "5"})
    assert "OMP_NUM_THREADS" not in slot
    assert slot["MKL_NUM_THREADS"] == "8"


@pytest.mark.parametrize(
    ("given", "expected"), [("2,3", ["2", "3"]), ("", []), ("-1", []), (" 1 , GPU-x", ["1", "GPU-x"])]
)
def test_visible_gpus_are_those_of_the_environment(given, expected):
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": given}) == expected


def test_without_a_driver_there_is_no_gpu(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert visible_gpus({}) == []
