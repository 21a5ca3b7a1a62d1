"""PCA hashing: the signs of the first principal components of the features.

Loss: none; h = the first K principal components of x

Wang, Kumar and Chang, "Semi-Supervised Hashing for Large-Scale Search", TPAMI 2012, where it is the case without
labels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.decomposition import PCA

from lit_modules.hashing.post_hoc import PostHoc, Projection, around_mean, enough_for_components


def principal_components(features: np.ndarray, bits: int) -> Projection:
    """Return the map of features (N, D) to their first `bits` principal components, N and D at least `bits`.

    Raises:
        ValueError: fewer features or samples than bits.
    """
    num_samples, width = features.shape
    enough_for_components(num_samples, width, bits)
    mean = features.mean(axis=0, dtype=np.float64).astype(features.dtype)
    components = PCA(bits, svd_solver="covariance_eigh").fit(features - mean).components_
    return around_mean(components, mean)


class PCAH(PostHoc):
    """PCA hashing; at most as many bits as the features are wide. Labels of any kind will do, none is used."""

    def __init__(self, **shared: Any) -> None:
        super().__init__(**shared)
        enough_for_components(self.fit_samples, self.backbone.num_features, self.bits)

    def fit_features(self, features: np.ndarray) -> Projection:
        """Return the principal components."""
        return principal_components(features, self.bits)
