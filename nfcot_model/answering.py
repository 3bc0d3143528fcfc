"""Answering: the tokens that follow behind a stream's thoughts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from nfcot_model.errors import UserError
from nfcot_model.sampling import Stream

__all__ = ["answer"]


@torch.no_grad()
def answer(
    stream: Stream,
    temperature: float = 0.0,
    seeds: Sequence[int] | None = None,
    max_tokens: int | None = None,
) -> list[list[int]]:
    """Which answer (token ids) follows?

    `stream` opens with `[prompt] <think> u </think>` on the path of answers (an explicit reasoner
    goes on from `[prompt] <think>`). `temperature=0` is greedy; otherwise row i draws from
    `seeds[i]`.
    """
    model, count = stream.model, len(stream.state)
    if temperature != 0 and len(seeds or ()) != count:
        raise UserError(f"temperature {temperature}: give one noise seed per prompt")
    alive = torch.ones(count, dtype=torch.bool, device=stream.state.device)
    written: list[list[int]] = [[] for _ in range(count)]
    draws = [np.random.Generator(np.random.Philox(s)) for s in seeds or ()]
    ahead = stream.state.is_cuda  # a GPU begins the next step while the host looks at this token
    for _ in range(max_tokens or model.config.max_answer_tokens):
        logits = model.lm_logits(stream.state)
        token = logits.argmax(-1) if temperature == 0 else _draw(logits / temperature, draws)
        alive = alive & (token != model.ids.eos)
        told = _Told(torch.where(alive, token, -1))
        if not ahead and not told.goes_on(written):
            break
        stream.extend(model.get_input_embeddings()(token)[:, None], alive[:, None])
        if ahead and not told.goes_on(written):
            break
    return written


class _Told:
    """Tokens [B] on their way to the host, -1 where a row has ended."""

    def __init__(self, tokens: Tensor) -> None:
        self.tokens = tokens.to("cpu", non_blocking=tokens.is_cuda)
        self.here = torch.cuda.Event() if tokens.is_cuda else None
        if self.here is not None:
            self.here.record(torch.cuda.current_stream(tokens.device))

    def goes_on(self, written: list[list[int]]) -> bool:
        """Writes them down, and says whether any row had one."""
        if self.here is not None:
            self.here.synchronize()
        said = self.tokens.tolist()
        for row, token in zip(written, said, strict=True):
            if token >= 0:
                row.append(token)
        return any(token >= 0 for token in said)


def _draw(logits: Tensor, draws: list[np.random.Generator]) -> Tensor:
    uniform = torch.tensor([d.random() for d in draws], device=logits.device)
    cumulative = logits.softmax(-1).cumsum(-1)
    return (cumulative < uniform[:, None] * cumulative[:, -1:]).sum(-1)
