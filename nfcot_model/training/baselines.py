"""The losses of reasoners without a flow, each by its own recipe (docs/reasoners.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from nfcot_model.backbone import at
from nfcot_model.baseline import BaselineModel, unroll
from nfcot_model.layout import IGNORE, Layout, lay_out
from nfcot_model.looping import gate_loss, loop_loss, loop_states
from nfcot_model.reasoners.baseline import BaselineReasoner
from nfcot_model.training.config import BaselineSettings
from nfcot_model.training.packing import packed
from nfcot_model.worlds import Problem

__all__ = ["baseline_losses", "coconut_text", "stage_of"]

Losses = dict[str, Tensor]


def baseline_losses(
    module: nn.Module,
    reasoner: BaselineReasoner,
    problems: Sequence[Problem],
    settings: BaselineSettings,
    part: int,
    gate: bool = False,
    packing: int | None = None,
) -> Losses:
    """The named losses of one micro-batch, with the total under "loss".

    `module` is the reasoner's model, wrapped for processes or not; `part` is the part of the
    stage (Coconut's curriculum); `gate`: the second stage of looped reasoners; `packing`: the
    length of rows that streams share (streams of tokens only).
    """
    make = _gate if gate else _OBJECTIVES[reasoner.name]
    if packing is not None:
        losses: Losses = module(_answers(packed(_written(reasoner, problems), packing)))
        return losses
    losses = module(make(reasoner, problems, settings, part))
    return losses


def stage_of(kind: str, settings: BaselineSettings, step: int, steps: int) -> int:
    """In which part of its training is a reasoner at this step? 0 for all but Coconut.

    Coconut: 0 on the whole text, then 1 to `stages`, at last `stages + 1` without any text.
    """
    if kind != "coconut":
        return 0
    share = step / max(1, steps)
    if share < settings.cot_share:
        return 0
    middle = 1 - settings.cot_share - settings.last_share
    if share >= 1 - settings.last_share or middle <= 0:
        return settings.stages + 1
    done = (share - settings.cot_share) / middle
    return 1 + min(settings.stages - 1, int(done * settings.stages))


def coconut_text(problem: Problem, part: int, stages: int) -> str:
    """What follows `</think>` in this part: the steps that no thought stands for yet, the answer.

    The last part has no step left, however long the reasoning is.
    """
    rest = [] if part > stages else problem.steps[part:]
    return "\n".join([*rest, problem.answer or ""])


Objective = Callable[[BaselineModel], Losses]
Make = Callable[[BaselineReasoner, Sequence[Problem], BaselineSettings, int], Objective]


def _known(
    reasoner: BaselineReasoner, problems: Sequence[Problem], settings: BaselineSettings, part: int
) -> Objective:
    """Text, direct and pause: streams whose tokens, placeholders included, are all known."""
    return _answers(_written(reasoner, problems))


def _written(reasoner: BaselineReasoner, problems: Sequence[Problem]) -> Layout:
    """Prompt, then the reasoning's text, or K placeholders (pause), or nothing (direct)."""
    if reasoner.name != "text":
        return _direct_layout(reasoner, problems, reasoner.max_thoughts)
    return _explicit_layout(reasoner, problems, ["\n".join(p.steps) for p in problems])


def _answers(layout: Layout) -> Objective:
    """Cross-entropy of all targets of streams whose tokens are all known."""

    def objective(model: BaselineModel) -> Losses:
        out = model.backbone.base_model(
            inputs_embeds=model.get_input_embeddings()(layout.input_ids),
            position_ids=layout.position_ids,
            use_cache=False,
        )
        answer = model.token_loss(out.last_hidden_state, layout.targets)
        return {"loss": answer, "answer": answer}

    return objective


def _coconut(
    reasoner: BaselineReasoner, problems: Sequence[Problem], settings: BaselineSettings, part: int
) -> Objective:
    """Cross-entropy of the remaining text, gradients through the thoughts (arXiv 2412.06769)."""
    texts = [coconut_text(p, part, settings.stages) for p in problems]
    head, tail = _head(reasoner, problems), _tail(reasoner, texts)
    K = min(part, settings.stages) * settings.per_step

    def objective(model: BaselineModel) -> Losses:
        answer = model.token_loss(unroll(model, head, K, tail).states, tail.targets)
        return {"loss": answer, "answer": answer}

    return objective


def _codi(
    reasoner: BaselineReasoner, problems: Sequence[Problem], settings: BaselineSettings, part: int
) -> Objective:
    """One model as teacher (text) and student (thoughts), alike before the answer.

    Smooth L1 between the states of all layers at `</think>`, the teacher's without gradient and
    in units of their standard deviation (arXiv 2502.21074, section 3).
    """
    cut = -1 if settings.drop_last_step else None
    reasoning = ["\n".join(p.steps[:cut]) for p in problems]
    taught = _explicit_layout(reasoner, problems, reasoning)
    closes = taught.input_ids == reasoner.model.ids.end_think
    column = closes.int().argmax(-1)[:, None]
    head = _head(reasoner, problems)
    tail = _tail(reasoner, [p.answer or "" for p in problems])
    nothing = torch.zeros(len(problems), 1, reasoner.D, device=reasoner.model.device)

    def objective(model: BaselineModel) -> Losses:
        teacher = model.stream(taught, nothing, hidden=True)
        student = unroll(model, head, reasoner.max_thoughts, tail, hidden=True)
        assert student.hidden is not None
        terms = []
        for theirs, mine in zip(teacher.hidden_states, student.hidden, strict=True):
            target = at(theirs, column)[:, 0].detach()
            away = functional.smooth_l1_loss(mine[:, 0], target)
            terms.append(away / target.std().clamp(min=1e-6))
        losses = {
            "teacher": model.token_loss(teacher.last_hidden_state, taught.targets),
            "answer": model.token_loss(student.states, tail.targets),
            "distill": torch.stack(terms).mean(),
        }
        total = losses["teacher"] + losses["answer"] + settings.distill * losses["distill"]
        return {"loss": total, **losses}

    return objective


def _looped(
    reasoner: BaselineReasoner, problems: Sequence[Problem], settings: BaselineSettings, part: int
) -> Objective:
    layout = _direct_layout(reasoner, problems)
    return lambda model: loop_loss(
        model, loop_states(model, layout), layout.targets, settings.entropy
    )


def _gate(
    reasoner: BaselineReasoner, problems: Sequence[Problem], settings: BaselineSettings, part: int
) -> Objective:
    layout = _direct_layout(reasoner, problems)
    return lambda model: gate_loss(model, loop_states(model, layout), layout.targets)


_OBJECTIVES: dict[str, Make] = {
    "text": _known,
    "direct": _known,
    "pause": _known,
    "coconut": _coconut,
    "codi": _codi,
    "looped": _looped,
}


def _tokens(
    reasoner: BaselineReasoner, problems: Sequence[Problem]
) -> tuple[list[list[int]], list[list[int]]]:
    prompts = reasoner.tokens([p.prompt for p in problems], opening=True)
    return prompts, reasoner.tokens([p.answer or "" for p in problems])


def _direct_layout(reasoner: BaselineReasoner, problems: Sequence[Problem], K: int = 0) -> Layout:
    """`[prompt] <think> <thought>·K </think> answer`, the answer to be predicted."""
    prompts, answers = _tokens(reasoner, problems)
    same = [K] * len(problems)
    framed = reasoner.model.config.framed
    ids = reasoner.model.ids
    return _moved(reasoner, lay_out(prompts, same, ids, answers=answers, framed=framed))


def _explicit_layout(
    reasoner: BaselineReasoner, problems: Sequence[Problem], reasoning: Sequence[str]
) -> Layout:
    """`[prompt] <think> text </think> answer`, text and answer to be predicted."""
    prompts, answers = _tokens(reasoner, problems)
    none = [0] * len(problems)
    written = reasoner.tokens(reasoning)
    ids = reasoner.model.ids
    return _moved(reasoner, lay_out(prompts, none, ids, answers=answers, reasoning=written))


def _head(reasoner: BaselineReasoner, problems: Sequence[Problem]) -> Layout:
    """`[prompt] <think>`, padded on the left."""
    prompts, _ = _tokens(reasoner, problems)
    none = [0] * len(problems)
    return _moved(reasoner, lay_out(prompts, none, reasoner.model.ids, close=False, side="left"))


def _tail(reasoner: BaselineReasoner, texts: Sequence[str]) -> Layout:
    """`</think> text`, the text and its end to be predicted, padded on the right."""
    ids = reasoner.model.ids
    said = reasoner.tokens(texts)
    width = 1 + max(map(len, said))

    def padded(rows: Sequence[list[int]], value: int) -> Tensor:
        return torch.tensor([row + [value] * (width - len(row)) for row in rows])

    attention = padded([[1] * (1 + len(row)) for row in said], 0)
    none = torch.zeros(len(said), 1, dtype=torch.long)
    layout = Layout(
        padded([[ids.end_think, *row] for row in said], ids.pad),
        attention,
        (attention.cumsum(-1) - 1).clamp(min=0),
        none + 1,
        none.bool(),
        padded([[*row, ids.eos] for row in said], IGNORE),
    )
    return _moved(reasoner, layout)


def _moved(reasoner: BaselineReasoner, layout: Layout) -> Layout:
    return layout.to(reasoner.model.device)
