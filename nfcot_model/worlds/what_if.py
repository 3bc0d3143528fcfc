"""What would follow if a step of the reasoning had been another one? The worlds' interpreter."""

from __future__ import annotations

import re

from nfcot_model.errors import UserError
from nfcot_model.worlds.generate import WORLDS
from nfcot_model.worlds.problem import Problem

__all__ = ["what_if"]

_NUMBERED = re.compile(r"#(\d+) ([^;.]+)")


def what_if(problem: Problem, step: int, text: str) -> Problem:
    """The problem as it would be if its step `step` (0-based) had come out as `text`.

    The prompt and the steps before stay; every later step, the answer and the check follow from
    the new state and the operations that the prompt names. `text` may carry its number (`#3
    4x+7`) or not. Raises UserError for a problem of no built-in world, a step it does not have,
    and a text that is no state of the world.
    """
    if problem.world not in WORLDS:
        raise UserError(
            f"{problem.id}: 'what if' needs a world with an interpreter ({', '.join(WORLDS)})"
        )
    world = WORLDS[problem.world]
    named = _NUMBERED.findall(problem.prompt)
    operations = [world.read_operation(words.strip()) for _, words in named]
    if not operations or None in operations or len(operations) != len(problem.steps):
        raise UserError(f"{problem.id}: its prompt does not name its {problem.world} operations")
    if not 0 <= step < len(operations):
        raise UserError(f"{problem.id}: has steps 0 to {len(operations) - 1}, not {step}")
    state = world.read_state(re.sub(r"^#\d+ ", "", text))
    if state is None:
        raise UserError(f"'{text}' is no state of the world {problem.world}")
    said = world.text_of(state)
    later, later_labels, answer, check = world.compile_pipeline(operations[step + 1 :], state)
    here = {**world.labels_of(state), "operation": operations[step].kind}
    step_labels = [*problem.step_labels[:step], here, *later_labels]
    final = {key: value for key, value in step_labels[-1].items() if key != "operation"}
    number = [number for number, _ in named]
    return problem.model_copy(
        update={
            "id": f"{problem.id}/{step}={said}",
            "steps": [
                *problem.steps[:step],
                *(f"#{n} {t}" for n, t in zip(number[step:], [said, *later], strict=True)),
            ],
            "step_labels": step_labels,
            "answer": answer,
            "check": check,
            "labels": {
                **problem.labels,
                **{f"final_{key}": value for key, value in final.items()},
            },
        }
    )
