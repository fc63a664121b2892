"""The published JSON Schemas, made strict: a field that no schema tells of is a mistake of ours."""

from __future__ import annotations

import json
from typing import Any

import jsonschema

from ckptd.cli import schema


def check(name: str, document: object) -> Any:
    """Return a document if it is what the schema `name` promises, and nothing beside it."""
    published = json.loads(schema.text(name))
    validator = jsonschema.Draft202012Validator
    validator.check_schema(published)
    validator(strict(published)).validate(document)
    return document


def strict(part: Any) -> Any:
    """Return a schema whose objects may have no other fields than those it names."""
    if isinstance(part, list):
        return [strict(each) for each in part]
    if not isinstance(part, dict):
        return part
    made = {key: strict(value) for key, value in part.items()}
    return {**made, "additionalProperties": False} if isinstance(part.get("properties"), dict) else made
