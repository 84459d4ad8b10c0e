"""Answers as JSON, exactly as the AWS SDK writes them (contract §1.4, "response forms").

Two spellings on purpose: an agent's value goes through `json.dumps` with its default separators, while the
SDK's own small objects (`/ping`, errors) are compact, as Starlette's JSONResponse makes them.
"""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_DEEPEST = 50


def compact(value: Any) -> bytes:
    """The SDK's own objects."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")


def to_json(value: Any, warn: Callable[[str], None]) -> bytes:
    """An agent's value, converted step by step until something can be written."""
    return _to_text(value, warn).encode("utf-8")


def to_event(value: Any, warn: Callable[[str], None]) -> bytes:
    """An agent's value as one server-sent event."""
    return f"data: {_to_text(value, warn)}\n\n".encode()


def error_event(error: Exception, warn: Callable[[str], None]) -> bytes:
    """The last event of a stream whose generator raised."""
    return to_event(
        {
            "error": str(error),
            "error_type": type(error).__name__,
            "message": "An error occurred during streaming",
        },
        warn,
    )


def _to_text(value: Any, warn: Callable[[str], None]) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        pass
    try:
        return json.dumps(_convert(value), ensure_ascii=False)
    except Exception:  # whatever an agent's own model_dump() raises
        pass
    try:
        return json.dumps(str(value), ensure_ascii=False)
    except Exception as error:  # a __str__ that raises
        warn(f"Failed to serialize object: {type(error).__name__}: {error}")
        return json.dumps({"error": "Serialization failed", "original_type": type(value).__name__})


def _convert(value: Any, depth: int = 0) -> Any:
    """Pydantic models, dataclasses and sets as plain values."""
    if depth > _DEEPEST:
        return f"<too_deep:{type(value).__name__}>"
    if hasattr(value, "model_dump"):
        return value.model_dump()
    if hasattr(value, "__dataclass_fields__"):
        from dataclasses import asdict

        return asdict(value)
    if isinstance(value, dict):
        return {key: _convert(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_convert(item, depth + 1) for item in value]
    return value
