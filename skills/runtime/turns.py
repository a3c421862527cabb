"""The turns of a conversation, for skills that read text alone."""

from __future__ import annotations

from skills import skills_pb2

from .status import RefusedError

UNKNOWN_PART = "is of a kind that this server does not know, or empty"


def text_of(turn: skills_pb2.Message, path: str) -> str:
    """Return the text of a turn, whether it stands in `content` or in parts.

    Args:
        turn: as it came.
        path: where it stands in the request, for example `messages[2]`.

    Raises:
        RefusedError: the turn has both, or a part that is no text.
    """
    if turn.parts and turn.content:
        raise RefusedError("is set and `parts` too: send one of them", field=f"{path}.content")
    return "".join(_text_of(part, f"{path}.parts[{i}]") for i, part in enumerate(turn.parts)) or turn.content


def in_text(request: skills_pb2.GenReq) -> skills_pb2.GenReq:
    """Return a request whose turns have their text in `content`.

    Raises:
        RefusedError: as in `text_of`.
    """
    if not any(turn.parts for turn in request.messages):
        return request
    same = skills_pb2.GenReq()
    same.CopyFrom(request)
    for i, turn in enumerate(same.messages):
        turn.content = text_of(turn, f"messages[{i}]")
        del turn.parts[:]
    return same


def _text_of(part: skills_pb2.Part, path: str) -> str:
    match part.WhichOneof("kind"):
        case "text":
            return part.text
        case "image":
            raise RefusedError(
                "this skill reads text alone: ask a server whose Health names the feature `images`, or say in words "
                "what the image shows",
                field=f"{path}.image",
            )
    raise RefusedError(UNKNOWN_PART, field=path)
