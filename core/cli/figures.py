"""Figures of answers in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from core.loop.result import CallFigures


def seconds(milliseconds: float) -> str:
    """A time as people read it: `340 ms`, `2.1 s`."""
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f} s"


def describe(figures: CallFigures) -> str:
    """One line of what a call cost."""
    parts = [
        f"{figures.tokens} tokens",
        f"{figures.tokens_per_second:.1f} tok/s",
        f"{seconds(figures.latency_ms)} ({seconds(figures.time_to_first_token_ms)} to the first token)",
        f"{figures.cached_tokens} of {figures.prompt_tokens} prompt tokens cached",
    ]
    if figures.queue_ms >= 1:
        parts.append(f"{seconds(figures.queue_ms)} in the queue")
    if figures.lookup_tokens:
        parts.append(f"lookup {figures.lookup_accepted} of {figures.lookup_tokens} right")
    if figures.finish_reason != "stop":
        parts.append(f"ended by {figures.finish_reason}")
    return ", ".join(parts)


_WHY_EMPTY = {
    "stop": "the model ended its turn at once",
    "stop_string": "it began with a stop string",
    "length": "the tokens that it may have spell nothing",
    "context_full": "the prompt fills the model's context",
    "time_budget": "there was none yet when its time was over",
}


def why_empty(figures: CallFigures) -> str:
    """Why an answer has no text."""
    return f"the answer is empty: {_WHY_EMPTY.get(figures.finish_reason, 'the skill wrote nothing')}"


def where(origin: str, target: str) -> str:
    """Where an answer was written, after `by <model>`."""
    known = {
        "embedded": f"in a local process, embedded ({target})",
        "container": f"in the container on this host ({target})",
        "running": f"at the server that runs on this host ({target})",
        "address": f"at {target}",
    }
    return known.get(origin, f"at {target} ({origin})")


def table(rows: Sequence[Sequence[str]], *, left: int) -> list[str]:
    """Rows in columns.

    Args:
        rows: of equal length, the heading first. Columns that hold nothing below it are left out.
        left: so many columns stand at their left edge, the others at their right.
    """
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    kept = [i for i, column in enumerate(zip(*rows, strict=True)) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    return [
        "  ".join(
            f"{row[i]:<{width}}" if i < left else f"{row[i]:>{width}}" for i, width in zip(kept, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


def message_dict(message: Any) -> dict[str, Any]:
    """A protobuf message as plain values, names as in the proto, 64-bit numbers as numbers."""
    from google.protobuf.json_format import MessageToDict

    values = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return _in_order(message.DESCRIPTOR, values)


def _in_order(descriptor: Any, values: dict[str, Any]) -> dict[str, Any]:
    """The values of a message in the proto's order. Protobuf's JSON writes 64-bit numbers as strings."""
    plain = {}
    for field in descriptor.fields:
        value = values.get(field.name)
        if isinstance(value, dict) and field.message_type:
            value = _in_order(field.message_type, value)
        elif isinstance(value, str) and field.cpp_type == field.CPPTYPE_INT64:
            value = int(value)
        if value is not None:
            plain[field.name] = value
    return plain
