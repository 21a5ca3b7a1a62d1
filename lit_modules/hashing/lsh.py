"""LSH: the sides of random hyperplanes on which the features lie.

Loss: none; h = W (x - mean), W Gaussian

Charikar, "Similarity Estimation Techniques from Rounding Algorithms", STOC 2002.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lit_modules.hashing.post_hoc import PostHoc, Projection, around_mean


def random_hyperplanes(features: np.ndarray, bits: int, seed: int = 0, centre: bool = True) -> Projection:
    """Return `bits` hyperplanes with normals drawn from a Gaussian, through the mean of features (N, D) or the origin.

    The number of bits may exceed D. Two vectors fall on different sides with probability angle / pi. Written out:
    faiss.IndexLSH (1.15.1) has orthonormal directions in place of independent ones, and the same for every seed.
    """
    normals = np.random.default_rng(seed).standard_normal((bits, features.shape[1])).astype(features.dtype)
    mean = features.mean(axis=0, dtype=np.float64) * float(centre)
    return around_mean(normals, mean.astype(features.dtype))


class LSH(PostHoc):
    """Random hyperplanes, for any number of bits. Labels of any kind will do, none is used.

    `centre` lays them through the mean of the training images; through the origin most features, having no negative
    entry, would fall on one side.
    """

    def __init__(self, *, centre: bool = True, **shared: Any) -> None:
        super().__init__(**shared)
        self.centre = centre

    def fit_features(self, features: np.ndarray) -> Projection:
        """Return random hyperplanes."""
        return random_hyperplanes(features, self.bits, self.seed, self.centre)
