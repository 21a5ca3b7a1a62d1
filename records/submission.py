"""The result file of a recognition contest: the best classes of every image, one image a line, zipped.

A line is `image_7.jpg 12 3 44 0 91`: the file's name and class numbers, best first, separated by blanks (the fourth
Jittor challenge's format).
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from records.atomic_file import replace_atomically, write_text
from records.errors import UserError

CLASSES_PER_IMAGE = 5
RESULT_NAME = "result.txt"
SHOWN = 5


def write_submission(
    folder: Path,
    predictions: Mapping[str, Sequence[int]],
    images: Sequence[str],
    num_classes: int,
    per_image: int = CLASSES_PER_IMAGE,
) -> Path:
    """Check predictions, and write result.txt and result.zip, which holds it alone.

    Args:
        folder: where both are written.
        predictions: file name to class numbers, best first.
        images: every file name that must be there; lines follow this order.
        num_classes: class numbers lie in 0 .. num_classes - 1.
        per_image: classes of each image.

    Returns:
        path of the zip file.

    Raises:
        UserError: an image lacks or is too many, or a line has the wrong number of classes, a class twice or a number
            that is no class.
    """
    _refuse(_problems(predictions, images, num_classes, per_image), folder / RESULT_NAME)
    lines = [" ".join([name, *(str(int(number)) for number in predictions[name])]) for name in images]
    text = "\n".join(lines) + "\n"
    write_text(folder / RESULT_NAME, text)
    archive = (folder / RESULT_NAME).with_suffix(".zip")
    with replace_atomically(archive) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as content:
        # a fixed date: equal results are equal files
        content.writestr(zipfile.ZipInfo(RESULT_NAME), text, zipfile.ZIP_DEFLATED)
    return archive


def read_submission(
    file: Path, images: Sequence[str], num_classes: int, per_image: int = CLASSES_PER_IMAGE
) -> dict[str, list[int]]:
    """Read result.txt, or the zip file that holds it, and check it as `write_submission` does.

    Raises:
        UserError: it cannot be read, or does not fit.
    """
    predictions: dict[str, list[int]] = {}
    problems = []
    for number, line in enumerate(_text(file).splitlines(), start=1):
        name, *classes = line.split()
        if name in predictions:
            problems.append(f"line {number} names {name} again")
        if not all(one.isdecimal() for one in classes):
            problems.append(f"line {number} holds something that is no class number")
            continue
        predictions[name] = [int(one) for one in classes]
    _refuse([*problems, *_problems(predictions, images, num_classes, per_image)], file)
    return predictions


def _text(file: Path) -> str:
    try:
        if file.suffix != ".zip":
            return file.read_text(encoding="utf-8")
        with zipfile.ZipFile(file) as content:
            return content.read(RESULT_NAME).decode("utf-8")
    except (OSError, KeyError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as a submission: {error}") from error


def _problems(
    predictions: Mapping[str, Sequence[int]], images: Sequence[str], num_classes: int, per_image: int
) -> list[str]:
    wanted = set(images)
    problems = [f"{name} is missing" for name in images if name not in predictions]
    problems += [f"{name} is no image of the test part" for name in predictions if name not in wanted]
    for name, classes in predictions.items():
        if len(classes) != per_image:
            problems.append(f"{name} has {len(classes)} classes, not {per_image}")
        elif len(set(classes)) != per_image:
            problems.append(f"{name} names a class twice")
        elif not all(0 <= number < num_classes for number in classes):
            problems.append(f"{name} names a class outside 0 .. {num_classes - 1}")
    return problems


def _refuse(problems: Sequence[str], file: Path) -> None:
    if problems:
        more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise UserError(f"{file} is no valid submission: {'; '.join(problems[:SHOWN])}{more}")
