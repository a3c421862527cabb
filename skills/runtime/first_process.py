"""The first process of a container: the kernel keeps from it the signals that it has no handler for."""

from __future__ import annotations

import os
import signal


def end_when_told() -> None:
    """Let SIGTERM end a first process that does not serve yet, as it ends others.

    Without a handler it is lost, and a container that is stopped within its first second is killed after its whole
    grace period. The image's entry point blocks the signal until here. Serving replaces the handler.
    """
    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
