"""A build backend (PEP 517) whose only product is the wheel of llama-cpp-python that `tools.llama_wheel` builds."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a build sees this folder alone

from tools.llama_wheel import get_wheel
from tools.setup_venv import choose_wheel


def build_wheel(wheel_directory: str, config_settings: Any = None, metadata_directory: Any = None) -> str:
    """Put the wheel into the folder, compiled if it is not cached, and return its name.

    Raises:
        StepError: It cannot be built; the text has the reason and a remedy.
    """
    del config_settings, metadata_directory
    return Path(shutil.copy(get_wheel(portable=choose_wheel() == "portable"), wheel_directory)).name


def build_sdist(sdist_directory: str, config_settings: Any = None) -> str:
    """Refuse: the source is llama-cpp-python's own, on the package index.

    Raises:
        NotImplementedError: Always.
    """
    raise NotImplementedError("take the source from llama-cpp-python's own release")
