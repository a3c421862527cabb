"""Which replica holds a conversation in its prefix cache."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.replicas.member import Member

REMEMBERED = 4096


def conversation_keys(request: Any) -> list[int]:
    """A number for each beginning of the request's conversation, the shortest first; none where it has none.

    Two requests that begin alike share the numbers of what they share. A collision costs a prefill, nothing else: they
    only choose among replicas that would all give the same answer.
    """
    turns = [(turn.role, turn.content) for turn in getattr(request, "messages", ())]
    prompt = getattr(request, "prompt", "")
    if prompt:
        turns.append(("user", prompt))
    system = getattr(request, "system", "")
    if system:
        turns.insert(0, ("system", system))
    keys: list[int] = []
    for turn in turns:
        keys.append(hash((keys[-1] if keys else 0, turn)))
    return keys


class Affinity:
    """Remembers by the beginnings of conversations where they were last; the least recently used are forgotten."""

    def __init__(self) -> None:
        self._members: OrderedDict[int, Member] = OrderedDict()

    def find(self, keys: list[int]) -> Member | None:
        """The member that has the most of a conversation."""
        return next((self._members[key] for key in reversed(keys) if key in self._members), None)

    def note(self, keys: list[int], member: Member) -> None:
        """The member works on this conversation now."""
        for key in keys:
            self._members[key] = member
            self._members.move_to_end(key)
        while len(self._members) > REMEMBERED:
            self._members.popitem(last=False)

    def forget(self, member: Member) -> None:
        """The member's cache is gone."""
        for key in [key for key, holder in self._members.items() if holder is member]:
            del self._members[key]
