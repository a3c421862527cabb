"""gRPC, imported so that its C core does not write its own log lines (`I1123 … Got goaway`) into the user's terminal.

It reads GRPC_VERBOSITY while it is imported; the variable is set for that moment only, and not at all where the user
has set it. Every file of `core` takes `grpc` from here.
"""

from __future__ import annotations

import os
import sys

_VARIABLE = "GRPC_VERBOSITY"

if "grpc" in sys.modules or _VARIABLE in os.environ:
    import grpc
else:
    os.environ[_VARIABLE] = "ERROR"
    try:
        import grpc
    finally:
        del os.environ[_VARIABLE]

__all__ = ["grpc"]
