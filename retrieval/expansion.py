"""Features made better by their neighbours: database augmentation, query expansion; several networks' features.

Everything works on directions, rows of length 1, and looks for neighbours by cosine; equal cosines are ordered by the
place in the database. No label is used.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MAX_COSINES = 2**24


def directions(features: np.ndarray) -> np.ndarray:
    """Return features (N, D) divided by their Euclidean lengths, float32; a row of zeros stays one."""
    lengths = np.sqrt(np.square(features, dtype=np.float64).sum(axis=1, keepdims=True))
    scaled: np.ndarray = (features / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)
    return scaled


def fuse(features: Sequence[np.ndarray], weights: Sequence[float] | None = None) -> np.ndarray:
    """Put the features of several networks side by side, so that cosines are the weighted means of each one's cosines.

    Args:
        features: for each network (N, D_m).
        weights: of each network, above 0; None for equal ones.

    Returns:
        (N, sum of D_m) float32, rows of length 1 where no feature is zero.

    Raises:
        ValueError: numbers of images or weights differ, or a weight is not above 0.
    """
    weights = [1.0] * len(features) if weights is None else list(weights)
    if len(weights) != len(features) or not features:
        raise ValueError(f"{len(weights)} weights do not go with {len(features)} networks")
    if min(weights) <= 0:
        raise ValueError(f"weights {weights}: every one is above 0")
    if len({len(some) for some in features}) > 1:
        raise ValueError(f"networks have features of {', '.join(str(len(some)) for some in features)} images")
    shares = np.sqrt(np.array(weights) / np.sum(weights))
    # the square root, because a cosine is a sum of products of two rows
    return np.concatenate(
        [directions(some) * np.float32(share) for some, share in zip(features, shares, strict=True)], axis=1
    )


def nearest_directions(queries: np.ndarray, database: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the k database rows with the largest products.

    Args:
        queries: (Q, D) directions.
        database: (N, D) directions.
        k: from 1 to N.

    Returns:
        products (Q, k) float32, never rising along a row, and places (Q, k) int64; equal products by place.

    Raises:
        ValueError: k is out of range.
    """
    if not 1 <= k <= len(database):
        raise ValueError(f"k={k}: the database holds {len(database)} images, choose from 1 to that")
    products = np.empty((len(queries), k), np.float32)
    places = np.empty((len(queries), k), np.int64)
    rows = max(MAX_COSINES // len(database), 1)
    for start in range(0, len(queries), rows):
        block = queries[start : start + rows] @ database.T
        found = _largest(block, k)
        places[start : start + rows] = found
        products[start : start + rows] = np.take_along_axis(block, found, axis=1)
    return products, places


def _largest(values: np.ndarray, k: int) -> np.ndarray:
    """Return the places (B, k) of the largest values (B, N), largest first, equal ones by place."""
    least = np.partition(values, values.shape[1] - k, axis=1)[:, values.shape[1] - k]
    found = np.empty((len(values), k), np.int64)
    for row, (line, bound) in enumerate(zip(values, least, strict=True)):
        candidates = np.flatnonzero(line >= bound)
        found[row] = candidates[np.argsort(-line[candidates], kind="stable")[:k]]
    return found


def augment_database(database: np.ndarray, neighbours: int, alpha: float = 0.0) -> np.ndarray:
    """Replace each image by the weighted mean of itself and its nearest neighbours in the database.

    The image itself has weight 1, a neighbour max(cosine, 0)^alpha.

    Source: Arandjelovic and Zisserman, "Three things everyone should know to improve object retrieval", CVPR 2012;
    weights as in Radenovic et al., "Fine-tuning CNN image retrieval with no human annotation", TPAMI 2019.

    Args:
        database: (N, D) real.
        neighbours: images beside the image itself; 0 changes nothing but the lengths. Where there are fewer, all.
        alpha: 0 weighs all neighbours as the image itself.

    Returns:
        (N, D) float32 directions.

    Raises:
        ValueError: neighbours or alpha is below 0.
    """
    _check(neighbours, alpha)
    rows = directions(database)
    count = min(neighbours + 1, len(rows))
    products, places = nearest_directions(rows, rows, count)
    is_self = places == np.arange(len(rows))[:, None]
    # a copy may come before the image itself, and push it off the list: then the last neighbour makes room
    missing = ~is_self.any(axis=1)
    places[missing, -1] = np.flatnonzero(missing)
    is_self[missing, -1] = True
    weights = np.where(is_self, 1.0, np.maximum(products, 0.0) ** alpha)
    return _weighted_mean(rows, places, weights, None)


def expand_queries(queries: np.ndarray, database: np.ndarray, neighbours: int, alpha: float = 3.0) -> np.ndarray:
    """Replace each query by the weighted mean of itself and its nearest images of the database.

    The query has weight 1, an image max(cosine, 0)^alpha (αQE).

    Source: Chum et al., "Total recall", ICCV 2007, for the mean; Radenovic et al., "Fine-tuning CNN image retrieval
    with no human annotation", TPAMI 2019, for the weights.

    Args:
        queries: (Q, D) real.
        database: (N, D) real, augmented or not.
        neighbours: images of the database; 0 changes nothing but the lengths. Where there are fewer, all.
        alpha: 0 for the plain mean.

    Returns:
        (Q, D) float32 directions.

    Raises:
        ValueError: neighbours or alpha is below 0.
    """
    _check(neighbours, alpha)
    rows, items = directions(queries), directions(database)
    if neighbours == 0:
        return rows
    products, places = nearest_directions(rows, items, min(neighbours, len(items)))
    return _weighted_mean(items, places, np.maximum(products, 0.0) ** alpha, rows)


def _weighted_mean(items: np.ndarray, places: np.ndarray, weights: np.ndarray, own: np.ndarray | None) -> np.ndarray:
    """Return the directions of sum_j weights[:, j] items[places[:, j]], plus `own` with weight 1."""
    total = np.zeros((len(places), items.shape[1]), np.float64) if own is None else own.astype(np.float64)
    for column in range(places.shape[1]):
        total += weights[:, column : column + 1] * items[places[:, column]]
    return directions(total)


def _check(neighbours: int, alpha: float) -> None:
    if neighbours < 0:
        raise ValueError(f"neighbours={neighbours}: 0 or more")
    if alpha < 0:
        raise ValueError(f"alpha={alpha}: 0 or more")
