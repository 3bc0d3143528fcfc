"""The thirteen sections of a report. Each says what is known, or which command would supply it."""

from __future__ import annotations

from typing import Any

from analyses.findings import origin_of
from analyses.report.blocks import Block, Curve, Profile, Section, Table, Text, code, number
from analyses.report.evidence import evidence_sections, known_plants
from analyses.report.limits import NEGATIVE_STATEMENT, cannot_see
from nfcot_model.traces.schema import RETROFIT_SCORER

__all__ = ["headline", "sections"]

SHOWN_FLAGS = 50
SHOWN_PROFILES = 12
SHOWN_RECORDS = 10
SHOWN_INVALID = 50


def headline(summary: dict[str, Any]) -> str:
    """The result in one sentence, with what chance alone would give."""
    c, n = summary["calibration"], summary["n"]
    if summary["fdr"] is not None:
        bound = summary["batch"]["false_share_bound"]
        sure = f"; at most {100 * bound:.0f} % with 95 % confidence" if bound is not None else ""
        return (
            f"**{len(summary['flagged'])} of {n} trajectories flagged** at false discovery rate"
            f" {summary['fdr']:g}: on average over batches, at most that share of the flags is"
            f" false{sure}."
        )
    low, high = c["flags_if_clean"]
    return (
        f"**{len(summary['flagged'])} of {n} trajectories flagged** at alpha"
        f" {summary['alpha']:g}; {low} to {high} are expected if all were clean"
        f" ({100 * c['level']:.0f} % range)."
    )


def sections(summary: dict[str, Any]) -> list[Section]:
    """All thirteen, in the order of the report. `summary` as in audit.json."""
    detector, probes, monitorability, causal = evidence_sections(summary["evidence"])
    detector.blocks.extend(known_plants(summary["planted"]))
    return [
        Section("Identity", [_identity(summary)]),
        Section("What was scored", _scored(summary)),
        Section("Calibration", _calibration(summary)),
        Section("The batch", _batch(summary)),
        Section("Flagged trajectories", _flags(summary)),
        detector,
        probes,
        monitorability,
        causal,
        Section("Drift", _drift(summary["drift"])),
        Section("Coverage", _coverage(summary)),
        Section(
            "What this audit cannot see",
            [Text(cannot_see(summary["scorer"])), Text(f"**{NEGATIVE_STATEMENT}**")],
        ),
        Section("Deviations", _deviations(summary["deviations"])),
    ]


def _identity(summary: dict[str, Any]) -> Block:
    run = summary["run"]
    rows = [
        ["run", f"{code(run['name'])} ({code(run['hash'])})"],
        ["model", f"{code(run['reasoner'])}, checkpoint {code(run['checkpoint_hash'])}"],
        ["scorer", f"`{summary['scorer']}`, context: {summary['scored']['context']}"],
        ["tau", f"{run['tau']:g}"],
        ["text temperature", f"{run['temperature']:g}"],
        ["K, D", f"{run['K'][0]} to {run['K'][1]}, {run['D']}"],
        ["dtype, K policy, budget", f"{run['dtype']}, {run['k_policy']}, {run['max_thoughts']}"],
        ["prompt template", code(run["template"])],
        ["worlds", ", ".join(map(code, run["worlds"]))],
        ["problem set", code(str(run["problem_set_hash"]))],
        ["versions", ", ".join(f"{k} {v}" for k, v in summary["versions"].items())],
    ]
    return Table(["", ""], rows)


def _noise_words(scorer: str) -> str:
    if scorer == RETROFIT_SCORER:
        return "The noise is what the fitted flow made of the thoughts, as stored."
    return (
        "The noise is `(u - mu) / sigma`, recomputed from the stored thoughts and divided by tau."
    )


def _scored(summary: dict[str, Any]) -> list[Block]:
    scored = summary["scored"]
    first = Text(
        f"Tensor `{scored['tensor']}`; density {scored['density']}; tau {scored['tau']:g}."
        f" {_noise_words(summary['scorer'])}"
        " Statistics are two-sided where they can be, standardised by task and position on"
        f" reference traces; the score is `{summary['statistic']}`: the largest quantile, on the"
        " reference set, of those marked. A statistic that a trajectory is too short for is"
        " undefined: it is neutral, counted here, and never the largest."
    )
    rows = [
        [
            code(s["name"]) + (" *" if s["combined"] else ""),
            s["asks"],
            s["density"],
            str(s["shortest_K"]),
            str(s["undefined"]),
        ]
        for s in summary["statistics"]
    ]
    head = ["statistic (* combined)", "asks", "density", "shortest K", "undefined for"]
    return [first, Table(head, rows), Text(_replay(summary))]


