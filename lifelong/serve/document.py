"""What the OpenAPI document says of a service's rows and labels, beyond what their types do."""

from __future__ import annotations

from typing import Any

from lifelong.serve.schema import LARGEST, Schema


def describe(document: dict[str, Any], schema: Schema, rows: int, events: int) -> None:
    """Put a service's own shapes, ranges and limits into its document, in place.

    Args:
        document: whose `components.schemas` are as msgspec makes them of the bodies' types.
        schema: of rows and labels.
        rows: in one request at most.
        events: in one request at most, where several may be sent.

    Example:
        >>> found = {"Label": {"properties": {"y": {"type": "number"}}}}
        >>> document = {"components": {"schemas": found}, "paths": {}}
        >>> describe(document, Schema((2,), classes=3), rows=8, events=9)
        >>> found["Label"]["properties"]["y"]
        {'type': 'integer', 'minimum': 0, 'maximum': 2}
    """
    for parts in document["components"]["schemas"].values():
        properties = parts.get("properties", {})
        if "x" in properties:
            properties["x"] = _row(schema)
        if "y" in properties:
            properties["y"] = _label(schema)
        if "rows" in properties:
            properties["rows"] = _list(_row(schema), 1, rows)
            parts["oneOf"] = [{"required": ["x"]}, {"required": ["rows"]}]
    for path in document["paths"].values():
        for operation in path.values():
            content = operation.get("requestBody", {}).get("content", {})
            for choice in content.get("application/json", {}).get("schema", {}).get("anyOf", ()):
                if choice.get("type") == "array":
                    choice |= {"minItems": 1, "maxItems": events}


def _row(schema: Schema) -> dict[str, Any]:
    low = -LARGEST if schema.low is None else schema.low
    high = LARGEST if schema.high is None else schema.high
    number: dict[str, Any] = {"type": "number", "minimum": low, "maximum": high}
    flat = _list(number, schema.size, schema.size)
    if len(schema.shape) == 1:
        return flat
    nested = number
    for size in reversed(schema.shape):
        nested = _list(nested, size, size)
    return {"anyOf": [flat, nested]}


def _label(schema: Schema) -> dict[str, Any]:
    if schema.classes is None:
        return {"type": "number", "minimum": -LARGEST, "maximum": LARGEST}
    return {"type": "integer", "minimum": 0, "maximum": schema.classes - 1}


def _list(items: dict[str, Any], least: int, most: int) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}
