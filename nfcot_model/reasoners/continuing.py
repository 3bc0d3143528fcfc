"""Many continuations of one prompt: the prompt is read once, each continuation pays for itself.

    opened = reasoner.open_prompts(prompts)
    stream = opened.rows(index)                  # as many copies as there are continuations
    feed_thoughts(reasoner, stream, thoughts.u, thoughts.mask)
    more = reasoner.think_on(stream, noise, thoughts.u, thoughts.K)
    answers = answer_from(reasoner, stream)

For every kind of reasoner, and equal to its `think`, `answer` and `answer_logp` up to rounding.
`reasoner.noise_of` is what a trace was drawn with, so that thinking on from any point of it, with
nothing changed, gives the trace back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from nfcot_model import answering, sampling
from nfcot_model.reasoners.protocol import Reasoner
from nfcot_model.thoughts import AnswerLogp
from nfcot_model.tokenizer import texts_of

__all__ = ["Continuation", "answer_from", "answer_logp_from", "feed_thoughts"]


class Continuation(Protocol):
    """Streams behind their prompts (`Stream`, or `OpenedLoops` where thinking is looping).

    `closing` [B] is the token that ends the thoughts of each row, `state` [B, d_model] the last
    state. `rows` copies a choice of streams, `feed` gives them thoughts, `turn` ends thinking.
    """

    state: Tensor

    @property
    def closing(self) -> Tensor: ...

    def rows(self, index: Tensor) -> Any: ...

    def feed(self, u: Tensor, alive: Tensor) -> Any: ...

    def turn(self) -> None: ...

    def extend(self, embedded: Tensor, alive: Tensor) -> Tensor: ...


@torch.no_grad()
def feed_thoughts(reasoner: Reasoner, stream: Continuation, u: Tensor, mask: Tensor) -> None:
    """Put thoughts `u` [B, K, D] behind each stream, those that `mask` [B, K] has, in order."""
    device = reasoner.model.device
    if bool(mask.any()):
        stream.feed(u.to(device), mask.to(device))


def answer_from(reasoner: Reasoner, stream: Continuation) -> list[str]:
    """Which answer follows (greedy) when thinking ends here? The stream is used up."""
    stream.turn()
    _feed_tokens(reasoner, stream, [[end] for end in stream.closing.tolist()])
    written = answering.answer(cast(sampling.Stream, stream))
    return texts_of(reasoner.tokenizer, written)


@torch.no_grad()
def answer_logp_from(
    reasoner: Reasoner, stream: Continuation, answers: Sequence[str]
) -> tuple[AnswerLogp, Tensor]:
    """How likely is each answer when thinking ends here, in one pass? The stream is used up.

    Also returns [B]: is it the greedy answer, word for word (by the argmax at each place)?
    """
    stream.turn()
    eos = reasoner.model.ids.eos
    said = [[*tokens, eos] for tokens in reasoner.tokens(answers)]
    ends = stream.closing.tolist()
    fed = [[end, *row[:-1]] for end, row in zip(ends, said, strict=True)]
    states, alive = _feed_tokens(reasoner, stream, fed)
    targets = alive.new_zeros(alive.shape, dtype=torch.long)
    targets[alive] = torch.tensor([token for row in said for token in row], device=alive.device)
    distributions = reasoner.model.lm_logits(states).log_softmax(-1)
    chosen = distributions.gather(-1, targets[..., None])[..., 0] * alive
    greedy = ((distributions.argmax(-1) == targets) | ~alive).all(-1)
    logp = AnswerLogp(chosen.sum(-1).cpu(), distributions.cpu(), alive.cpu())
    return logp, greedy.cpu()


@torch.no_grad()
def _feed_tokens(
    reasoner: Reasoner, stream: Continuation, rows: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """Feed rows of tokens; the states [B, n, d_model] and which of them are of tokens."""
    model = reasoner.model
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[model.ids.pad] * (width - len(row))] for row in rows])
    alive = torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]
    ids, alive = ids.to(model.device), alive.to(model.device)
    return stream.extend(model.get_input_embeddings()(ids), alive), alive
