"""Reasoners whose K thoughts are fed without being drawn: direct, pause, coconut and codi."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nfcot_model.reasoners.baseline import BaselineReasoner, open_stream
from nfcot_model.thoughts import Decoded, Thoughts

__all__ = ["LatentReasoner", "token_readout"]


class LatentReasoner(BaselineReasoner):
    """A fixed number of deterministic thoughts between prompt and answer.

    `direct`: K = 0. `pause`: every thought is the embedding of `<thought>`. `coconut`, `codi`:
    thought k is the backbone's last state (after its final norm) at the place before it; CODI's
    projector stands between `u` and the input. Coconut: arXiv 2412.06769; CODI: arXiv 2502.21074.
    """

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
        K = min(self.max_thoughts, max_thoughts or self.max_thoughts)
        mask = torch.ones(len(prompts), K, dtype=torch.bool)
        stopped = torch.full((len(prompts),), self.max_thoughts == K)
        room = K + 1 + self.model.config.max_answer_tokens
        layout = self.layout(prompts, [0] * len(prompts), close=False, room=room)
        u = torch.zeros(len(prompts), K, self.D, device=self.model.device)
        if K == 0:
            return Thoughts.given(u.cpu(), mask, stopped)
        stream = open_stream(self.model, layout, u[:, :0])
        alive = torch.ones(len(prompts), 1, dtype=torch.bool, device=self.model.device)
        with torch.no_grad():
            for k in range(K):
                u[:, k] = self.model.next_thought(stream.state).float()
                if k + 1 < K:
                    fed = self.model.project(u[:, k]).to(stream.state.dtype)
                    stream.extend(fed[:, None], alive)
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
