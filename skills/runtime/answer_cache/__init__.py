"""Keeps answers that are functions of their requests: in memory, on disk, and in a store that replicas share."""

from .cache import AnswerCache, CacheFigures
from .kept import Kept, Tier

__all__ = ["AnswerCache", "CacheFigures", "Kept", "Tier"]
