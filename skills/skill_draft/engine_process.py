"""The server's end of the engine process. Frames are pickled, as both ends run our own code."""

from __future__ import annotations

from typing import Self

from skills.runtime.child import PICKLE
from skills.runtime.child_process import ChildGoneError as EngineGoneError
from skills.runtime.child_process import ChildProcess

from .engine.messages import Command, EngineConfig, Event
from .engine_start import start

__all__ = ["EngineGoneError", "EngineProcess"]


class EngineProcess(ChildProcess[EngineConfig | Command, list[Event]]):
    """One engine process and the socket to it."""

    codec = PICKLE

    @classmethod
    async def start(cls, module: str, numerics: str) -> Self:
        """Start `python -m module`; it waits for its configuration."""
        return await cls.connect(start(module, numerics))
