"""How far does counting carry a probe? Length and position, without any content."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nfcot_model.traces import Run
from probes.controls.text import decoded_texts, prompt_texts

__all__ = ["LENGTHS", "length_features"]

LENGTHS = ("K", "k", "k / K", "prompt characters", "prompt words", "decoded characters")


def length_features(
    run: Run, trace: NDArray[np.int64], row: NDArray[np.int64]
) -> NDArray[np.float32]:
    """How long is everything and where is the thought? [n, 6], columns as in `LENGTHS`.

    trace, row: rows of run.traces and run.thoughts. Decoded characters are those of the steps up
    to and including the thought. Nothing of the answer is in it: it comes after the thoughts.
    """
    K = run.traces["K"].to_numpy()[trace]
    k = run.thoughts["k"].to_numpy()[row]
    prompts, decoded = prompt_texts(run, trace), decoded_texts(run, row)
    columns = (
        K,
        k,
        k / K,
        [len(prompt) for prompt in prompts],
        [len(prompt.split()) for prompt in prompts],
        [len(text) for text in decoded],
    )
    return np.column_stack(columns).astype(np.float32)
