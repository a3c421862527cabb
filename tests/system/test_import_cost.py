from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROBE = """
import json, sys
import {module}
with open("/proc/self/status") as status:
    rss_kb = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
import os
print(json.dumps([rss_kb, sorted(sys.modules), os.environ.get("GRPC_VERBOSITY")]))
"""


@pytest.mark.parametrize("module", ["core", "core.model_pool", "core.pool.client"])
def test_importing_core_is_cheap(module: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROBE.format(module=module)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    rss_kb, modules, verbosity = json.loads(run.stdout)
    assert rss_kb < 60 * 1000
    assert not {"llama_cpp", "numpy", "rich", "click", "jinja2", "pydantic", "PIL"} & set(modules)
    assert not [name for name in modules if name.startswith("skills")]
    assert verbosity is None, "importing changed the host's environment"


def loaded_by(code: str) -> set[str]:
    """Return the modules that a program loads."""
    probe = f"import sys\n{code}\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize("code", ["import sarai", "from sarai import errors", "from sarai import PoolConfig"])
def test_what_needs_no_grpc_loads_none(code: str) -> None:
    assert not {"grpc", "google.protobuf", "pluggy"} & loaded_by(code)


def test_a_plugin_loads_what_it_needs_alone() -> None:
    loaded = loaded_by("from sarai import Resources, SkillSpec, hookimpl")
    assert "core.hookspecs" in loaded
    assert not {"grpc", "google.protobuf", "core.config", "core.model_pool"} & loaded
