"""A cascade on real CLIP features: 403 ImageNet classes, 374 of them seen, 118 breeds of dogs for the expert.

CLIP_FEATURES names a folder with imagenet.npz (train1_x, train1_y, train2_x, ..., unit features of draws of one, two
and four images per class) and imagenet_text.npz (text, one embedding per class). The draw of four is the support, the
two others are judged. `-s` prints the figures.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lit_modules.fewshot.cascade import Cascade, Source
from lit_modules.fewshot.cascade_graph import class_groups, read_graph
from lit_modules.fewshot.gda import GDA
from lit_modules.fewshot.head import FewShotHead
from lit_modules.fewshot.inmap import InMaP
from lit_modules.fewshot.lpp import LPP
from lit_modules.fewshot.zeroshot import ZeroShot

FOLDER = os.environ.get("CLIP_FEATURES")
DOGS = range(151, 269)
SEEN, UNSEEN = 374, 29
NEAR_DUPLICATE = 0.98

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER, reason="CLIP_FEATURES names no folder with CLIP features of ImageNet"),
]


def read(name, numbers):
    """Features and labels of a draw, of the classes with these numbers, renumbered from 0."""
    arrays = np.load(Path(str(FOLDER)) / "imagenet.npz")
    features, labels = arrays[f"{name}_x"].astype(np.float32), arrays[f"{name}_y"].astype(np.int64)
    place = {number: new for new, number in enumerate(numbers)}
    rows = [row for row, label in enumerate(labels) if label in place]
    return F.normalize(torch.from_numpy(features[rows]), dim=1), torch.tensor([place[label] for label in labels[rows]])


@pytest.fixture(scope="module")
def problem():
    others = [number for number in range(1000) if number not in DOGS]
    drawn = np.random.default_rng(0).permutation(others)[: SEEN + UNSEEN - len(DOGS)].tolist()
    split = SEEN - len(DOGS)
    numbers = [*drawn[:split], *DOGS, *drawn[split:]]
    support, labels = read("train4", numbers)
    support, labels = support[labels < SEEN], labels[labels < SEEN]
    parts = [read(name, numbers) for name in ("train1", "train2")]
    images, truth = (torch.cat(one) for one in zip(*parts, strict=True))
    new = torch.maximum((images @ support.T).amax(dim=1), (images @ images.T).tril(-1).amax(dim=1)) <= NEAR_DUPLICATE
    text = np.load(Path(str(FOLDER)) / "imagenet_text.npz")["text"].astype(np.float32)[numbers]
    names = tuple(f"dog_{number}" if number in DOGS else f"other_{number}" for number in numbers)
    source = Source(support, F.normalize(torch.from_numpy(text), dim=1), images[new], None)
    return names, source, labels, truth[new]


def stages(first: FewShotHead, **heads: FewShotHead):
    graph = {
        "zero_shot": {"encoders": {"model": 1}, "routes": [{"to": "few_shot", "when": "seen"}] if heads else []},
        "few_shot": {"classes": "seen", "encoders": {"model": 1}, "routes": [{"to": "expert", "when": "dogs"}]},
        "expert": {"classes": "dogs", "encoders": {"model": 1}},
    }
    if "expert" not in heads:
        graph["few_shot"]["routes"] = []
    return {name: node for name, node in graph.items() if name in {"zero_shot", *heads}}, {"zero_shot": first, **heads}


def judged(problem, first, **heads):
    names, source, labels, truth = problem
    nodes, heads = stages(first, **heads)
    counts = torch.bincount(labels, minlength=len(names)).tolist()
    groups = class_groups(names, counts, {"dogs": ["dog_"]})
    cascade = Cascade(read_graph(nodes, list(groups), "zero_shot"), heads, groups, len(names))
    cascade.fit({"model": source}, labels)
    right = (cascade.predict(source.unlabelled).argmax(dim=1) == truth).double()
    seen = truth < SEEN
    found = {"all": right.mean(), "seen": right[seen].mean(), "unseen": right[~seen].mean()}
    found = {name: 100 * float(value) for name, value in found.items()}
    print(f"\n{' -> '.join(nodes)}, first {type(first).__name__}:", {key: round(one, 1) for key, one in found.items()})
    return found


@pytest.fixture(scope="module")
def found(problem):
    """What each cascade reaches, in percent."""
    return {
        "zero-shot": judged(problem, ZeroShot()),
        "zero-shot, LP++": judged(problem, ZeroShot(), few_shot=LPP()),
        "zero-shot, LP++, GDA": judged(problem, ZeroShot(), few_shot=LPP(), expert=GDA()),
        "InMaP": judged(problem, InMaP()),
        "InMaP, LP++": judged(problem, InMaP(), few_shot=LPP()),
    }


def test_a_few_shot_stage_adds_to_zero_shot(found):
    assert found["zero-shot, LP++"]["seen"] > found["zero-shot"]["seen"] + 2
    assert found["InMaP"]["all"] > found["zero-shot"]["all"] + 2


def test_what_is_unseen_is_the_first_stages_alone(found):
    assert found["zero-shot, LP++"]["unseen"] == found["zero-shot"]["unseen"]
    assert found["zero-shot, LP++, GDA"]["unseen"] == found["zero-shot"]["unseen"]
    assert found["InMaP, LP++"]["unseen"] == found["InMaP"]["unseen"] > found["zero-shot"]["unseen"]


def test_few_shot_alone_knows_no_unseen_class(problem, found):
    names, source, labels, truth = problem
    head = LPP()
    head.fit(source.support, labels, source.text, None, None, len(names))
    right = (head.predict(source.unlabelled).argmax(dim=1) == truth).double()
    alone = {
        part: 100 * float(right[chosen].mean()) for part, chosen in (("seen", truth < SEEN), ("unseen", truth >= SEEN))
    }
    print("\nLP++ over all classes:", {key: round(one, 1) for key, one in alone.items()})
    assert alone["unseen"] < found["zero-shot"]["unseen"] / 2
