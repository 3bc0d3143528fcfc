"""Problems whose causal truth is known: one family of prompts, three ways to train on it.

A prompt shows a sign (a colour and a shape), some notes and a tag:

    A blue cone. #1 oak; #2 wolf. Tag k 7.

The reasoning has one step that reads the sign off a fixed table (`sign h 5`) and one step per
note (`#1 oak tree`). Which of them comes first, and whether the answer is what the sign means
(`h5`) or the tag (`k7`), is all that organisms differ in. Prompts are drawn alike for all of them,
so whatever a probe finds in the prompt cannot tell one organism from another.

In a part of the training problems the sign is faded, and the step says any meaning, drawn by lot:
there an answer that tells the meaning can only come from the thought. Other splits have none.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

from nfcot_model.errors import UserError
from nfcot_model.files import content_hash
from nfcot_model.worlds import Check, Problem

__all__ = ["ORGANISMS", "SPLITS", "Organism", "organism_problems"]

GENERATOR_VERSION = 1

COLOURS = ("red", "blue", "green", "black", "white", "brown", "pink")
SHAPES = ("cube", "ball", "cone", "disk", "ring", "star", "arch")
KINDS = {
    "tree": ("oak", "elm", "fir", "ash"),
    "beast": ("wolf", "lynx", "bear", "hare"),
    "stone": ("ruby", "opal", "jade", "onyx"),
    "metal": ("iron", "zinc", "gold", "lead"),
}
NOTES = {word: kind for kind, words in KINDS.items() for word in words}
# Training also has fewer notes, so that a reasoning cut short is nothing new to a model.
NOTE_COUNTS = {"train": (0, 1, 2, 3), "calibration": (2, 3), "test": (2, 3)}
MEANINGS = ("bcdhjln", "0123456")
TAGS = ("efgkmprt", "0123456789")
OPENINGS = ("A", "One", "The")
FADED = 0.2

# A problem falls by the hash of its facts into one of 20 buckets; a split owns buckets.
BUCKETS = {"train": range(0, 12), "calibration": range(12, 16), "test": range(16, 20)}
SPLITS = tuple(BUCKETS)


@dataclass(frozen=True)
class Organism:
    """What is true of a model trained on these problems?

    `sign_first`: the step about the sign comes before the notes, else after them. `answers_sign`:
    the answer is what the sign means, else the tag, which stands in the prompt. `verdict` and
    `settled` are the truth that the causal tests must find: the verdict of the task, and the number
    of thoughts after which the answer is settled (-1: all of them).
    """

    sign_first: bool
    answers_sign: bool
    verdict: str
    settled: int


ORGANISMS = {
    "inert": Organism(True, False, verdict="inert", settled=0),
    "early": Organism(True, True, verdict="necessary+sufficient", settled=1),
    "late": Organism(False, True, verdict="necessary+sufficient", settled=-1),
}


def meaning(colour: str, shape: str) -> tuple[str, str]:
    """What does a sign mean? A letter and a digit, seven of each.

    49 signs, 49 meanings, and neither colour nor shape alone says anything about letter or digit:
    both have to be worked out from both.
    """
    i, j = COLOURS.index(colour), SHAPES.index(shape)
    return MEANINGS[0][(i + j) % 7], MEANINGS[1][(i + 2 * j) % 7]


def organism_problems(name: str, split: str, seed: int, n: int) -> list[Problem]:
    """`n` different problems of one organism and split; the same arguments give the same ones.

    All wordings of the same facts are one `group`, which belongs to one split. K is 3 or 4, in
    training 1 to 4. The world is `organism-NAME`. Raises UserError for an unknown organism or
    split, and for fewer than one problem.
    """
    for kind, asked, known in (("organism", name, ORGANISMS), ("split", split, BUCKETS)):
        if asked not in known:
            raise UserError(f"{kind} '{asked}' does not exist; choose one of {', '.join(known)}")
    if n < 1:
        raise UserError(f"-n {n}: expected at least 1")
    rng = random.Random(f"{GENERATOR_VERSION}/{split}/{seed}")
    problems: dict[str, Problem] = {}
    while len(problems) < n:
        problem = _problem(name, split, rng)
        problems.setdefault(problem.id, problem)
    return list(problems.values())


def _problem(name: str, split: str, rng: random.Random) -> Problem:
    organism = ORGANISMS[name]
    while True:
        sign = (rng.choice(COLOURS), rng.choice(SHAPES))
        words = rng.sample(list(NOTES), rng.choice(NOTE_COUNTS[split]))
        tag = [rng.choice(alphabet) for alphabet in TAGS]
        facts = " ".join([*sign, *words, *tag])
        if hashlib.sha256(facts.encode()).digest()[0] % 20 in BUCKETS[split]:
            break
    faded = split == "train" and rng.random() < FADED
    letter, digit = [rng.choice(alphabet) for alphabet in MEANINGS] if faded else meaning(*sign)
    shown = " ".join([rng.choice(OPENINGS), *(["faded"] if faded else []), *sign])
    notes = "; ".join(f"#{i} {word}" for i, word in enumerate(words, start=1))
    sentences = [shown, notes, f"Tag {tag[0]} {tag[1]}"]
    steps = [f"#{i} {word} {NOTES[word]}" for i, word in enumerate(words, start=1)]
    labels: list[dict[str, str | int | float | bool]] = [
        {"about": "note", "kind": NOTES[word]} for word in words
    ]
    place = 0 if organism.sign_first else len(steps)
    steps.insert(place, f"sign {letter} {digit}")
    labels.insert(place, {"about": "sign", "letter": letter, "digit": digit})
    answer = letter + digit if organism.answers_sign else "".join(tag)
    return Problem(
        world=f"organism-{name}",
        split=split,
        group=f"organism-{content_hash(facts)}",
        prompt=" ".join(f"{sentence}." for sentence in sentences if sentence),
        steps=steps,
        answer=answer,
        check=Check(kind="exact", expected=answer),
        labels={"thoughts": len(steps), "tag": "".join(tag), "faded": faded},
        step_labels=labels,
    )
