"""Sentences about classes: names made readable, and the templates that are filled with them.

Sources: the 7 and the 80 templates are OpenAI's for ImageNet (openai/CLIP, notebooks/Prompt_Engineering_for_ImageNet,
and its list of the best subset); one template per data set: CoOp, trainers/zsclip.py. Templates are data: they decide
figures, so they are given as they were published.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from records.errors import UserError
from records.notices import RunWarning

SINGLE = ("a photo of a {}.",)

BEST_SEVEN = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)

IMAGENET_80 = (
    "a bad photo of a {}.",
    "a photo of many {}.",
    "a sculpture of a {}.",
    "a photo of the hard to see {}.",
    "a low resolution photo of the {}.",
    "a rendering of a {}.",
    "graffiti of a {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a tattoo of a {}.",
    "the embroidered {}.",
    "a photo of a hard to see {}.",
    "a bright photo of a {}.",
    "a photo of a clean {}.",
    "a photo of a dirty {}.",
    "a dark photo of the {}.",
    "a drawing of a {}.",
    "a photo of my {}.",
    "the plastic {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a painting of the {}.",
    "a painting of a {}.",
    "a pixelated photo of the {}.",
    "a sculpture of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a plastic {}.",
    "a photo of the dirty {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a rendering of the {}.",
    "a {} in a video game.",
    "a photo of one {}.",
    "a doodle of a {}.",
    "a close-up photo of the {}.",
    "a photo of a {}.",
    "the origami {}.",
    "the {} in a video game.",
    "a sketch of a {}.",
    "a doodle of the {}.",
    "a origami {}.",
    "a low resolution photo of a {}.",
    "the toy {}.",
    "a rendition of the {}.",
    "a photo of the clean {}.",
    "a photo of a large {}.",
    "a rendition of a {}.",
    "a photo of a nice {}.",
    "a photo of a weird {}.",
    "a blurry photo of a {}.",
    "a cartoon {}.",
    "art of a {}.",
    "a sketch of the {}.",
    "a embroidered {}.",
    "a pixelated photo of a {}.",
    "itap of the {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
    "a plushie {}.",
    "a photo of the nice {}.",
    "a photo of the small {}.",
    "a photo of the weird {}.",
    "the cartoon {}.",
    "art of the {}.",
    "a drawing of the {}.",
    "a photo of the large {}.",
    "a black and white photo of a {}.",
    "the plushie {}.",
    "a dark photo of a {}.",
    "itap of a {}.",
    "graffiti of the {}.",
    "a toy {}.",
    "itap of my {}.",
    "a photo of a cool {}.",
    "a photo of a small {}.",
    "a tattoo of the {}.",
)

TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "single": SINGLE,
    "seven": BEST_SEVEN,
    "imagenet80": IMAGENET_80,
    "name": ("{}",),
}
"""Template sets that fit any data."""

DATASET_TEMPLATES: Mapping[str, str] = {
    "imagenet": "a photo of a {}.",
    "caltech101": "a photo of a {}.",
    "oxford_pets": "a photo of a {}, a type of pet.",
    "stanford_cars": "a photo of a {}.",
    "oxford_flowers": "a photo of a {}, a type of flower.",
    "food101": "a photo of {}, a type of food.",
    "fgvc_aircraft": "a photo of a {}, a type of aircraft.",
    "sun397": "a photo of a {}.",
    "dtd": "{} texture.",
    "eurosat": "a centered satellite photo of {}.",
    "ucf101": "a photo of a person doing {}.",
}
"""The one template of each standard data set."""


def templates_of(choice: str, dataset: str | None = None) -> tuple[str, ...]:
    """Return the templates that a setting names.

    Args:
        choice: "single", "seven", "imagenet80", "name" (the bare name), "dataset" (the one of `dataset`), or a text
            file with one template a line, each with one {} for the name.
        dataset: name of the data set, for "dataset"; "single" where it has no template of its own.

    Raises:
        UserError: the choice is unknown, or the file is missing, empty or has a line without {}.
    """
    if choice == "dataset":
        return (DATASET_TEMPLATES.get(dataset or "", SINGLE[0]),)
    if choice in TEMPLATES:
        return TEMPLATES[choice]
    path = Path(choice).expanduser()
    if not path.is_file():
        raise UserError(
            f"data.templates is {choice!r}; the choices are {', '.join([*TEMPLATES, 'dataset'])}, or a text file with "
            "one template a line"
        )
    return _read_templates(path)


def _read_templates(path: Path) -> tuple[str, ...]:
    lines = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    for line in lines:
        if line.count("{}") != 1:
            raise UserError(f"data.templates={path}: the line {line!r} needs one {{}} for the name of the class")
    if not lines:
        raise UserError(
            f"data.templates={path} is empty; write one template a line, with {{}} for the name of the class"
        )
    return lines


def readable_name(name: str) -> str:
    """Return a class name as words: underscores are blanks, runs of blanks one."""
    return " ".join(name.replace("_", " ").split())


def readable_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return class names as words, and say where text cannot tell classes apart.

    Names that are not ASCII are kept as they are: tokenizers take any Unicode, but CLIP has read little but English,
    which a `RunWarning` says with the count. Equal names give equal text features, which is warned of too: ImageNet's
    own list has such pairs.

    Raises:
        UserError: a name is empty.
    """
    readable = tuple(readable_name(name) for name in names)
    empty = [position for position, name in enumerate(readable) if not name]
    if empty:
        raise UserError(f"class {empty[0]} has an empty name ({names[empty[0]]!r}); text needs a word for each class")
    _warn_of("are equal for the text encoder, which gives these classes one and the same feature", _repeated(readable))
    foreign = [name for name in readable if not name.isascii()]
    _warn_of("are not ASCII; CLIP's text encoders know little but English", foreign)
    return readable


def _repeated(names: Sequence[str]) -> list[str]:
    counts = Counter(name.casefold() for name in names)
    return [name for name in names if counts[name.casefold()] > 1]


def _warn_of(problem: str, names: Sequence[str]) -> None:
    if names:
        shown = ", ".join(repr(name) for name in names[:5]) + (", ..." if len(names) > 5 else "")
        warnings.warn(f"{len(names)} class names {problem}: {shown}", RunWarning, stacklevel=4)


def prompts(names: Sequence[str], templates: Sequence[str]) -> list[list[str]]:
    """Fill each template with each name: one list of sentences per class."""
    return [[template.replace("{}", name) for template in templates] for name in names]
