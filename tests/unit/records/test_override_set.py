import pytest

from records.override_set import joined, override_settings, retold, short_name, varying_keys


def test_settings_are_equal_whatever_their_order_and_quotes() -> None:
    first = override_settings(["seed=1", "data.root='a b'", "+note=x"])
    second = override_settings(['data.root="a b"', "note=x", "seed=1"])
    assert first == second == {"seed": "1", "data.root": "a b", "note": "x"}


def test_the_later_of_two_wins_and_what_belongs_to_the_sweep_is_left_out() -> None:
    overrides = [
        "seed=1",
        "seed=2",
        "sweep.slots=4",
        "hydra.verbose=true",
        "hydra/launcher=slots",
        "sweep=seeds",
        "quiet=true",
    ]
    assert override_settings(overrides) == {"seed": "2", "sweep": "seeds"}


@pytest.mark.parametrize(("override", "expected"), [("~callbacks.ema", {"~callbacks.ema": ""}), ("a=", {"a": ""})])
def test_deletions_and_empty_values_are_settings(override: str, expected: dict[str, str]) -> None:
    assert override_settings([override]) == expected


def test_what_is_said_again_is_left_out_and_what_is_taken_back_is_not() -> None:
    assert joined(["optim.lr=1", "+note=x"], ["optim.lr=2", "note=x"]) == ["optim.lr=1", "+note=x", "optim.lr=2"]
    back = joined(["optim.lr=1", "optim.lr=2"], ["optim.lr=1"])
    assert override_settings(back) == {"optim.lr": "1"}


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("+a=1", "+a=1"),
        ("++b.c=[1,2]", "++b.c=[1,2]"),
        ("~e", "~e"),
        ("row=GML\\ head", 'row="GML head"'),
        ("row='Focal, 5 epochs'", 'row="Focal, 5 epochs"'),
        ('row="Focal, 5 epochs"', 'row="Focal, 5 epochs"'),
        ("""row='say "a"'""", """row='say "a"'"""),
        ("row=a\\,b", "row=a\\,b"),
    ],
)
def test_an_override_is_told_as_it_can_be_typed_again(override: str, told: str) -> None:
    key = override.partition("=")[0].lstrip("+")
    assert retold(["row=first", override])[key] == told


def test_keys_vary_where_a_value_differs_or_is_missing() -> None:
    settings = [{"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "3"}]
    assert varying_keys(settings) == ["b", "c"]
    assert varying_keys([]) == []


def test_short_names_keep_the_last_part_of_a_key() -> None:
    assert short_name({"task.bits": "16", "seed": "1"}, ["task.bits", "optim.lr", "seed"]) == "bits=16 seed=1"
    assert short_name({"seed": "1"}, []) == ""


def test_short_names_round_the_numbers_of_a_search_and_nothing_else() -> None:
    settings = {"optim.lr": "0.0012520653814999472", "data.batch_size": "123456", "model": "cifar_resnet110"}
    assert short_name(settings, settings) == "lr=0.001252 batch_size=123456 model=cifar_resnet110"
