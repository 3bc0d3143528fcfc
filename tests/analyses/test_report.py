"""Reports: thirteen sections, one page without network, rows and JSON by the published schema."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner

import analyses
from analyses.audit import audit_run
from analyses.calibrate import Rule
from analyses.clean import CleanSet, clean_set
from analyses.cli import app
from analyses.known import known_validation
from analyses.report import NEGATIVE_STATEMENT, audit_html, audit_markdown, read_audit, write_audit
from analyses.report.evidence import evidence_sections
from analyses.report.schema import SCHEMA_FILE, AuditDocument, json_schema
from nfcot_model.checkpoints import demo_path
from nfcot_model.errors import UserError
from nfcot_model.reasoners.load import checkpoint_hash
from nfcot_model.terminal import jsonable
from nfcot_model.traces import Run
from tests.synthetic_run import synthetic_run

TITLES = [
    "Identity", "What was scored", "Calibration", "The batch", "Flagged trajectories",
    "Detector evidence", "Probe evidence", "Monitorability", "Causal summary", "Drift", "Coverage",
    "What this audit cannot see", "Deviations",
]  # fmt: skip


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> CleanSet:
    made = synthetic_run(tmp_path_factory.mktemp("clean") / "clean", n=700, D=8, seed=1)
    return clean_set(made, Rule(0.05))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    made = synthetic_run(folder / "run", n=120, D=8, seed=2, tamper="swap", tamper_every=6)
    made.thoughts.loc[40, "energy"] = float("nan")
    return made


RULES = [Rule(0.05), Rule(0.05, guaranteed=True), Rule(alpha=None, fdr=0.1)]


@pytest.mark.parametrize("rule", RULES)
def test_audit_json_is_as_the_published_schema_says(
    clean: CleanSet, run: Run, tmp_path: Path, rule: Rule
) -> None:
    write_audit(audit_run(run, clean, rule), tmp_path / "audit")
    text = (tmp_path / "audit" / "audit.json").read_text()
    document = json.loads(text)
    published = json.loads(SCHEMA_FILE.read_text())
    assert published == json_schema()
    jsonschema.Draft202012Validator(published).validate(document)
    AuditDocument.model_validate(document)
    assert read_audit(tmp_path / "audit") == document
    del document["calibration"]["cells"]
    with pytest.raises(jsonschema.ValidationError, match="cells"):
        jsonschema.Draft202012Validator(published).validate(document)


@pytest.mark.parametrize("rule", RULES)
def test_every_section_is_there_and_says_what_is_missing(
    clean: CleanSet, run: Run, rule: Rule
) -> None:
    text = audit_markdown(audit_run(run, clean, rule).summary)
    assert re.findall(r"^## \d+\. (.*)$", text, re.M) == TITLES
    assert NEGATIVE_STATEMENT in text
    for command in (
        "nfcot audit validate",
        "nfcot probe fit",
        "nfcot causal",
        "nfcot audit explain",
    ):
        assert command in text
    assert "| 0.0001 | 95% |" in text
    if rule.guaranteed:
        assert "with 95 % confidence over the draw of each calibration cell" in text
    if rule.fdr is not None:
        assert "is an average over batches" in text


class Page(HTMLParser):
    """Collects tags and whatever a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [v or "" for k, v in attrs if k in ("src", "href", "action", "data")]


def test_the_page_needs_no_network_and_runs_nothing(clean: CleanSet, run: Run) -> None:
    hostile = '<script src="http://evil">x</script> `**b**` <img src=x onerror=alert(1)>'
    thoughts = run.thoughts.assign(text=hostile)
    summary = audit_run(Run(run.path, run.manifest, run.traces, thoughts), clean, RULES[0]).summary
    summary["deviations"] = [hostile]
    text = audit_html(jsonable(summary))
    page = Page(text)
    assert page.fetched == []
    assert not {"script", "img", "link", "iframe"} & set(page.tags)
    assert "url(" not in text
    assert "@import" not in text
    assert page.tags.count("h2") == len(TITLES)
    assert page.tags.count("svg") > 5
    assert "&lt;script" in text


