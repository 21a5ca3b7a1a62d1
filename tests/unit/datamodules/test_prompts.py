from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from datamodules.encoded.prompts import (
    BEST_SEVEN,
    DATASET_TEMPLATES,
    IMAGENET_80,
    prompts,
    readable_name,
    readable_names,
    templates_of,
)
from records.errors import UserError
from records.notices import RunWarning


def test_every_template_has_one_place_for_the_name() -> None:
    assert (len(BEST_SEVEN), len(IMAGENET_80), len(set(IMAGENET_80)), len(DATASET_TEMPLATES)) == (7, 80, 80, 11)
    for template in (*BEST_SEVEN, *IMAGENET_80, *DATASET_TEMPLATES.values()):
        assert template.count("{}") == 1


def test_templates_by_choice(tmp_path: Path) -> None:
    assert templates_of("single") == ("a photo of a {}.",)
    assert templates_of("seven") == BEST_SEVEN
    assert templates_of("imagenet80") == IMAGENET_80
    assert templates_of("dataset", "dtd") == ("{} texture.",)
    assert templates_of("dataset", "my_images") == ("a photo of a {}.",)
    file = tmp_path / "own.txt"
    file.write_text("ein Foto: {}\n\n  {} im Bild\n", encoding="utf-8")
    assert templates_of(str(file)) == ("ein Foto: {}", "{} im Bild")


@pytest.mark.parametrize(
    ("content", "message"), [("", "is empty"), ("no place\n", "needs one"), ("{} {}\n", "needs one")]
)
def test_a_file_of_templates_is_checked(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "own.txt").write_text(content)
    with pytest.raises(UserError, match=message):
        templates_of(str(tmp_path / "own.txt"))
    with pytest.raises(UserError, match="the choices are single, seven, imagenet80, name, dataset"):
        templates_of("eighty")


def test_prompts_fill_every_template_with_every_name() -> None:
    assert prompts(["a {x}", "b"], ["1 {}", "{} 2"]) == [["1 a {x}", "a {x} 2"], ["1 b", "b 2"]]


def test_names_become_words() -> None:
    assert readable_name("golden__retriever _dog ") == "golden retriever dog"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert readable_names(["hot_dog", "cat"]) == ("hot dog", "cat")


def test_names_that_text_cannot_tell_apart_are_said_and_kept() -> None:
    with pytest.warns(RunWarning, match=r"2 class names are equal for the text encoder.*'maillot', 'Maillot'"):
        assert readable_names(["maillot", "Maillot", "cat"]) == ("maillot", "Maillot", "cat")
    with pytest.warns(RunWarning, match=r"1 class names are not ASCII.*'Käfer'"):
        assert readable_names(["Käfer", "cat"]) == ("Käfer", "cat")
    with pytest.raises(UserError, match="class 1 has an empty name"):
        readable_names(["cat", "_"])
