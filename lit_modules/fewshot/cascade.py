"""A cascade of few-shot heads: each stage judges its classes and keeps an image or sends it on. Transductive.

Made for open domains, where a transductive zero-shot stage over all classes answers images of unseen ones, a few-shot
stage over the seen classes the rest, and an expert those of one group. The graph is configuration
(`lit_modules/fewshot/cascade_graph.py`). The idea is that of the contest entry Daheilou/jittor-few-shot-clip-B.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lit_modules.backbones.backbone import Backbone
from lit_modules.base import Batch, LabelSpace
from lit_modules.fewshot.base import FewShotModule
from lit_modules.fewshot.cascade_graph import (
    OWN_GROUPS,
    Graph,
    Stage,
    class_groups,
    combine,
    next_stages,
    overlay,
    read_graph,
)
from lit_modules.fewshot.encoder_parameters import EncoderSize, parameter_report
from lit_modules.fewshot.head import FewShotHead, State
from lit_modules.metrics.per_class import ClassRecognition
from lit_modules.metrics.stage_counts import StageCounts
from lit_modules.optimization import Optimization
from records.errors import UserError

MODEL = "model"
"""What the run's own backbone, `model=`, is called among the encoders; features from a file are called so too."""
WIDTH = "width"


@dataclass(frozen=True)
class Source:
    """What one encoder makes of the data: the arguments of `FewShotHead.fit`, over all classes."""

    support: Tensor
    text: Tensor | None
    unlabelled: Tensor | None
    validation: Tensor | None

    @property
    def width(self) -> int:
        """Width D of the features."""
        return self.support.shape[-1]


@dataclass(frozen=True)
class Trace:
    """What became of N images in a cascade of S stages.

    Attributes:
        logits: float64 (N, C), of the stage that answered and, far below, of those before; see `overlay`.
        answered: int64 (N,), number of the stage that answered.
        guesses: int64 (S, N), the best class at each stage; -1 where the image did not come to it.
    """

    logits: Tensor
    answered: Tensor
    guesses: Tensor


