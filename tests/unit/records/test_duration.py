from records.duration import duration

SECONDS = (0.4, 59.4, 59.6, 90, 3600, 11100)


def test_times_in_words():
    told = ["0.4 s", "59.4 s", "1 min 0 s", "1 min 30 s", "1 h 0 min", "3 h 5 min"]
    assert [duration(seconds) for seconds in SECONDS] == told


def test_estimates_in_words():
    told = ["0 s", "59 s", "1 min", "2 min", "1 h 0 min", "3 h 5 min"]
    assert [duration(seconds, roughly=True) for seconds in SECONDS] == told