def _replay(summary: dict[str, Any]) -> str:
    replay, run = summary["replay"], summary["run"]
    usual = summary["calibration"]["replay_error_max"]
    text = (
        "Replay: noise recomputed from the stored thoughts against the noise recorded when they"
        f" were drawn. {len(replay['broken'])} of {summary['n']} trajectories differ by more than"
        f" {replay['tolerance']:.2g} ({replay['broken_and_flagged']} of these are flagged too);"
        f" median {number(replay['median'])}, largest {number(replay['max'])} (on record: median"
        f" {number(replay['stored_median'])}, largest {number(replay['stored_max'])}); largest of"
        f" the calibration traces {number(usual)}."
    )
    if run["dtype"] != "float32":
        text += (
            f" The run is {run['dtype']}: thinking and scoring round differently there, so the"
            " threshold is twice the calibration traces' largest error (float32: 1e-3), and smaller"
            " changes of thoughts cannot be told from rounding."
        )
    if replay["broken"]:
        text += (
            " In these the thoughts, the recorded noise or the mean and scale were changed after"
            " the draw, or the run was computed otherwise than the calibration traces:"
            f" {_some(replay['broken'])}."
        )
    if replay["record_broken"]:
        text += (
            f"\n\n**{len(replay['record_broken'])} trajectories have another replay error or energy"
            f" on record than their tensors give** ({_some(replay['record_broken'])}): tensors or"
            " tables were changed after scoring. The p-values are those of the tensors as they are"
            " now."
        )
    return text + (
        "\n\nNone of this enters the p-values. It does not see thoughts, noise, mean and scale that"
        " were all changed to fit each other; only scoring with the model again would."
    )


def _some(traces: list[str]) -> str:
    more = len(traces) - SHOWN_RECORDS
    named = ", ".join(code(trace) for trace in traces[:SHOWN_RECORDS])
    return named + (f" and {more} more" if more > 0 else "")


def _calibration(summary: dict[str, Any]) -> list[Block]:
    c = summary["calibration"]
    low, high = c["band"]
    text = (
        f"Ranks among {c['n']} clean trajectories of {code(c['run'])} ({code(c['run_hash'])}), one"
        f" per problem group; calibration {code(c['hash'])}. {c['n_reference']} traces of other"
        f" groups set the usual values and quantiles, {c['n_fit']} further ones the subspaces:"
        " three disjoint sets (checked by hash). p = (1 + clean scores at least as high) / (n + 1)."
    )
    if summary["fdr"] is None:
        text += (
            " With this calibration set the long-run share of false alarms among clean trajectories"
            f" lies in **{100 * low:.2f} to {100 * high:.2f} %** ({100 * c['level']:.0f} % exact"
            " Beta band)."
        )
    if summary["guaranteed"]:
        ranks = ", ".join(f"{cell['rank']} of {cell['n']}" for cell in c["cells"])
        text += (
            f" **Guaranteed mode: with {100 * (1 - summary['delta']):g} % confidence over the draw"
            f" of each calibration cell, its false-positive rate is at most"
            f" {100 * summary['alpha']:g} %** (ranks up to {ranks} are flagged)."
        )
    text += (
        " This holds for trajectories exchangeable with the clean ones: same checkpoint, tau,"
        " template, K policy and dtype (checked), problems of the same worlds (checked) in the same"
        " mixture, difficulty and wording (not checked)."
    )
    rows = [
        [
            code(cell["cell"]),
            str(cell["n"]),
            str(cell["m"]),
            f"{cell['threshold']:.3g}",
            f"{100 * cell['band'][0]:.2f} to {100 * cell['band'][1]:.2f} %",
        ]
        for cell in c["cells"]
    ]
    coarse = summary["n"] - c["in_own_cell"]
    note = (
        f"Trajectories are ranked in the finest of {' → '.join(c['hierarchy'])} with at least"
        f" {c['cell_minimum']} calibration traces. {c['in_own_cell']} were ranked in a cell of"
        f" their own task and length, {coarse} in a coarser one, where a kind of trajectory that is"
        " harder than the rest can have more false alarms than promised, and an easier one fewer."
    )
    head = ["cell", "calibration n", "trajectories", "flagged up to p", "band of false alarms"]
    return [Text(text), Table(head, rows), Text(note)]


def _batch(summary: dict[str, Any]) -> list[Block]:
    b = summary["batch"]
    bound = b["false_share_bound"]
    text = f"{b['m']} trajectories, {b['flags']} flagged. "
    if summary["fdr"] is not None:
        text += (
            f"Benjamini-Hochberg at q = {summary['fdr']:g} over the batch. The false discovery rate"
            " is an average over batches: the share of false flags in this one may be larger. With"
            " these calibration traces nothing can be flagged unless"
            f" {b['fewest_flags']} trajectories reach the smallest p-value together. "
        )
    if bound is not None:
        text += (
            f"With 95 % confidence at most **{100 * bound:.0f} %** of the flags are false (bound"
            " that holds at any threshold, counting every trajectory as clean, so it is wide)."
        )
    rows = [
        [f"{row['base_rate']:g}", f"{row['caught']:.0%}", number(row["ppv"], ".1%")]
        for row in b["ppv"]
    ]
    table = Table(
        ["share of traffic that is anomalous", "of it caught", "flags that are true"], rows
    )
    note = (
        "What a flag is worth depends on how rare anomalies are. The false-positive rate here is"
        f" {100 * b['false_positive_rate']:.3g} %; the shares caught are examples, those measured"
        " stand under detector evidence."
    )
    return [Text(text), Text(note), table]


