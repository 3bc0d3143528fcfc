"""Load a reasoner from a folder, or say in one line why it is not one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging

from nfcot_model.checkpoints import SHIPPED
from nfcot_model.config import FORMAT_VERSION
from nfcot_model.errors import UserError
from nfcot_model.files import content_hash, file_hash
from nfcot_model.reasoners.kinds import FAMILIES, KINDS, WITH_DENSITY, reasoner_over
from nfcot_model.reasoners.nfcot import NFCoTReasoner
from nfcot_model.reasoners.protocol import Reasoner

__all__ = ["checkpoint_hash", "load_nfcot", "load_reasoner"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def checkpoint_hash(folder: Path) -> str:
    """Which model is this? 16 hex digits over weights, config and tokenizer."""
    names = ("config.json", "model.safetensors", "tokenizer.json")
    return content_hash({n: file_hash(folder / n) for n in names if (folder / n).exists()})


def load_nfcot(path: Path | str, dtype: str = "float32", device: str = "cpu") -> NFCoTReasoner:
    """The NF-CoT reasoner in a folder, for tools that need its density, flow or codec.

    Unified or Dual-Path. Raises UserError as `load_reasoner`, and for a folder of another kind.
    """
    reasoner = load_reasoner(path, dtype, device, kinds=WITH_DENSITY)
    assert isinstance(reasoner, NFCoTReasoner)
    return reasoner


def load_reasoner(
    path: Path | str,
    dtype: str = "float32",
    device: str = "cpu",
    kinds: Sequence[str] = KINDS,
) -> Reasoner:
    """The reasoner in a checkpoint folder, ready to think; "demo" is the shipped one (`SHIPPED`).

    Its config.json says of which kind it is; `kinds` are those that will do. Raises UserError when
    the folder is missing, not ours, of another kind or format version, or damaged.
    """
    folder = SHIPPED.get(str(path), Path(path))
    if dtype not in DTYPES:
        raise UserError(f"dtype '{dtype}': choose one of {', '.join(DTYPES)}")
    family = _check_folder(folder, kinds)
    _check_device(device)
    transformers_logging.disable_progress_bar()
    try:
        loaded: Any = FAMILIES[family].from_pretrained(
            folder, dtype=DTYPES[dtype], local_files_only=True, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{folder}: damaged checkpoint ({reason}); copy it again") from error
    model, report = loaded
    wrong = sorted([*report["missing_keys"], *report["unexpected_keys"]])
    if wrong:
        raise UserError(
            f"{folder}: damaged checkpoint ({len(wrong)} weights missing or unknown, such as"
            f" '{wrong[0]}'); copy it again"
        )
    torch.nn.Module.to(model, device)
    return reasoner_over(model, tokenizer, checkpoint_hash(folder))


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device '{device}' cannot be used ({reason}); use cpu") from None


def _check_folder(folder: Path, kinds: Sequence[str]) -> str:
    """The family of models that the folder's config.json names, when it can be loaded."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such model folder; give a folder made by `nfcot train`")
    try:
        config = json.loads((folder / "config.json").read_text())
    except FileNotFoundError:
        raise UserError(
            f"{folder}: has no config.json; give a folder made by `nfcot train`"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}/config.json: unreadable ({error}); copy it again") from None
    family = config.get("model_type") if isinstance(config, dict) else None
    if family not in FAMILIES:
        raise UserError(
            f"{folder}: model_type is '{family}', expected 'nfcot' or 'nfcot-baseline'; to think"
            " with another causal LM, train it first with `nfcot train … --backbone FOLDER`"
        )
    version = config.get("format_version")
    if version != FORMAT_VERSION:
        raise UserError(
            f"{folder}: checkpoint format {version}, this version reads {FORMAT_VERSION};"
            " install the matching nfcot-scope or train again"
        )
    kind = config.get("reasoner", "nfcot")
    if kind not in KINDS:
        raise UserError(
            f"{folder}: reasons as '{kind}', this version knows {', '.join(KINDS)}; install the"
            " matching nfcot-scope"
        )
    if kind not in kinds:
        raise UserError(f"{folder}: reasons as '{kind}', expected a model of {' or '.join(kinds)}")
    if not (folder / "model.safetensors").exists():
        raise UserError(f"{folder}: model.safetensors is missing; copy the folder again")
    return str(family)
