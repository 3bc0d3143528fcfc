"""Which field of a user's file is wrong, and what was expected there? In plain words."""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

__all__ = ["Place", "first_fault"]

Place = tuple[int | str, ...]

_EXPECTED = {
    "string_type": "text",
    "string_too_short": "text that is not empty",
    "string_pattern_mismatch": "text that is not blank",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dataclass_type": "a mapping",
}
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
_UNION_TAGS = ("str", "int", "float", "bool", "dict[str,any]")
_LONGEST = 40


def first_fault(error: ValidationError, model: type[BaseModel]) -> tuple[Place, str]:
    """Where is the first fault, from the outside in, and what is wrong there?

    `model` is what was validated: its fields are named when one is unknown. The place is empty
    for a fault of the whole.
    """
    details = error.errors()
    first = details[0]
    place = first.get("ctx", {}).get("place", first["loc"])
    if place and place[-1] in _UNION_TAGS:
        # One value, refused as each type of a union; the last part of the place names the type.
        refused = [d["type"] for d in details if d["loc"][:-1] == place[:-1]]
        choices = list(dict.fromkeys(_EXPECTED[kind] for kind in refused if kind in _EXPECTED))
        if len(choices) > 1:
            return place[:-1], f"expected {_either(choices)}{_found(first)}"
    return place, _words(first, place, model)


def _words(fault: ErrorDetails, place: Place, model: type[BaseModel]) -> str:
    kind = fault["type"]
    if kind == "missing":
        return "is missing"
    if kind in _UNKNOWN:
        return f"is not known; expected one of {', '.join(_fields_at(model, place[:-1]))}"
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}{_found(fault)}"
    if kind == "value_error":
        return str(fault["ctx"]["error"])
    says = fault["msg"].removeprefix("Input should be ")
    return says if says == fault["msg"] else f"expected {says}{_found(fault)}"


def _either(choices: list[str]) -> str:
    if "a number" in choices:
        choices = [choice for choice in choices if choice != "a whole number"]
    return f"{', '.join(choices[:-1])} or {choices[-1]}"


def _found(fault: ErrorDetails) -> str:
    value = fault["input"]
    if value is None:
        return ", found nothing (null)"
    if isinstance(value, dict):
        return ", found a mapping"
    if isinstance(value, list | tuple):
        return ", found a list"
    shown = ascii(value)
    return f", found {shown if len(shown) <= _LONGEST else shown[:_LONGEST] + '…'}"


def _fields_at(model: Any, place: Place) -> list[str]:
    kind = model
    for part in place:
        if not isinstance(part, int):
            kind = _annotations(kind).get(part)
    return list(_annotations(kind))


def _annotations(kind: Any) -> dict[str, Any]:
    """The fields of a model or dataclass, or of the one in a list or union."""
    for option in (kind, *get_args(kind)):
        if isinstance(option, type) and issubclass(option, BaseModel):
            return {name: field.annotation for name, field in option.model_fields.items()}
        if isinstance(option, type) and is_dataclass(option):
            return get_type_hints(option)
    return {}
