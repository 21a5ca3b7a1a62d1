"""The counts of ``retrieval.counting`` on a torch device: products of +-1 codes in blocks, then counting."""

import numpy as np
import torch

from retrieval.codes import unpack
from retrieval.relevance import ClassRelevance, Relevance

MAX_PAIRS = 2**22
MAX_DATABASE_ROWS = 2**14


def count_on_device(
    query_codes: np.ndarray, database_codes: np.ndarray, bits: int, labels: Relevance, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Count items and relevant items at each distance with products on a device.

    A block holds at most 2**22 pairs, so the memory taken does not grow with the number of queries times
    items. Sums of +-1 are whole numbers that float32 holds exactly for every length of code allowed here.

    Args:
        query_codes: (Q, ceil(K / 64)) uint64.
        database_codes: (N, ceil(K / 64)) uint64.
        bits: K.
        labels: what ``retrieval.relevance.relevance`` made of the labels.
        device: where to count.

    Returns:
        all and relevant, each (Q, K + 1) int64.
    """
    bins = bits + 1
    counts = torch.zeros(len(query_codes), 2 * bins, dtype=torch.int64, device=device)
    columns = min(MAX_DATABASE_ROWS, max(len(database_codes), 1))
    rows = MAX_PAIRS // columns
    for first in range(0, len(database_codes), columns):
        database = slice(first, first + columns)
        signs = _signs(database_codes[database], bits, device)
        for start in range(0, len(query_codes), rows):
            query = slice(start, start + rows)
            products = _signs(query_codes[query], bits, device) @ signs.T
            distances = ((bits - products) / 2).to(torch.int64)
            keys = distances + bins * _relevant(labels, query, database, device)
            counts[query] += _count_rows(keys, 2 * bins)
    relevant = counts[:, bins:]
    return (counts[:, :bins] + relevant).cpu().numpy(), relevant.contiguous().cpu().numpy()


def _signs(codes: np.ndarray, bits: int, device: torch.device) -> torch.Tensor:
    # +-1 and their sums up to 2048 are exact in half precision, and CUDA adds them up in float32
    dtype = torch.float16 if device.type == "cuda" and bits <= 2048 else torch.float32
    return torch.from_numpy(unpack(codes, bits)).to(device).to(dtype) * 2 - 1


def _relevant(labels: Relevance, query: slice, database: slice, device: torch.device) -> torch.Tensor:
    """Return which pairs are relevant, (rows, columns) bool."""
    if isinstance(labels, ClassRelevance):
        own = torch.from_numpy(labels.query[query]).to(device)
        return own[:, None] == torch.from_numpy(labels.database[database]).to(device)[None, :]
    query_labels = _multi_hot(labels.query[query], labels.num_labels, device)
    return query_labels @ _multi_hot(labels.database[database], labels.num_labels, device).T > 0


def _multi_hot(masks: np.ndarray, num_labels: int, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(unpack(masks, num_labels)).to(device).to(torch.float32)


def _count_rows(keys: torch.Tensor, bins: int) -> torch.Tensor:
    """Return the histogram of each row: keys (rows, columns) below ``bins`` -> (rows, bins)."""
    rows = len(keys)
    offsets = torch.arange(rows, device=keys.device)[:, None] * bins
    return torch.bincount((keys + offsets).flatten(), minlength=rows * bins).reshape(rows, bins)
