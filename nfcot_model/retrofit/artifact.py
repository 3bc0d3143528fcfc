"""A fitted flow on disk: `flow.safetensors` and `retrofit.json`, never pickles."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from nfcot_model.errors import UserError
from nfcot_model.files import content_hash, file_hash, read_json_object, replacing, write_json
from nfcot_model.retrofit.fit import Fit, FitSettings, fresh_flow
from nfcot_model.retrofit.flow import RetrofitFlow
from nfcot_model.traces import Run

__all__ = ["Retrofit", "load_retrofit", "save_retrofit"]

FORMAT_VERSION = 1
_MEND = "fit it again with nfcot run retrofit"


@dataclass(frozen=True)
class Retrofit:
    """A flow and what is known of it: settings, quality, groups it has seen, the run's model."""

    flow: RetrofitFlow
    document: dict[str, Any]

    @property
    def hash(self) -> str:
        return str(self.document["hash"])


def save_retrofit(fit: Fit, run: Run, folder: Path) -> dict[str, Any]:
    """Write the artefact; the JSON, written last, names the weights' hash. Returns the JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "flow.safetensors") as temporary:
        save_file({k: v.contiguous() for k, v in fit.flow.state_dict().items()}, temporary)
    fields = {
        "format_version": FORMAT_VERSION,
        "scorer": "retrofit",
        "run": run.name,
        "run_hash": run.hash,
        "reasoner": run.manifest["reasoner"],
        "checkpoint_hash": run.manifest["checkpoint_hash"],
        "D": fit.flow.D,
        "max_thoughts": fit.max_thoughts,
        "settings": asdict(fit.settings),
        "quality": fit.quality.to_dict(),
        "groups": list(fit.groups),
        "weights_sha256": file_hash(folder / "flow.safetensors"),
        "versions": {name: version(name) for name in ("nfcot-scope", "torch", "scikit-learn")},
    }
    document = {**fields, "hash": content_hash(fields)}
    write_json(folder / "retrofit.json", document)
    return document


def load_retrofit(folder: Path) -> Retrofit:
    """The flow in a folder. Raises UserError when it is missing, damaged or of another version."""
    if not (folder / "retrofit.json").is_file():
        raise UserError(f"{folder}: holds no retrofit.json; make it with nfcot run retrofit")
    document = read_json_object(folder / "retrofit.json")
    if document.get("format_version") != FORMAT_VERSION:
        raise UserError(f"{folder}/retrofit.json: not of format {FORMAT_VERSION}; {_MEND}")
    fields = {name: value for name, value in document.items() if name != "hash"}
    weights = folder / "flow.safetensors"
    try:
        damaged = file_hash(weights) != document["weights_sha256"]
        if damaged or content_hash(fields) != document["hash"]:
            raise UserError(f"{folder}: damaged (its hashes do not fit); {_MEND}")
        settings = FitSettings(**document["settings"])
        flow = fresh_flow(document["D"], settings, document["max_thoughts"])
        flow.load_state_dict(load_file(weights))
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{folder}: cannot be read ({reason}); {_MEND}") from None
    return Retrofit(flow.eval(), document)
