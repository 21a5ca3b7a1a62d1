"""How many parameters a cascade loads and uses: an encoder that several stages share is loaded once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lit_modules.fewshot.cascade_graph import Graph
from records.errors import UserError


@dataclass(frozen=True)
class EncoderSize:
    """Parameters of an encoder's two towers; `text` is 0 where it has none. `class_names` are those of a classifier."""

    image: int
    text: int = 0
    class_names: tuple[str, ...] | None = None

    @property
    def total(self) -> int:
        """Those of both."""
        return self.image + self.text


def parameter_report(
    graph: Graph, encoders: Mapping[str, EncoderSize], uses_text: Mapping[str, bool], heads: Mapping[str, int]
) -> dict[str, int]:
    """Return `loaded` (each encoder once, and all heads), `used` (the sum over the stages), and `in STAGE` of each.

    A stage uses the image towers of its encoders, the text towers where its head uses text, and its heads.

    Args:
        graph: the stages.
        encoders: every encoder that is loaded, and its size; one that a stage names and that is not here counts 0.
        uses_text: stage to whether its head uses text.
        heads: `STAGE:ENCODER` to the parameters of a head.
    """
    stages = {
        stage.name: sum(
            _used(encoders.get(encoder, EncoderSize(0)), uses_text[stage.name]) + heads[f"{stage.name}:{encoder}"]
            for encoder in stage.encoders
        )
        for stage in graph.stages
    }
    loaded = sum(size.total for size in encoders.values()) + sum(heads.values())
    return {"loaded": loaded, "used": sum(stages.values()), **{f"in {name}": size for name, size in stages.items()}}


def refuse_too_many(encoders: Mapping[str, EncoderSize], limit: int | None) -> None:
    """Hold the encoders against a limit before they encode anything.

    Raises:
        UserError: together they have more parameters.
    """
    total = sum(size.total for size in encoders.values())
    if limit is not None and total > limit:
        listed = ", ".join(f"{name} {size.total:,}" for name, size in encoders.items())
        raise UserError(
            f"task.parameter_limit={limit:,}: the encoders have {total:,} parameters ({listed}); take smaller ones, or "
            "leave one out of task.encoders and task.graph"
        )


def _used(size: EncoderSize, with_text: bool) -> int:
    return size.total if with_text else size.image
