"""InMaP: text embeddings moved into image space by pseudo-labels of the images that are judged. Transductive.

Loss: cross-entropy of softmax(F W / τ) against the pseudo-labels Sinkhorn(softmax(F T / τ_t)), W on the sphere

Qian, Xu and Hu, "Intra-Modal Proxy Learning for Zero-Shot Visual Categorization with CLIP", NeurIPS 2023, equations
6 to 11; figures and step rule from the authors' code (github.com/idstcv/InMaP).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_modules.fewshot.episode import Episode
from lit_modules.fewshot.head import LOGIT_SCALE, FewShotHead, State, count, positive, text_logits
from records.console import told
from records.errors import UserError

Prior = Literal["uniform", "clip"]


def sinkhorn(probability: Tensor, prior: Tensor, rounds: int) -> Tensor:
    """Return probabilities whose rows sum to 1 and whose columns come near to `prior` times the number of rows.

    Columns and rows are scaled in turn, rows last (Cuturi 2013). Sums are kept above the smallest positive number, so
    an empty column stays empty.

    Args:
        probability: (..., N, C), rows of probabilities.
        prior: (..., C), share of each class, sums to 1.
        rounds: number of turns; 0 changes nothing.
    """
    # the result is diag(rows) K diag(columns): two products of K with a vector in each turn, and K is written once
    smallest, largest = torch.finfo(probability.dtype).tiny, torch.finfo(probability.dtype).max
    rows, columns = torch.ones_like(probability[..., :1]), torch.ones_like(probability[..., :1, :])
    for _ in range(rounds):
        columns = probability.shape[-2] * prior.unsqueeze(-2) / (rows.mT @ probability).clamp(min=smallest)
        columns = columns.clamp(max=largest)
        rows = 1 / (probability @ columns.mT).clamp(min=smallest)
    return rows * probability * columns


def hardened(probability: Tensor, threshold: float) -> Tensor:
    """Return one-hot rows where the largest probability (..., N, C) is above the threshold; the rest as they are."""
    largest, place = probability.max(dim=-1, keepdim=True)
    one_hot = torch.zeros_like(probability).scatter(-1, place, 1.0)
    return torch.where(largest > threshold, one_hot, probability)


def proxy_gradient(
    features: Tensor, proxies: Tensor, target: Tensor, temperature: float, memory: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Return sum_i (softmax(f_i . W / temperature) - target_i) f_i, (..., C, D).

    The gradient of the summed cross-entropy, times the temperature; `target` is the product target^T features
    (..., C, D), which does not change between steps. `memory`, two tensors (..., N, C), is written over: a loop that
    hands it in allocates nothing of that size.
    """
    logits, probability = (None, None) if memory is None else memory
    cosines = torch.matmul(features, proxies.mT, out=logits)
    found = torch.softmax(cosines.div_(temperature), dim=-1, out=probability)
    return found.mT @ features - target