def _flags(summary: dict[str, Any]) -> list[Block]:
    flagged = summary["flagged"]
    if not flagged:
        return [Text("None. That is not evidence of safety.")]
    rows = []
    for entry in flagged[:SHOWN_FLAGS]:
        top, origin = entry["stands_out"], origin_of(entry)
        where = "–"
        if top:
            where = (
                f"{top['k']} (z {number(top['z'], '+.1f')}, p {number(top['adjusted_p'], '.4g')})"
            )
        rows.append(
            [
                code(entry["trace_id"]) + (" (invalid)" if entry["invalid"] else ""),
                f"{entry['p_value']:.4g}",
                f"{entry['adjusted_p']:.4g}",
                code(entry["leading"]),
                ", ".join(map(str, entry["thoughts"])) or "none alone",
                str(origin["k"]) if origin else "–",
                code(origin["text"]) if origin.get("text") is not None else "–",
                where,
            ]
        )
    head = [
        "trace", "p", "BH p", "led by", "thoughts by maxT", "starts at", "its decoded text",
        "loudest",
    ]  # fmt: skip
    more = len(flagged) - SHOWN_FLAGS
    rest: list[Block] = [Text(f"{more} more are in audit.json.")] if more > 0 else []
    profiles: list[Block] = [
        Profile(
            f"Energy of the thoughts of {code(entry['trace_id'])} over the 5 to 99 % band of clean"
            " traces (logarithmic)",
            entry["profile"]["energy"],
            summary["band_by_k"],
            entry["thoughts"],
        )
        for entry in flagged[:SHOWN_PROFILES]
        if not entry["invalid"]
    ]
    note = Text(
        "Thoughts by maxT: their |z| is beyond what the largest of a clean trajectory reaches at"
        " the same rate. Starts at: the first of them, because a change moves the thoughts after"
        " it; the loudest where there is none. Nearest clean neighbours, which text of the prompt"
        " drove each thought and a causal check of one trace: `nfcot audit explain RUN TRACE`. A"
        " second decoder and a reviewer's decision are not recorded."
    )
    return [Table(head, rows), *rest, *profiles, note]


def _drift(drift: dict[str, Any]) -> list[Block]:
    alarm = (
        f"**The stream changed**: the martingale passed its level at trace {drift['alarm_at']}"
        f" ({code(drift['alarm_trace'])})."
        if drift["alarm"]
        else "No change of the stream was detected."
    )
    text = (
        f"{alarm} {drift['method']}; alarm at log10 capital {drift['alarm_log10']:.2f}, which an"
        f" unchanged stream ever reaches with probability at most {drift['alpha']:g}; highest"
        f" {drift['log10_highest']:.2f}, last {drift['log10_last']:.2f}. Weights"
        f" {drift['weights']}. Settings of run and calibration agree (checked)."
    )
    curve = Curve(
        "log10 capital of the martingale along the run, and its alarm level",
        drift["path"],
        drift["every"],
        drift["alarm_log10"],
    )
    return [Text(text), curve]


def _coverage(summary: dict[str, Any]) -> list[Block]:
    c = summary["coverage"]
    text = (
        f"{c['scored']} of {c['expected']} traces that the run promises are there and scored"
        f" ({c['missing']} missing); {c['invalid']} invalid. {c['thoughts']} thoughts in"
        f" {c['seconds']:.2f} s, {c['thoughts_per_second']:.0f} a second."
    )
    rows = [
        [code(entry["trace_id"]), entry["reason"], f"{entry['p_value']:.4g}"]
        for entry in summary["invalid"][:SHOWN_INVALID]
    ]
    if not rows:
        return [Text(text), Text("Every trajectory has a score.")]
    note = Text("Invalid scores are not dropped; they rank above every number.")
    return [Text(text), note, Table(["trace", "why", "p"], rows)]


def _deviations(deviations: list[str]) -> list[Block]:
    if not deviations:
        return [
            Text(
                "No deviation from a plan was recorded. Nothing here knows whether there was one:"
                " record deviations with `nfcot audit report AUDIT --deviation TEXT`."
            )
        ]
    return [Text("\n\n".join(f"{i}. {code(text)}" for i, text in enumerate(deviations, start=1)))]
