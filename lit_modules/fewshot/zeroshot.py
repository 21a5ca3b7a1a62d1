"""CLIP's zero-shot classifier: the class whose text embedding is nearest.

Loss: logits 100 f·t

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lit_modules.fewshot.episode import Episode
from lit_modules.fewshot.head import LOGIT_SCALE, FewShotHead, State, positive, text_logits


class ZeroShot(FewShotHead):
    """Cosine with the text embeddings, times CLIP's logit scale; no image is learnt from.

    Which prompts make an embedding is the data's affair. The scale changes probabilities, never the class.
    """

    needs_support = False
    uses_support = False
    uses_validation = False

    def __init__(self, *, scale: float = LOGIT_SCALE) -> None:
        super().__init__()
        self.scale = positive("scale", scale)

    def solve(self, episode: Episode) -> State:
        """Keep the text embeddings."""
        assert episode.text is not None
        return {"text": episode.text}

    def scores(self, features: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Return scale * cosine."""
        return text_logits(features, state["text"], self.scale)