class Cascade(nn.Module):
    """Heads in a graph, one for each stage and encoder; free of Lightning.

    Features come side by side, (N, D1 + D2 + ...), in the order of the sources that were fitted.

    Args:
        graph: the stages.
        heads: one head for each stage, copied for each of its encoders.
        groups: group to positions of classes.
        num_classes: C.

    Raises:
        UserError: a transductive head behind the entry, one that asks for the labels of the test part, or a stage
            without classes.
    """

    def __init__(
        self, graph: Graph, heads: Mapping[str, FewShotHead], groups: Mapping[str, Tensor], num_classes: int
    ) -> None:
        super().__init__()
        self.graph = graph
        self.groups = dict(groups)
        self.num_classes = num_classes
        self.heads = nn.ModuleDict(
            {f"{s.name}:{encoder}": copy.deepcopy(heads[s.name]) for s in graph.stages for encoder in s.encoders}
        )
        self.widths: dict[str, int] = {}
        for stage in graph.stages:
            self._check_stage(stage)

    def _check_stage(self, stage: Stage) -> None:
        if not len(self.groups[stage.classes]):
            raise UserError(f"task.graph.{stage.name}.classes={stage.classes}: the data have no class of this group")
        head = self._head(stage, next(iter(stage.encoders)))
        if getattr(head, "selects_on_test", False):
            raise UserError(
                f"task.graph.{stage.name}.head.selection=test_leak: a cascade shows no head the labels of the test "
                "part; take validation or last"
            )
        if stage != self.graph.entry and head.transductive:
            raise UserError(
                f"task.graph.{stage.name}.head is transductive, and only a part of the images comes to this stage; "
                f"such a head belongs to task.entry={self.graph.entry.name}"
            )

    def _head(self, stage: Stage, encoder: str) -> FewShotHead:
        head = self.heads[f"{stage.name}:{encoder}"]
        assert isinstance(head, FewShotHead)
        return head

    @property
    def transductive(self) -> bool:
        """Whether the fit looked at the unlabelled images that are judged."""
        return any(getattr(head, "transductive", False) for head in self.heads.values())

    @property
    def facts(self) -> dict[str, float]:
        """The heads' settings and scores that are one number each, as STAGE.ENCODER.NAME."""
        return {
            f"{stage.name}.{encoder}.{name}": value
            for stage in self.graph.stages
            for encoder in stage.encoders
            for name, value in self._head(stage, encoder).facts.items()
        }

    @property
    def state(self) -> State:
        """What was fitted, plain tensors by STAGE:ENCODER:NAME, and the width of each encoder; empty before the fit."""
        if not self.widths:
            return {}
        widths = {f"{WIDTH}:{encoder}": torch.tensor(width) for encoder, width in self.widths.items()}
        heads: Mapping[str, Any] = dict(self.heads.items())
        return widths | {f"{key}:{name}": value for key, head in heads.items() for name, value in head.state.items()}

    @state.setter
    def state(self, state: Mapping[str, Tensor]) -> None:
        parts = {key: key.rpartition(":") for key in state}
        self.widths = {name: int(state[key]) for key, (kind, _, name) in parts.items() if kind == WIDTH}
        for place, head in self.heads.items():
            own = {name: state[key] for key, (kind, _, name) in parts.items() if kind == place}
            head.state = own  # type: ignore[assignment]

    def fit(self, sources: Mapping[str, Source], labels: Tensor, validation_labels: Tensor | None = None) -> None:
        """Fit every head on the support of its stage's classes.

        Args:
            sources: encoder to its features.
            labels: int64 (N,), of the support.
            validation_labels: int64 (V,), or None without validation images.

        Raises:
            UserError: a stage names an encoder that is not there, or what its head needs is missing.
        """
        for stage in self.graph.stages:
            for encoder in stage.encoders:
                self._fit_head(stage, encoder, _source(stage, encoder, sources), labels, validation_labels)
        self.widths = {name: source.width for name, source in sources.items()}

    def adapted(self, sources: Mapping[str, Source], labels: Tensor, validation_labels: Tensor | None) -> Cascade:
        """Return a copy whose transductive heads have looked at other unlabelled images: those of `sources`."""
        other = copy.deepcopy(self)
        for encoder in self.graph.entry.encoders:
            if other._head(self.graph.entry, encoder).transductive:
                other._fit_head(self.graph.entry, encoder, sources[encoder], labels, validation_labels)
        return other

    def predict(self, features: Tensor) -> Tensor:
        """Return log-probabilities float64 (N, C) of features (N, D1 + D2 + ...)."""
        return self.trace(features).logits

    def forward(self, features: Tensor) -> Tensor:
        """Return log-probabilities; the same as `predict`."""
        return self.predict(features)

    @torch.no_grad()
    def trace(self, features: Tensor) -> Trace:
        """Send images, by their features (N, D1 + D2 + ...), through the graph.

        Raises:
            RuntimeError: before the fit.
            UserError: the features have another width.
        """
        if not self.widths:
            raise RuntimeError("trace() before fit(): the cascade's heads have no state yet")
        parts = self._split(features)
        count, device = len(features), features.device
        logits = torch.zeros(count, self.num_classes, dtype=torch.float64, device=device)
        at = torch.zeros(count, dtype=torch.int64, device=device)
        guesses = torch.full((len(self.graph.stages), count), -1, dtype=torch.int64, device=device)
        for number, stage in enumerate(self.graph.stages):
            rows = (at == number).nonzero()[:, 0]
            if not len(rows):
                continue
            own, classes = self._judge(stage, parts, rows), self.groups[stage.classes].to(device)
            before = None if number == 0 else logits[rows]
            logits[rows] = overlay(before, own, classes, self.num_classes)
            guesses[number, rows] = classes[own.argmax(dim=-1)]
            goal = next_stages(own, classes, stage, self.graph, self.groups)
            at[rows] = torch.where(goal < 0, number, goal)
        return Trace(logits, at, guesses)

    def _judge(self, stage: Stage, parts: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        scores = [self._head(stage, encoder).predict(parts[encoder][rows]) for encoder in stage.encoders]
        return combine(scores, list(stage.encoders.values()), stage.calibration)

    def _split(self, features: Tensor) -> dict[str, Tensor]:
        if features.shape[-1] != sum(self.widths.values()):
            widths = ", ".join(f"{name} {width}" for name, width in self.widths.items())
            raise UserError(f"features are {features.shape[-1]} wide; the cascade was fitted on {widths}")
        return dict(zip(self.widths, features.split(list(self.widths.values()), dim=-1), strict=True))

    def _fit_head(
        self, stage: Stage, encoder: str, source: Source, labels: Tensor, validation_labels: Tensor | None
    ) -> None:
        classes = self.groups[stage.classes].to(labels.device)
        rows, own = _within(labels, classes, self.num_classes)
        validation = None
        if source.validation is not None and validation_labels is not None:
            chosen, own_validation = _within(validation_labels, classes, self.num_classes)
            validation = (source.validation[chosen], own_validation)
        text = None if source.text is None else source.text[classes]
        head = self._head(stage, encoder)
        try:
            head.fit(source.support[rows], own, text, source.unlabelled, validation, len(classes))
        except UserError as error:
            raise UserError(f"task.graph.{stage.name}.head on the features of {encoder}: {error}") from error


def _source(stage: Stage, encoder: str, sources: Mapping[str, Source]) -> Source:
    if encoder not in sources:
        raise UserError(
            f"task.graph.{stage.name}.encoders names {encoder}, which is none of {', '.join(sources)}; "
            f"{MODEL} is the run's own model, others stand in task.encoders"
        )
    return sources[encoder]


def _seeded(head: FewShotHead, seed: int) -> FewShotHead:
    """Return a head that shuffles by its own seed, or where it names none by this one."""
    if getattr(head, "seed", seed) is None:
        head.seed = seed  # type: ignore[assignment]
    return head


def _size(head: FewShotHead) -> int:
    """Return how many numbers a head has learnt; settings that are one number each are none of them."""
    return sum(value.numel() for value in head.state.values() if value.is_floating_point() and value.ndim)


def _within(labels: Tensor, classes: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return which labels (N,) are among the classes (c,), bool (N,), and the place of each of those there."""
    place = torch.full((num_classes,), -1, dtype=torch.int64, device=labels.device)
    place[classes] = torch.arange(len(classes), device=labels.device)
    chosen = place[labels] >= 0
    return chosen, place[labels[chosen]]


class CascadeModule(FewShotModule):
    """A cascade as a task: fitted once, judged as a whole and stage by stage.

    Beside the metrics of every few-shot task it logs for each stage `reached_STAGE` and `answered_STAGE`, numbers of
    images; `accuracy_reached_STAGE`, how often the stage's own best class is right on all images that came to it; and
    `accuracy_answered_STAGE`, on those that it kept.

    Args:
        graph: stage to its settings (`lit_modules.fewshot.cascade_graph.Stage`) and its `head`; a stage that is None is
            left out.
        entry: the stage that every image comes to.
        groups: group of classes to the beginnings of their names; `all`, `seen` and `unseen` are there already.
        encoders: name to size of every encoder that is loaded.
        parameter_limit: upper bound of the parameters that are loaded, heads included; None for none.
        seed: of heads that shuffle, unless they name a seed of their own.

    Raises:
        UserError: the graph is not sound, or the limit is exceeded.
    """

    classifier: Cascade  # type: ignore[assignment]

    def __init__(
        self,
        backbone: Backbone,
        labels: LabelSpace,
        optimization: Optimization,
        metric: ClassRecognition,
        graph: Mapping[str, Any],
        entry: str,
        groups: Mapping[str, Sequence[str]] | None = None,
        encoders: Mapping[str, Any] | None = None,
        parameter_limit: int | None = None,
        seed: int = 0,
    ) -> None:
        prefixes = {name: [one] if isinstance(one, str) else one for name, one in (groups or {}).items()}
        nodes = {name: node for name, node in graph.items() if node is not None}
        read = read_graph(nodes, [*OWN_GROUPS, *prefixes], entry)
        positions = class_groups(labels.class_names, labels.class_counts, prefixes)
        heads = {name: _seeded(node["head"], seed) for name, node in nodes.items()}
        cascade = Cascade(read, heads, positions, labels.num_classes)
        super().__init__(cascade, backbone, labels, optimization, metric)  # type: ignore[arg-type]
        self.encoder_sizes: dict[str, EncoderSize] = dict(encoders or {})
        self.parameter_limit = parameter_limit
        for stage in read.stages:
            self._check_classes(stage, positions[stage.classes])
        self.stage_counts = StageCounts([stage.name for stage in read.stages])

    @property
    def evaluation_protocol(self) -> dict[str, str]:
        """That of every few-shot task, and the graph."""
        return {**super().evaluation_protocol, "cascade": self.classifier.graph.text}

    @property
    def parameter_report(self) -> dict[str, int]:
        """Numbers of parameters: loaded, by use, and of each stage; heads are counted once they are fitted.

        Empty where features were made elsewhere: what encoded them is not known.
        """
        if not self.encoder_sizes:
            return {}
        stages = self.classifier.graph.stages
        heads = {(one.name, encoder): self.classifier._head(one, encoder) for one in stages for encoder in one.encoders}
        uses_text = {name: head.uses_text for (name, _), head in heads.items()}
        sizes = {f"{name}:{encoder}": _size(head) for (name, encoder), head in heads.items()}
        return parameter_report(self.classifier.graph, self.encoder_sizes, uses_text, sizes)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Log the share of images that the cascade gets wrong, as `train/error`, and what the fits chose.

        There is no loss to log: classes that a stage rules out have no likelihood.
        """
        wrong = (self(batch)["logits"].argmax(dim=-1) != batch["label"]).double().mean()
        size = len(batch["index"])
        self.log("train/error", wrong, on_step=False, on_epoch=True, batch_size=size, sync_dist=True)
        return self.log_fit(batch)

    def answers(self, features: Tensor, number: int) -> Tensor:
        """Return the best classes int64 (N, number), best first, of unlabelled images' features (N, D1 + D2 + ...).

        Transductive heads look at these images anew, so the answer depends on all of them together.
        """
        sources, labels, validation_labels = self._sources(self.trainer.datamodule)  # type: ignore[attr-defined]
        parts = self.classifier._split(features.to(self.device))
        sources = {name: replace(source, unlabelled=parts[name]) for name, source in sources.items()}
        cascade = self.classifier.adapted(sources, labels, validation_labels)
        return cascade.predict(features.to(self.device)).topk(number, dim=-1).indices.cpu()

    def _check_classes(self, stage: Stage, positions: Tensor) -> None:
        wanted = tuple(self.labels.class_names[number] for number in positions.tolist())
        for encoder in stage.encoders:
            found = self.encoder_sizes[encoder].class_names if encoder in self.encoder_sizes else None
            if found is not None and found != wanted:
                raise UserError(
                    f"task.graph.{stage.name}: the run of task.encoders.{encoder} was trained on {len(found)} classes "
                    f"({found[0]}, ...), and the stage judges {len(wanted)} ({wanted[0]}, ...); they must be the "
                    "same, in the same order: train it on these classes (data=jittor_images data.only=[PREFIX])"
                )

    def _fit(self, data: Any) -> None:
        self.classifier.fit(*self._sources(data))
        self._refuse_too_many()

    def _refuse_too_many(self) -> None:
        loaded = self.parameter_report.get("loaded", 0)
        if self.parameter_limit is not None and loaded > self.parameter_limit:
            raise UserError(
                f"the cascade loads {loaded:,} parameters, heads included; task.parameter_limit={self.parameter_limit}"
            )

    def _sources(self, data: Any) -> tuple[dict[str, Source], Tensor, Tensor | None]:
        parts: Mapping[str, Any] = getattr(data, "parts", {MODEL: data})
        sources = {
            name: Source(
                part.support_features.to(self.device),
                self._on_device(part.text_features),
                self._on_device(part.unlabelled_features),
                self._on_device(part.validation_features),
            )
            for name, part in parts.items()
        }
        return sources, data.support_labels.to(self.device), self._on_device(data.validation_labels)

    def _on_device(self, part: Tensor | None) -> Tensor | None:
        return None if part is None else part.to(self.device)

    def evaluate_batch(self, batch: Batch) -> None:
        """Collect the logits of one batch, and what became of it on its way."""
        features = self.encode(batch)
        trace = self.classifier.trace(features)
        self.metric.update(trace.logits, batch["label"], batch["index"])
        self.stage_counts.update(trace.guesses, trace.answered, batch["label"])

    def _judge(self, stage: str) -> Any:
        self.log_metrics(stage, self.stage_counts.compute())
        self.stage_counts.reset()
        return super()._judge(stage)