class InMaP(FewShotHead):
    """Proxies on the unit sphere, started at the text and trained to agree with balanced pseudo-labels of the images.

    Pseudo-labels are CLIP's probabilities at temperature `tau_text`, brought to a class prior by Sinkhorn's scaling and
    made hard where they are sure. A uniform prior helps where test classes are balanced, and hurts where they are not.
    Support images are not used.

    Args:
        prior: `uniform`, or `clip`: proportional to the mass that CLIP gives to a class, to the power of `gamma`.
        gamma: 0 (uniform) to 1 (CLIP's own mass), for prior=clip.
        given_prior: share of each class in the images to be judged, where it is known; replaces `prior`.
        tau_text: temperature of the pseudo-labels.
        tau_image: temperature of the proxies.
        sinkhorn_rounds: of scaling; 0 switches it off.
        harden: pseudo-labels above this probability become hard; from 1 on none does.
        lr: first step; halved whenever the gradient's norm has grown.
        iterations: most steps.
        tolerance: stop when no proxy moves further than this in a step; 0 never stops early.
        scale: factor on the cosines of the result.
    """

    transductive: ClassVar[bool] = True
    needs_support: ClassVar[bool] = False
    uses_support: ClassVar[bool] = False
    uses_validation: ClassVar[bool] = False

    def __init__(
        self,
        *,
        prior: Prior = "uniform",
        gamma: float = 0.5,
        given_prior: Sequence[float] | None = None,
        tau_text: float = 0.01,
        tau_image: float = 0.04,
        sinkhorn_rounds: int = 20,
        harden: float = 0.6,
        lr: float = 10.0,
        iterations: int = 2000,
        tolerance: float = 5e-3,
        scale: float = LOGIT_SCALE,
    ) -> None:
        super().__init__()
        self.prior = prior
        self.gamma = gamma
        self.given_prior = None if given_prior is None else _checked_prior(given_prior)
        self.tau_text = positive("tau_text", tau_text)
        self.tau_image = positive("tau_image", tau_image)
        self.sinkhorn_rounds = count("sinkhorn_rounds", sinkhorn_rounds, least=0)
        self.harden = positive("harden", harden)
        self.lr = positive("lr", lr)
        self.iterations = count("iterations", iterations)
        self.tolerance = tolerance
        self.scale = positive("scale", scale)

    def solve(self, episode: Episode) -> State:
        """Make the pseudo-labels, train the proxies."""
        assert episode.unlabelled is not None
        assert episode.text is not None
        labels = self.pseudo_labels(episode.unlabelled, episode.text)
        return self._train(episode.unlabelled, episode.text, labels)

    def scores(self, features: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return scale * cosine with the proxies."""
        return text_logits(features, state["proxies"], self.scale)

    def pseudo_labels(self, features: Tensor, text: Tensor) -> Tensor:
        """Return the probabilities (..., N, C) that the proxies learn from."""
        probability = (features @ text.mT / self.tau_text).softmax(dim=-1)
        balanced = sinkhorn(probability, self._class_prior(probability), self.sinkhorn_rounds)
        return hardened(balanced, self.harden)

    def _class_prior(self, probability: Tensor) -> Tensor:
        num_classes = probability.shape[-1]
        if self.given_prior is not None:
            if len(self.given_prior) != num_classes:
                raise UserError(f"task.given_prior has {len(self.given_prior)} values for {num_classes} classes")
            return self.given_prior.to(probability)
        if self.prior == "uniform":
            return torch.full_like(probability[..., 0, :], 1 / num_classes)
        mass = probability.sum(dim=-2).pow(self.gamma)
        return mass / mass.sum(dim=-1, keepdim=True)

    def _train(self, features: Tensor, text: Tensor, labels: Tensor) -> State:
        target = labels.mT @ features
        memory = torch.empty_like(labels), torch.empty_like(labels)
        proxies = text.expand_as(target)
        rate = target.new_full(target.shape[:-2], self.lr / (features.shape[-2] * self.tau_image))
        norm = torch.full_like(rate, torch.inf)
        first_norm, steps = norm, torch.zeros_like(norm)
        moves = torch.ones_like(norm, dtype=torch.bool)
        for step in told("fitting InMaP, which may stop earlier, steps", range(1, self.iterations + 1)):
            gradient = proxy_gradient(features, proxies, target, self.tau_image, memory)
            grown = torch.linalg.matrix_norm(gradient)
            rate = torch.where(grown > norm, rate / 2, rate)
            # a problem of a stack that has converged stays where it would have stopped by itself
            norm = torch.where(moves, grown, norm)
            first_norm = grown if step == 1 else first_norm
            moved = F.normalize(proxies - rate[..., None, None] * gradient, dim=-1)
            change = (moved - proxies).norm(dim=-1).amax(dim=-1)
            proxies = torch.where(moves[..., None, None], moved, proxies)
            steps = torch.where(moves, step, steps)
            moves = moves & (change >= self.tolerance)
            if not moves.any():
                break
        return {"proxies": proxies, "steps": steps, "first_gradient_norm": first_norm, "gradient_norm": norm}


def _checked_prior(values: Sequence[float]) -> Tensor:
    prior = torch.tensor([float(value) for value in values], dtype=torch.float64)
    if not (prior >= 0).all() or prior.sum() <= 0:
        raise ValueError("task.given_prior: shares of the classes, none below 0, not all 0")
    return prior / prior.sum()
