"""Long fits say how far they are, and in quiet mode nothing."""

import itertools

import pytest
from problems import problem

from lit_modules.fewshot.clap import CLAP
from lit_modules.fewshot.inmap import InMaP
from lit_modules.fewshot.lpp import LPP
from lit_modules.fewshot.tip_adapter_f import TipAdapterF
from lit_modules.fewshot.transclip import TransCLIP
from records import console
from records.console import be_quiet

HEADS = [
    (LPP(epochs=6), "fitting LP++, epochs: 2 of 6, about 40 s left"),
    (CLAP(epochs=6), "fitting CLAP, epochs: 2 of 6, about 40 s left"),
    (TipAdapterF(epochs=6), "fitting Tip-Adapter-F, epochs: 2 of 6, about 40 s left"),
    (
        InMaP(iterations=6, tolerance=0),
        "fitting InMaP, which may stop earlier, steps: 2 of 6, about 40 s left",
    ),
    (TransCLIP(iterations=2, gammas=(0.02, 0.2)), "fitting TransCLIP, updates: 2 of 6, about 40 s left"),
]


@pytest.mark.parametrize(("head", "line"), HEADS, ids=lambda value: type(value).__name__)
def test_a_long_fit_says_how_far_it_is(head, line, monkeypatch, capsys):
    seconds = itertools.count(0, 10)
    monkeypatch.setattr(console.time, "monotonic", lambda: float(next(seconds)))
    problem().fit(head)
    assert capsys.readouterr().err.splitlines() == [line, line.replace("2 of 6, about 40", "5 of 6, about 10")]
    be_quiet(True)
    try:
        problem().fit(head)
    finally:
        be_quiet(False)
    assert capsys.readouterr().err == ""
