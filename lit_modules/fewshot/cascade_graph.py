"""The graph of a cascade: which stage judges which classes by which encoders, and where its images go next."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from records.errors import UserError

Calibration = Literal["softmax", "zscore", "none"]
OUTSIDE = -1.0e4
"""Where the logits begin of classes that the last stage does not judge: below all of its own, and without weight."""
LEAST_LOG_PROBABILITY = -1.0e3
OWN_GROUPS = ("all", "seen", "unseen")
STAGE_KEYS = ("head", "classes", "encoders", "calibration", "routes")
ROUTE_KEYS = ("to", "when", "above", "below")


@dataclass(frozen=True)
class Route:
    """Where an image goes whose best class is in the group `when`, at a confidence of `above` to `below`, both in."""

    to: str
    when: str = "all"
    above: float = 0.0
    below: float = 1.0


@dataclass(frozen=True)
class Stage:
    """A node of the graph.

    Attributes:
        name: its name.
        classes: the group of classes that it judges.
        encoders: the encoders whose scores it adds, and the share of each, above 0.
        calibration: what is done to the scores of each encoder first, see `combine`.
        routes: tried in their order; the first that fits sends the image on, and it ends here where none does.
    """

    name: str
    classes: str
    encoders: Mapping[str, float]
    calibration: Calibration
    routes: tuple[Route, ...]


@dataclass(frozen=True)
class Graph:
    """Stages in an order in which each comes after all that lead to it; images start at the first."""

    stages: tuple[Stage, ...]

    @property
    def entry(self) -> Stage:
        """The stage that every image comes to."""
        return self.stages[0]

    @property
    def text(self) -> str:
        """The graph in one line."""
        return "; ".join(
            f"{stage.name} ({stage.classes})" + "".join(f" -> {route.to} if {route.when}" for route in stage.routes)
            for stage in self.stages
        )

    def number(self, name: str) -> int:
        """Return the place of a stage."""
        return [stage.name for stage in self.stages].index(name)


def read_graph(nodes: Mapping[str, Mapping[str, Any]], groups: Sequence[str], entry: str) -> Graph:
    """Read the stages of a configuration, `task.graph`, and put them in order.

    Args:
        nodes: name to settings of `Stage`, and the stage's `head`.
        groups: names of the groups of classes.
        entry: the first stage.

    Raises:
        UserError: unknown keys or names, shares or limits out of range, a circle, or a stage that no image comes to.
    """
    stages = {name: _read_stage(name, node, groups) for name, node in nodes.items()}
    if entry not in stages:
        raise UserError(f"task.entry={entry} is no stage; the choices are {', '.join(stages)}{_near(entry, stages)}")
    for stage in stages.values():
        for place, route in enumerate(stage.routes):
            if route.to not in stages:
                raise UserError(
                    f"task.graph.{stage.name}.routes[{place}].to={route.to} is no stage; the choices are "
                    f"{', '.join(stages)}{_near(route.to, stages)}"
                )
    graph = Graph(tuple(stages[name] for name in _ordered(stages, entry)))
    lost = [name for name in stages if name not in {stage.name for stage in graph.stages}]
    if lost:
        raise UserError(f"task.graph.{lost[0]}: no route leads to this stage; add one, or take the stage out (=null)")
    return graph


def class_groups(
    class_names: Sequence[str], class_counts: Sequence[int], prefixes: Mapping[str, Sequence[str]]
) -> dict[str, Tensor]:
    """Return group to positions int64 of its classes: `all`, `seen`, `unseen`, and those named by prefixes.

    Args:
        class_names: C names.
        class_counts: C numbers of support images; a class without any is unseen.
        prefixes: group to beginnings of class names.

    Raises:
        UserError: a group takes the name of one of the three, or a beginning fits no class.
    """
    counts = torch.tensor(class_counts)
    groups = {"all": torch.arange(len(class_names)), "seen": counts.nonzero()[:, 0]}
    groups["unseen"] = (counts == 0).nonzero()[:, 0]
    for name, beginnings in prefixes.items():
        if name in OWN_GROUPS:
            raise UserError(f"task.groups.{name}: this group is there already, with a meaning of its own; rename it")
        for beginning in beginnings:
            if not any(one.startswith(beginning) for one in class_names):
                shown = ", ".join(class_names[:5])
                raise UserError(f"task.groups.{name}: no class begins with {beginning!r}; the first are {shown}")
        chosen = [number for number, one in enumerate(class_names) if one.startswith(tuple(beginnings))]
        groups[name] = torch.tensor(chosen, dtype=torch.int64)
    return groups


def combine(scores: Sequence[Tensor], shares: Sequence[float], calibration: Calibration) -> Tensor:
    """Return logits (N, C) of several encoders' scores (N, C), each calibrated before they are added.

    `softmax` adds probabilities, and gives their logarithm; `zscore` adds scores whose mean over an image's classes is
    0 and whose standard deviation is 1; `none` adds them as they are. Shares are divided by their sum.

    Raises:
        ValueError: an unknown calibration.
    """
    weights = [share / sum(shares) for share in shares]
    if calibration == "softmax":
        terms = [
            score.double().log_softmax(dim=-1) + torch.tensor(w).double().log() for score, w in _pairs(scores, weights)
        ]
        return torch.stack(terms).logsumexp(dim=0)
    if calibration == "zscore":
        return torch.stack([w * _standardised(score.double()) for score, w in _pairs(scores, weights)]).sum(dim=0)
    if calibration == "none":
        return torch.stack([w * score.double() for score, w in _pairs(scores, weights)]).sum(dim=0)
    raise ValueError(f"calibration is {calibration!r}; the choices are {', '.join(get_args(Calibration))}")


def next_stages(logits: Tensor, classes: Tensor, stage: Stage, graph: Graph, groups: Mapping[str, Tensor]) -> Tensor:
    """Return the number of the stage that each image goes to, int64 (N,); -1 where it ends.

    Args:
        logits: (N, c) of the stage's classes.
        classes: int64 (c,), their numbers among all.
        stage: the stage.
        graph: the graph.
        groups: group to positions of classes.
    """
    confidence, place = logits.softmax(dim=-1).max(dim=-1)
    best = classes.to(place.device)[place]
    goal = torch.full_like(best, -1)
    for route in reversed(stage.routes):
        inside = torch.isin(best, groups[route.when].to(best.device))
        fits = inside & (confidence >= route.above) & (confidence <= route.below)
        goal = torch.where(fits, graph.number(route.to), goal)
    return goal


def overlay(before: Tensor | None, logits: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """Return log-probabilities (N, C) over all classes: a stage's own, and far below them what came before.

    So a ranking goes on, behind the stage's classes, in the order of the stage before; probabilities do not notice.
    Without a stage before, the other classes have -inf.

    Args:
        before: (N, C) of the stage before; None for the first.
        logits: (N, c) of the stage.
        classes: int64 (c,), the numbers of its classes.
        num_classes: C.
    """
    own = logits.double().log_softmax(dim=-1).clamp(min=LEAST_LOG_PROBABILITY)
    if before is None:
        lower = own.new_full((len(own), num_classes), -torch.inf)
    else:
        lower = OUTSIDE + before.log_softmax(dim=-1)
    return lower.index_copy(1, classes.to(own.device), own)


def _read_stage(name: str, node: Mapping[str, Any], groups: Sequence[str]) -> Stage:
    key = f"task.graph.{name}"
    if not name.isidentifier() or name.endswith(("_low", "_high")):
        raise UserError(f"{key}: a stage is named by letters, digits and _, not ending in _low or _high")
    _refuse_unknown(key, node, STAGE_KEYS)
    stage = Stage(
        name=name,
        classes=str(node.get("classes", "all")),
        encoders={encoder: float(share) for encoder, share in node["encoders"].items() if share is not None},
        calibration=node.get("calibration", "softmax"),
        routes=tuple(_read_route(f"{key}.routes[{place}]", one) for place, one in enumerate(node.get("routes") or [])),
    )
    if not stage.encoders or min(stage.encoders.values()) <= 0:
        raise UserError(f"{key}.encoders={dict(stage.encoders)}: encoder to share, one at least, each share above 0")
    if stage.calibration not in get_args(Calibration):
        choices = ", ".join(get_args(Calibration))
        raise UserError(f"{key}.calibration={stage.calibration} is no choice; the choices are {choices}")
    for where, group in [(f"{key}.classes", stage.classes), *((f"{key}.routes", route.when) for route in stage.routes)]:
        if group not in groups:
            raise UserError(f"{where}: {group} is no group; the choices are {', '.join(groups)}{_near(group, groups)}")
    return stage


def _read_route(key: str, node: Mapping[str, Any]) -> Route:
    _refuse_unknown(key, node, ROUTE_KEYS)
    if "to" not in node:
        raise UserError(f"{key} says not where to: add to: STAGE")
    route = Route(**node)
    if not 0 <= route.above <= route.below <= 1:
        raise UserError(f"{key}: above={route.above} and below={route.below}; 0 <= above <= below <= 1")
    return route


def _refuse_unknown(key: str, node: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in node:
        if name not in known:
            raise UserError(f"{key}.{name} is no key; the choices are {', '.join(known)}{_near(str(name), known)}")


def _near(name: str, choices: Sequence[str] | Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, list(choices), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _ordered(stages: Mapping[str, Stage], entry: str) -> list[str]:
    """Return the stages that can be reached, each behind all that lead to it."""
    done: list[str] = []
    open_now: list[str] = []

    def visit(name: str) -> None:
        if name in done:
            return
        if name in open_now:
            circle = " -> ".join([*open_now[open_now.index(name) :], name])
            raise UserError(f"task.graph goes in a circle: {circle}; an image would never come to an end")
        open_now.append(name)
        for route in stages[name].routes:
            visit(route.to)
        open_now.pop()
        done.append(name)

    visit(entry)
    return done[::-1]


def _standardised(scores: Tensor) -> Tensor:
    centred = scores - scores.mean(dim=-1, keepdim=True)
    deviation = centred.square().mean(dim=-1, keepdim=True).sqrt()
    return centred / deviation.clamp(min=torch.finfo(scores.dtype).tiny)


def _pairs(scores: Sequence[Tensor], weights: Sequence[float]) -> list[tuple[Tensor, float]]:
    return list(zip(scores, weights, strict=True))
