"""ADSH: the network hashes queries, the training images' codes are found discretely, and the two take turns.

Loss: sum((h·v - K s')²) / (N B) + γ sum((v_own - h)²) / (N B), h = tanh, s' = 1 or -#similar/#dissimilar; codes v bit
by bit

Jiang and Li, "Asymmetric Deep Supervised Hashing", AAAI 2018. https://cs.nju.edu.cn/lwj/paper/AAAI18_ADSH.pdf
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from lit_modules.base import Batch, Outputs
from lit_modules.hashing.base import full_precision
from lit_modules.hashing.discrete_codes import descend_bits
from lit_modules.hashing.memory_bank import BankedHashing, CodeBank, MemoryBank
from lit_modules.hashing.similarity import shared_label

BLOCK = 8192
"""Rows whose similarities to the sample are held at once in an update of the codes."""


class SampledCodeBank(CodeBank):
    """A bank with a code for every image, and which images are in the present sample: in_sample bool (N,)."""

    in_sample: Tensor

    def __init__(self, size: int, bits: int, num_classes: int, multi_label: bool) -> None:
        super().__init__(size, bits, num_classes, multi_label)
        self.register_buffer("in_sample", torch.zeros(size, dtype=torch.bool))


def signed_similarity(similar: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return 1 for similar pairs and -r for dissimilar ones, r = #similar / #dissimilar of this very matrix (B, N)."""
    alike = similar.sum().to(dtype)
    ratio = alike / (similar.numel() - alike).clamp(min=1)
    return torch.where(similar, torch.ones_like(ratio), -ratio)


def adsh_loss(h: Tensor, codes: Tensor, own: Tensor, similar: Tensor, gamma: float, size: int) -> dict[str, Tensor]:
    """Return (|h V' - K S|^2 + gamma |own - h|^2) / (size * B) as `loss`, and its two parts over size * B.

    Args:
        h: real (B, K) in [-1, 1], with gradient.
        codes: V, (M, K) of -1 and 1, the training images' codes.
        own: (B, K), the codes of the batch's own images.
        similar: bool (B, M).
        gamma: weight of the pull to the own codes.
        size: number of training images; M of them have been seen.
    """
    pairs = len(h) * size
    target = h.shape[1] * signed_similarity(similar, h.dtype)
    square = (h @ codes.T - target).square().sum() / pairs
    quantization = (own - h).square().sum() / pairs
    return {"loss": square + gamma * quantization, "square": square, "quantization": quantization}


def sampled_targets(values: Tensor, sample_labels: Tensor, labels: Tensor) -> Tensor:
    """Return S'U (M, K), the sample's values U (m, K) summed with signed similarity (m, M), in blocks of rows."""
    sums, alike = [], 0
    for block in labels.split(BLOCK):
        similar = shared_label(block, sample_labels)
        sums.append(similar.to(values.dtype) @ values)
        alike += int(similar.sum())
    unlike = len(labels) * len(values) - alike
    ratio = alike / unlike if unlike else 0.0  # without a dissimilar pair there is none to weigh
    return (1 + ratio) * torch.cat(sums) - ratio * values.sum(dim=0)


def update_codes(
    codes: Tensor, values: Tensor, sample_labels: Tensor, labels: Tensor, own_values: Tensor, gamma: float
) -> Tensor:
    """Return codes (M, K) after one pass over the bits, each set to its optimum given all others (eq. 10).

    Minimises |U V' - K S|^2 + gamma |V - U|^2 over the sample; each row is found by itself.

    Args:
        codes: V, (M, K) of -1 and 1, or 0 for no code yet.
        values: U, real (m, K), the sample's values.
        sample_labels: (m,) or (m, C).
        labels: (M,) or (M, C), of the codes' images.
        own_values: real (M, K), the row of U of each code's image, 0 for images outside the sample.
        gamma: weight of the pull of a code to its own image's value.
    """
    wanted = codes.shape[1] * sampled_targets(values, sample_labels, labels) + gamma * own_values
    return descend_bits(codes, wanted, values.T @ values)


class ADSH(BankedHashing):
    """ADSH with the training images as the database whose codes are learned.

    The images of an epoch, in its seeded order, are cut into samples of `num_samples`. After each sample, and at the
    end of the epoch, the codes of all training images seen so far are updated from the sample's values. An image gets
    its first code, by the same rule, from the sample as far as it is known when the image is first seen. Images that
    share a label are similar, in multi-label data too. `h` is the tanh of the hash layer.

    Queries and database are hashed by the network, as in DeepHash-pytorch. The authors' figures search the learned
    codes of the database (github.com/jiangqy/ADSH-AAAI2018 ADSH_CIFAR_10.py), all of whose labels were trained on;
    here the learned codes, `bank.codes`, are those of the training images and only train the network.

    Published code passes over a sample three times between two updates of the codes. Here the data say in which order
    images come, each once in an epoch, so that a sample is passed once; num_samples=6000 has as many steps between two
    updates as the published 2000, on three times as many images.

    Args:
        gamma: weight of the pull of values and codes to each other.
        num_samples: images between two updates of the codes.
        codes_start_at_zero_as_published: leave an image's code at 0 until the first update after it is seen.
        shared: arguments of `HashingModule`.

    Raises:
        ValueError: a sample has no image.
    """

    bank: SampledCodeBank
    bank_type: ClassVar[type[MemoryBank]] = SampledCodeBank
    cost_of_step: ClassVar[str] = "; after each sample of task.num_samples images the codes of all rows are found anew"

    def __init__(
        self,
        *,
        gamma: float = 200.0,
        num_samples: int = 2000,
        codes_start_at_zero_as_published: bool = False,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if num_samples < 1:
            raise ValueError(f"task.num_samples={num_samples}: a sample has at least 1 image")
        self.gamma = gamma
        self.num_samples = num_samples
        self.codes_start_at_zero = codes_start_at_zero_as_published

    def head(self, features: Tensor) -> Outputs:
        """Return `h` (B, K) in [-1, 1], the tanh of the hash layer's output."""
        return {"h": self.hash_values(features).tanh()}

    def loss(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Add the batch to the sample, give new images their codes, and return the loss under all codes, in float32."""
        h, label, index = outputs["h"], batch["label"], batch["index"]
        self.bank.write(index, h, label)
        self.bank.in_sample[index] = True
        with full_precision(h):
            if not self.codes_start_at_zero:
                self._update(index[~self.bank.codes[index].any(dim=1)].unique())
            rows = self.bank.counted()
            similar = shared_label(label, self.bank.labels[rows])
            return adsh_loss(h, self.bank.codes[rows], self.bank.codes[index], similar, self.gamma, len(self.bank))

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Update all codes where the sample is complete."""
        if int(self.bank.in_sample.sum()) >= self.num_samples:
            self._end_sample()

    def on_train_epoch_end(self) -> None:
        """Update all codes from what the epoch's last sample holds."""
        if bool(self.bank.in_sample.any()):
            self._end_sample()

    def _end_sample(self) -> None:
        self._update(self.bank.seen.nonzero().squeeze(1))
        self.bank.in_sample.fill_(False)

    @torch.no_grad()
    def _update(self, rows: Tensor) -> None:
        bank, sample = self.bank, self.bank.in_sample
        if not len(rows):
            return
        own = bank.values[rows] * sample[rows, None]
        values, sample_labels = bank.values[sample], bank.labels[sample]
        bank.codes[rows] = update_codes(bank.codes[rows], values, sample_labels, bank.labels[rows], own, self.gamma)
