"""Reasoners whose K thoughts are fed without being drawn: direct, pause, coconut and codi."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from nfcot_model.baseline import BaselineModel
from nfcot_model.reasoners.baseline import BaselineReasoner
from nfcot_model.sampling import Stream
from nfcot_model.thoughts import Decoded, Thoughts

__all__ = ["LatentReasoner", "token_readout"]


class LatentReasoner(BaselineReasoner):
    """A fixed number of deterministic thoughts between prompt and answer.

    `direct`: K = 0. `pause`: every thought is the embedding of `<thought>`. `coconut`, `codi`:
    thought k is the backbone's last state (after its final norm) at the place before it; CODI's
    projector stands between `u` and the input. Coconut: arXiv 2412.06769; CODI: arXiv 2502.21074.
    """

    def __init__(
        self, model: BaselineModel, tokenizer: PreTrainedTokenizerBase, checkpoint_hash: str = ""
    ) -> None:
        super().__init__(model, tokenizer, checkpoint_hash)
        self.constant_thoughts = self.name == "pause"
        if self.thoughts_per_step is not None:
            self.on_edits = _IN_PLACE_OF

    def think(
        self,
        prompts: Sequence[str],
        *,
        tau: float = 0.0,
        noise_seeds: Sequence[int] = (),
        max_thoughts: int | None = None,
    ) -> Thoughts:
        """Which thoughts does the model have? The same for every `tau` and seed: none is drawn.

        `max_thoughts` cuts; a cut trajectory has not `stopped`.
        """
        K = self.budget(prompts, max_thoughts)
        nothing = torch.zeros(len(prompts), K, self.D)
        if K == 0:
            return Thoughts.given(nothing, torch.ones(len(prompts), 0, dtype=torch.bool))
        none = torch.zeros(len(prompts), dtype=torch.long)
        stream = self.open_prompts(prompts, max_thoughts)
        return self._think(stream, nothing, none, read_last=False)

    def think_on(self, stream: Stream, noise: Tensor, u: Tensor, K: Tensor) -> Thoughts:
        """What is thought behind a stream that holds K [B] thoughts of `u` [B, ·, D] already?

        `noise` [B, budget, 0] says how many there can be; those given come back in their places.
        """
        values = u.new_zeros(len(u), noise.shape[1], self.D)
        values[:, : u.shape[1]] = u[:, : noise.shape[1]]
        return self._think(stream, values, K, read_last=True)

    @torch.no_grad()
    def _think(self, stream: Stream, u: Tensor, K: Tensor, *, read_last: bool) -> Thoughts:
        """Fill u [B, budget, D] from place K [B] on; the last is read if an answer will follow."""
        budget, device = u.shape[1], self.model.device
        u, K = u.clone().to(device), K.to(device)
        while bool((alive := budget > K).any()):
            rows = alive.nonzero()[:, 0]
            thought = self.model.next_thought(stream.state).float()
            u[rows, K[rows]] = thought[rows]
            K = K + alive.to(K)
            if read_last or bool((budget > K).any()):
                stream.feed(thought[:, None], alive[:, None])
        mask = torch.ones(u.shape[:2], dtype=torch.bool)
        stopped = torch.full((len(u),), self.max_thoughts == budget)
        return Thoughts.given(u.cpu(), mask, stopped)

    @torch.no_grad()
    def decode(self, thoughts: Thoughts) -> Decoded:
        """Which token does each thought read as? The LM head's first choice for a state.

        Pause thoughts are read as the token they are the embedding of. A read-out is one reading
        of a vector; it is not evidence that the model uses it so.
        """
        if self.name == "pause":
            return _as_words(self, thoughts, self.nearest_tokens(thoughts.u[thoughts.mask]))
        return token_readout(self, thoughts)


_IN_PLACE_OF = (
    "that thought k says the step which it took the place of in training is assumed by swaps by"
    " value, steering and mediation, not known"
)


@torch.no_grad()
def token_readout(reasoner: BaselineReasoner, thoughts: Thoughts) -> Decoded:
    """Which token does the LM head choose for each thought, taken as a final state?"""
    model = reasoner.model
    u = thoughts.u[thoughts.mask].to(model.device, model.backbone.dtype)
    chosen = [model.lm_logits(x).argmax(-1).cpu() for x in u.split(1024)]
    return _as_words(reasoner, thoughts, torch.cat(chosen))


def _as_words(reasoner: BaselineReasoner, thoughts: Thoughts, ids: Tensor) -> Decoded:
    words = iter(reasoner.tokenizer.batch_decode(ids[:, None]))
    texts = [[next(words) for _ in range(K)] for K in thoughts.K.tolist()]
    return Decoded.without_codec(thoughts.mask, texts, readout=True)
