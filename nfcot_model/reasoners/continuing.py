"""Many continuations of one prompt: the prompt is read once, each continuation pays for itself.

    opened = open_prompts(reasoner, prompts)
    stream = opened.rows(index)                  # as many copies as there are continuations
    feed_thoughts(reasoner, stream, thoughts.u, thoughts.mask)
    answers = answer_from(reasoner, stream)

Equal to `think`, `answer` and `answer_logp` of the reasoner up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nfcot_model import sampling
from nfcot_model.reasoners.nfcot import NFCoTReasoner, on_cpu
from nfcot_model.sampling import Stream
from nfcot_model.thoughts import AnswerLogp, Thoughts

__all__ = ["answer_from", "answer_logp_from", "feed_thoughts", "open_prompts", "think_on"]


def open_prompts(reasoner: NFCoTReasoner, prompts: Sequence[str]) -> Stream:
    """Streams behind `[prompt] <think>`, with room for every thought and an answer."""
    room = reasoner.max_thoughts + 2 + reasoner.model.config.max_answer_tokens
    layout = reasoner.layout(prompts, [0] * len(prompts), close=False, room=room)
    nothing = torch.zeros(len(prompts), 1, reasoner.D, device=reasoner.model.device)
    return Stream(reasoner.model, layout, nothing)


@torch.no_grad()
def feed_thoughts(reasoner: NFCoTReasoner, stream: Stream, u: Tensor, mask: Tensor) -> None:
    """Put thoughts `u` [B, K, D] behind each stream, those that `mask` [B, K] has, in order."""
    device = reasoner.model.device
    if bool(mask.any()):
        stream.feed(u.to(device), mask.to(device))


def think_on(
    reasoner: NFCoTReasoner,
    stream: Stream,
    noise: Tensor,
    u: Tensor,
    K: Tensor,
    on_thought: sampling.OnThought | None = None,
    hidden: bool = False,
) -> Thoughts:
    """What is thought behind a stream that holds thoughts `u` [B, ·, D] already, K [B] of them?

    `noise` [B, budget, D], `on_thought` and `hidden` as in `sampling.think`; the thoughts given
    come back in their places.
    """
    device = reasoner.model.device
    noise, u, K = (tensor.to(device) for tensor in (noise, u, K))
    return on_cpu(sampling.think(stream, noise, u, K, on_thought, hidden))


def answer_from(reasoner: NFCoTReasoner, stream: Stream) -> list[str]:
    """Which answer follows (greedy) when thinking ends here? The stream is used up."""
    stream.turn()
    ends = [[reasoner.model.ids.end_think]] * len(stream.state)
    _feed_tokens(reasoner, stream, ends)
    return reasoner.tokenizer.batch_decode(sampling.answer(stream), skip_special_tokens=True)


@torch.no_grad()
def answer_logp_from(
    reasoner: NFCoTReasoner, stream: Stream, answers: Sequence[str]
) -> tuple[AnswerLogp, Tensor]:
    """How likely is each answer when thinking ends here, in one pass? The stream is used up.

    Also returns [B]: is it the greedy answer, word for word (by the argmax at each place)?
    """
    stream.turn()
    ids = reasoner.model.ids
    said = [[*tokens, ids.eos] for tokens in reasoner.tokens(answers)]
    states, alive = _feed_tokens(reasoner, stream, [[ids.end_think, *row[:-1]] for row in said])
    targets = alive.new_zeros(alive.shape, dtype=torch.long)
    targets[alive] = torch.tensor([token for row in said for token in row], device=alive.device)
    distributions = reasoner.model.lm_logits(states).log_softmax(-1)
    chosen = distributions.gather(-1, targets[..., None])[..., 0] * alive
    greedy = ((distributions.argmax(-1) == targets) | ~alive).all(-1)
    logp = AnswerLogp(chosen.sum(-1).cpu(), distributions.cpu(), alive.cpu())
    return logp, greedy.cpu()


@torch.no_grad()
def _feed_tokens(
    reasoner: NFCoTReasoner, stream: Stream, rows: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """Feed rows of tokens; the states [B, n, d_model] and which of them are of tokens."""
    model = reasoner.model
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[model.ids.pad] * (width - len(row))] for row in rows])
    alive = torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]
    ids, alive = ids.to(model.device), alive.to(model.device)
    return stream.extend(model.get_input_embeddings()(ids), alive), alive
