"""How codes are made of what trained networks say about images: views, several runs, ITQ, neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from datamodules.images.images_to_encode import Views
from lit_modules.hashing.itq import itq_projection
from records.errors import UserError
from retrieval.codes import pack, to_bits
from retrieval.encodings import Encodings
from retrieval.expansion import augment_database, directions, expand_queries, fuse


@dataclass(frozen=True)
class Recipe:
    """The options of `conf/mode/submit.yaml`, under `recipe`. None of them sees a label of what is searched.

    Args:
        flip: encode the mirrored image as well, and average.
        zooms: sizes of the image before the centre crop, as multiples of the evaluation's; averaged.
        fuse: directories of further runs whose features are put beside this run's.
        weights: of this run and the further ones; None for equal ones.
        itq: codes by ITQ on the features, fitted on training images, in place of the run's hash layer.
        itq_images: so many training images, drawn by the seed.
        itq_iterations: of ITQ.
        database_augmentation: neighbours that each gallery image is averaged with; 0 for none.
        query_expansion: gallery images that each query is averaged with; 0 for none.
        alpha: exponent of a neighbour's cosine in both means; 0 for plain means.

    Raises:
        UserError: a value is out of range, or options do not go together.
    """

    flip: bool = False
    zooms: tuple[float, ...] = (1.0,)
    fuse: tuple[str, ...] = ()
    weights: tuple[float, ...] | None = None
    itq: bool = False
    itq_images: int = 50_000
    itq_iterations: int = 50
    database_augmentation: int = 0
    query_expansion: int = 0
    alpha: float = 3.0

    def __post_init__(self) -> None:
        for key, least in (("itq_images", 1), ("itq_iterations", 1), ("database_augmentation", 0)):
            if getattr(self, key) < least:
                raise UserError(f"recipe.{key} is {getattr(self, key)}; it must be at least {least}")
        if self.query_expansion < 0 or self.alpha < 0:
            raise UserError(f"recipe.query_expansion={self.query_expansion}, alpha={self.alpha}: neither is below 0")
        if self.fuse and not self.itq:
            raise UserError(
                "recipe.fuse puts features of several runs together, and the hash layer of one cannot read them; "
                "add recipe.itq=true, which computes codes from them"
            )
        if self.weights is not None and (len(self.weights) != 1 + len(self.fuse) or min(self.weights) <= 0):
            raise UserError(f"recipe.weights is {list(self.weights)}; it takes {1 + len(self.fuse)} numbers above 0")

    @classmethod
    def from_config(cls, settings: Mapping[str, Any]) -> Recipe:
        """Read the node `recipe`.

        Raises:
            UserError: a key is unknown, or a value out of range or of another type.
        """
        known = {field.name: field for field in fields(cls)}
        unknown = [key for key in settings if key not in known]
        if unknown:
            raise UserError(f"recipe.{unknown[0]} is unknown; the choices are {', '.join(known)}")
        given: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()
        }
        for key, value in given.items():
            default = known[key].default
            is_number = type(default) is float and type(value) is int
            if default is not None and type(value) is not type(default) and not is_number:
                raise UserError(f"recipe.{key} is {settings[key]!r}; it takes a value such as {default!r}")
        return cls(**given)

    @property
    def views(self) -> Views:
        """The views of each image that are averaged."""
        return Views(self.flip, self.zooms)


def rows_of(encodings: Sequence[Encodings], recipe: Recipe) -> np.ndarray:
    """Return what codes are made of for the same N images by one run or several: hash values, or fused features.

    Raises:
        UserError: the runs could not read the same images, or a run has no hash layer and ITQ is not asked for.
    """
    first = encodings[0]
    if any(other.names != first.names for other in encodings):
        raise UserError("recipe.fuse: the runs have not read the same images; was a file changed meanwhile?")
    if recipe.itq:
        return fuse([np.asarray(one.features) for one in encodings], recipe.weights)
    if first.values is None:
        raise UserError("the run has no hash layer; recipe.itq=true computes codes from its features")
    return np.asarray(first.values)


def codes_of(
    query: np.ndarray, gallery: np.ndarray, training: np.ndarray | None, bits: int, recipe: Recipe, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Make the codes of queries and gallery.

    Args:
        query: (Q, D) rows, see `rows_of`.
        gallery: (N, D) rows.
        training: (M, D) rows of training images, which ITQ is fitted on; None without it.
        bits: K; without ITQ the same as D.
        recipe: what is done.
        seed: of ITQ's first rotation.

    Returns:
        (Q, ceil(K / 64)) and (N, ceil(K / 64)) uint64, packed.

    Raises:
        UserError: hash values are not of K bits, or ITQ has too few images or features.
    """
    better = gallery
    if recipe.database_augmentation:
        better = augment_database(gallery, recipe.database_augmentation, recipe.alpha)
    asked = expand_queries(query, better, recipe.query_expansion, recipe.alpha) if recipe.query_expansion else query
    if training is None:
        if query.shape[1] != bits:
            raise UserError(
                f"the run's codes have {query.shape[1]} bits and {bits} are submitted: train with task.bits={bits}, or "
                "compute codes from the features by recipe.itq=true"
            )
        return pack(to_bits(asked)), pack(to_bits(better))
    try:
        projection = itq_projection(directions(training), bits, recipe.itq_iterations, seed)
    except ValueError as error:
        raise UserError(f"recipe.itq: {error}") from error
    return pack(to_bits(projection(directions(asked)))), pack(to_bits(projection(directions(better))))
