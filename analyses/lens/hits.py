"""Is what a lens says at a thought true? One number in [0, 1] per thought and measure.

`…_hit` against the true text, `…_floor` against the foreign one, `…_above` their difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from analyses.lens.codec import codec_round_trip, flow_round_trip
from analyses.lens.targets import FOREIGN, TARGETS, common_tokens, place_of
from nfcot_model.reasoners import NFCoTReasoner
from nfcot_model.traces import Run

__all__ = ["fidelity", "noise_hits", "text_hits", "token_hits", "wanted_tokens"]

KINDS = (*TARGETS, *FOREIGN.values())


def wanted_tokens(
    run: Run, reasoner: NFCoTReasoner, thoughts: pd.DataFrame
) -> tuple[Tensor, NDArray[np.int64]]:
    """Which tokens would betray the texts of each thought? Ids [N, M], -1 for none, and owners.

    A text's distinctive tokens are those that most texts in its place do not have
    (`common_tokens`). Owner [N, M]: the place in `KINDS` of the text that has the token.
    """
    texts = {text for steps in run.traces["steps"] for text in steps} | set(run.traces["answer"])
    listed = sorted(texts)
    ids = reasoner.tokenizer(listed, add_special_tokens=False)["input_ids"]
    tokens: Mapping[str, list[int]] = dict(zip(listed, ids, strict=True))
    common = common_tokens(run, tokens)
    asked: list[list[tuple[int, int]]] = []
    for row in thoughts.to_dict("records"):
        own: list[tuple[int, int]] = []
        for kind, name in enumerate(KINDS):
            if row[name] is not None:
                target = name.removeprefix("foreign_")
                place = place_of(target, row["world"], row["step_index"], row["steps"])
                words = set(tokens[row[name]]) - common.get(place, frozenset())
                own += [(token, kind) for token in sorted(words)]
        asked.append(own)
    width = max(map(len, asked), default=0)
    padded = torch.tensor([own + [(-1, -1)] * (width - len(own)) for own in asked])
    padded = padded.view(len(asked), width, 2)
    return padded[..., 0], padded[..., 1].numpy()


def token_hits(rank: NDArray[np.int64], owner: NDArray[np.int64], top: int) -> pd.DataFrame:
    """Which share of each text's distinctive tokens is among the top, and at which rank are they?

    rank, owner [N, M] as from `logit_lens` and `wanted_tokens`. `…_rr` is the mean reciprocal rank
    of the true text's tokens, `…_rr_foreign` of the foreign one's. NaN where a text has no
    distinctive token or does not exist.
    """
    columns: dict[str, NDArray[np.float64]] = {}
    inverse = 1.0 / np.maximum(rank, 1)
    with np.errstate(invalid="ignore"):
        for target in TARGETS:
            for name, hit, rr in ((target, "hit", "rr"), (FOREIGN[target], "floor", "rr_foreign")):
                mine = owner == KINDS.index(name)
                count = mine.sum(axis=1)
                columns[f"{target}_{hit}"] = ((rank <= top) & mine).sum(axis=1) / count
                columns[f"{target}_{rr}"] = (inverse * mine).sum(axis=1) / count
            columns[f"{target}_above"] = columns[f"{target}_hit"] - columns[f"{target}_floor"]
    return pd.DataFrame(columns)


def text_hits(said: Sequence[str], thoughts: pd.DataFrame) -> pd.DataFrame:
    """Is the text word for word the true step, and the last step? NaN where there is none."""
    columns: dict[str, NDArray[np.float64]] = {}
    for target in ("step", "last_step"):
        for name, column in ((target, "hit"), (FOREIGN[target], "floor")):
            columns[f"{target}_{column}"] = np.array(
                [
                    np.nan if text is None else float(text == own)
                    for text, own in zip(thoughts[name], said, strict=True)
                ]
            )
        columns[f"{target}_above"] = columns[f"{target}_hit"] - columns[f"{target}_floor"]
    return pd.DataFrame(columns)


def noise_hits(mean: Sequence[str], drawn: Sequence[str], thoughts: pd.DataFrame) -> pd.DataFrame:
    """What did the draw change? `changed`: the mean says another text than the thought.

    `mean_only`: the mean says the true step and the thought does not; `thought_only` the reverse.
    """
    right = text_hits(mean, thoughts)["step_hit"]
    told = text_hits(drawn, thoughts)["step_hit"]
    return pd.DataFrame(
        {
            "changed": [float(a != b) for a, b in zip(mean, drawn, strict=True)],
            "mean_only": ((right == 1) & (told == 0)).astype(float).where(right.notna()),
            "thought_only": ((right == 0) & (told == 1)).astype(float).where(right.notna()),
        }
    )


def fidelity(run: Run, reasoner: NFCoTReasoner, thoughts: pd.DataFrame) -> pd.DataFrame:
    """Would the true step of a thought survive the codec, and codec and flow together?

    `codec_round_trip`: text → e → text; `flow_round_trip`: text → e → u → e → text, of the whole
    reference reasoning. NaN where there is no step, or it cannot be encoded.
    """
    back = codec_round_trip(reasoner, [text for text in thoughts["step"] if text is not None])
    traces = sorted(set(thoughts["trace"]))
    reasonings = [run.traces["steps"].iat[i] for i in traces]
    through = dict(zip(traces, flow_round_trip(reasoner, reasonings), strict=True))
    codec, flow = [], []
    for trace, s, text in zip(
        thoughts["trace"], thoughts["step_index"], thoughts["step"], strict=True
    ):
        survived = through[trace]
        codec.append(float(back[text]) if text in back else np.nan)
        flow.append(np.nan if text is None or survived is None else float(survived[s]))
    return pd.DataFrame({"codec_round_trip": codec, "flow_round_trip": flow})