def document(run: Run, clean: Path, tmp_path: Path) -> Path:
    out = tmp_path / "audit"
    arguments = ["run", str(run.path), "--calibration", str(clean), "--alpha", "0.05"]
    result = CliRunner().invoke(app, [*arguments, "-o", str(out)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return out


def test_report_attaches_evidence_and_writes_rows(run: Run, tmp_path: Path) -> None:
    cleaner = synthetic_run(tmp_path / "clean", n=300, D=8, seed=5)
    audit = document(run, cleaner.path, tmp_path)
    validation = {
        "fpr": 0.0098,
        "table": [{"statistic": "score", "plant": "P1", "severity": 1, "auroc": 0.8611,
                   "tpr_at_1pct": 0.6, "low": 0.5, "high": 0.7}],
    }  # fmt: skip
    causal = {
        "tasks": [
            {"task": "digits", "verdict": "necessary+sufficient", "thoughts": [],
             "sufficiency": {"donor": {"value": 0.97}, "prompt": 0.0, "neither": None}}
        ]
    }  # fmt: skip
    probe = {
        "site": "u@3", "label": "offset",
        "metrics": {"accuracy": {"value": 0.9, "low": 0.8, "high": 1}},
        "controls": [{"name": "control task", "metrics": {"accuracy": {"value": 0.1}}}],
    }  # fmt: skip
    arguments = ["report", str(audit), "--deviation", "alpha was 0.01 in the plan"]
    found = {"--validation": validation, "--causal": causal, "--probe": probe}
    for flag, value in found.items():
        path = tmp_path / f"{flag[2:]}.json"
        path.write_text(json.dumps(value))
        arguments += [flag, str(path)]
    result = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    said = json.loads(result.stdout)
    assert said["evidence"] == ["causal", "probes", "validation"]
    for name in said["files"]:
        assert (audit / name).is_file()
    for page in ((audit / "audit.md").read_text(), (audit / "audit.html").read_text()):
        for words in (
            "0.861",
            "necessary+sufficient",
            "offset at u@3",
            "alpha was 0.01 in the plan",
        ):
            assert words in page
    kept = read_audit(audit)
    assert kept["evidence"]["validation"] == validation
    rows = [json.loads(line) for line in (audit / "rows.jsonl").read_text().splitlines()]
    kinds = [row["kind"] for row in rows]
    assert kinds.count("trajectory") == len(run.traces)
    assert kinds.count("thought") == len(run.thoughts)
    flagged = {row["trace_id"] for row in rows if row.get("flagged")}
    assert flagged == {flag["trace_id"] for flag in kept["flagged"]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("drift"), "field 'drift': Field required"),
        (lambda d: d.update(schema="nfcot-audit/1"), "field 'schema'"),
        (lambda d: d["flagged"][0].update(p_value="low"), "field 'flagged.0.p_value'"),
    ],
)
def test_what_is_no_audit_is_refused(
    clean: CleanSet, run: Run, tmp_path: Path, change: Any, words: str
) -> None:
    write_audit(audit_run(run, clean, RULES[0]), tmp_path)
    found = json.loads((tmp_path / "audit.json").read_text())
    change(found)
    (tmp_path / "audit.json").write_text(json.dumps(found))
    with pytest.raises(UserError, match=words) as error:
        CliRunner().invoke(app, ["report", str(tmp_path)], catch_exceptions=False)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "audit.html").exists()


def test_evidence_of_another_kind_is_refused(clean: CleanSet, run: Run, tmp_path: Path) -> None:
    write_audit(audit_run(run, clean, RULES[0]), tmp_path / "a")
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(UserError, match=r"x.json: has no field 'tasks'"):
        CliRunner().invoke(
            app,
            ["report", str(tmp_path / "a"), "--causal", str(tmp_path / "x.json")],
            catch_exceptions=False,
        )


def test_a_shipped_model_brings_what_the_planted_suite_found_of_it(run: Run) -> None:
    """Of its checkpoint at its tau, the combination first; of any other, nothing."""
    (file,) = (Path(analyses.__file__).parent / "measured").glob("*.json")
    found = known_validation(file.stem, 0.7)
    assert found is not None
    assert found["settings"]["checkpoint"] == file.stem == checkpoint_hash(demo_path())
    assert found["table"][0]["statistic"] == "combined"
    plants = {row["plant"] for row in found["table"]}
    assert {"P1-swap", "P8-flipped", "P9-released", "P14-attack", "P16-sandbag"} <= plants
    page = evidence_sections({"validation": found})[0].blocks
    assert file.stem in page[0].text
    assert known_validation(file.stem, 0.9) is None
    assert known_validation(run.manifest["checkpoint_hash"], 0.7) is None
