"""An engine of a model that fits into memory without images alone: `python -m tests.large_engine serve …`.

`LARGE=refuses`: next to images it does not start; `LARGE=few`: it has a cache of 512 cells then.
"""

from __future__ import annotations

import dataclasses
import os
import sys

from skills.skill_draft.engine import __main__ as engine_main
from skills.skill_draft.engine.binding import ModelError
from skills.skill_draft.engine.loading import Loaded, load
from skills.skill_draft.engine.messages import EngineConfig

LARGE = ("-m", "tests.large_engine", "serve")


def _load(config: EngineConfig) -> Loaded:
    if config.reserved_bytes and os.environ["LARGE"] == "refuses":
        raise ModelError("the model's buffers need 9 MB more than there are")
    if config.reserved_bytes:
        config = dataclasses.replace(config, n_ctx=256, kv_cells=512)
    return load(config)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        from skills.skill_draft.server import main

        sys.exit(main(sys.argv[2:], engine_module="tests.large_engine"))
    vars(engine_main)["load"] = _load
    sys.exit(engine_main.main())
