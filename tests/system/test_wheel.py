"""A package that is installed from a wheel works without the tree: it serves, answers, and has its types."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from skills.skill_draft import VERSION
from tests.own_network import own_network
from tests.servers import ROOT
from tests.source_tree import typed
from tests.tracked import tracked_texts
from tools.llama_wheel import cache_dir, describe, kept_wheel

ASK = """
import core.model_pool
from sarai import GenReq, get_model_pool

assert get_model_pool is core.model_pool.get_model_pool
draft = get_model_pool().get_skill_client("draft")
answer = draft.Generate(GenReq(prompt="Hello", max_tokens=8, temperature=0.0), timeout=100)
print(answer.tokens_generated, answer.model, draft.origin)
"""
USE = """
import skills.skill_draft.server
from core.model_pool import get_model_pool
from sarai import GenReq, OmniLoop, errors

request: GenReq = GenReq(prompt="Hello", max_tokens="eight")
"""

pytestmark = pytest.mark.timeout(300, func_only=True)


def pip(*arguments: str | Path) -> None:
    """Run pip without network: no index, no dependencies, and only the build tools that are installed here."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, "--no-deps", "--no-index"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run `pip wheel .` in a copy of the tree, as setuptools leaves files behind; return the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in tracked_texts():
        (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / "tree" / name, follow_symlinks=False)
    pip("wheel", "--no-build-isolation", "--wheel-dir", folder, folder / "tree")
    shutil.rmtree(folder / "tree")
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create an environment with this wheel and llama.cpp's; other packages come from here, without this tree."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(folder)
    llama = [kept_wheel(cache_dir() / describe(portable=portable).key) for portable in (False, True)]
    wheels = [wheel, *filter(None, llama)][:2]
    pip("--python", folder / "bin" / "python", "install", *wheels)
    here = Path(sysconfig.get_path("purelib"))
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    (site / "here.pth").write_text(f"{here}\n")  # only a path: .pth files in it, which link to this tree, are ignored
    return folder


def test_wheel_holds_all_that_is_no_code(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for wanted in ("core/py.typed", "sarai/py.typed", "skills/py.typed", "skills/skills.proto", "skills/types.proto",
                   "skills/skills_pb2.pyi",
                   "skills/skill_draft/catalog.toml", "core/cli/new_skill_template/plugin.py.template"):  # fmt: skip
        assert wanted in names
    assert {name.split("/")[0] for name in names} == {"core", "sarai", "skills", f"sarai_skills-{VERSION}.dist-info"}


@pytest.mark.parametrize(
    "line",
    [
        'sarai draft --max-tokens 8 --stats "Hello"',
        "sarai loop --max-iterations 1 --max-tokens 8 --stats Hello",
        f"python -c '{ASK}'",
    ],
)
def test_an_installed_skill_answers(environment: Path, tmp_path: Path, line: str) -> None:
    said = in_environment(line, environment, tmp_path)
    assert "SmolLM2-135M-Instruct" in said
    assert "embedded" in said or "local process" in said


def test_an_installed_server_starts_by_itself_and_names_the_models(environment: Path, tmp_path: Path) -> None:
    said = in_environment("python -m skills.skill_draft.server --model nothing || echo code $?", environment, tmp_path)
    assert "smollm2-135m-instruct-q8_0" in said
    assert "code 1" in said
    url = in_environment(
        "python -m skills.skill_draft.server --model qwen3-vl-4b-instruct-iq4_nl || true", environment, tmp_path
    )
    assert f"to {tmp_path}/data/sarai/models/Qwen3-VL-4B-Instruct-IQ4_NL.unsloth.gguf" in url


def test_an_installed_package_has_its_types(environment: Path, tmp_path: Path) -> None:
    (tmp_path / "use.py").write_text(USE)
    mypy = f"{sys.executable} -m mypy --python-executable {environment}/bin/python --strict use.py || true"
    said = in_environment(mypy, environment, tmp_path)
    assert "use.py:6" in said
    assert "Found 1 error in 1 file" in said


def in_environment(line: str, environment: Path, folder: Path) -> str:
    """Run a line in an empty folder, with the environment activated; return what it prints."""
    return typed(
        f"source {environment}/bin/activate && {line}", folder, within=own_network(50051), timeout_s=150,
        XDG_DATA_HOME=str(folder / "data"), XDG_STATE_HOME=str(folder / "state"), TMPDIR=str(folder),
    )  # fmt: skip
