"""Look again and again, whatever fails."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

LOOK_EVERY_S = 0.5
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


def keep_looking(look: Callable[[], _T], tell: Callable[[_T], None], wait: Callable[[float], bool]) -> None:
    """Look twice a second until told to stop.

    Args:
        look: Finds out what there is, decides, and acts. Of equal errors that follow one another, the first is logged.
        tell: Takes what has come of it. Its errors end this.
        wait: Waits for some seconds; returns whether to stop.
    """
    said = ""
    while True:
        begin_s, why = time.monotonic(), ""
        try:
            found = look()
        except Exception as error:  # noqa: BLE001  # whatever it is, the next look may be better
            why = str(error) or repr(error)
            if why != said:
                _log.warning("the number of replicas stays as it is: %s", why)
        else:
            tell(found)
        said = why
        if wait(max(0.0, begin_s + LOOK_EVERY_S - time.monotonic())):
            return
