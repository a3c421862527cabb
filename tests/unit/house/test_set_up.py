"""Set-up: make's targets, the lock files, the progress line and the cache of wheels."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.tracked import tracked_texts
from tools import llama_wheel, lock, locked, setup_venv
from tools.progress import Progress, clock
from tools.step import StepError, run_step

ROOT = Path(__file__).resolve().parents[3]
LOCK_FILES = (
    "requirements.lock", "tools/llama_wheel.lock", "skills/skill_draft/requirements.txt",
    "skills/skill_image/requirements.txt",
)  # fmt: skip


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Create a tree with our Makefile, where set-up does nothing and `sarai` prints its arguments."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    binaries = tmp_path / ".venv" / "bin"
    binaries.mkdir(parents=True)
    sarai = binaries / "sarai"
    sarai.write_text(f"#!{sys.executable}\nimport sys\nprint(sys.argv[1:])\n", encoding="utf-8")
    sarai.chmod(0o755)
    return tmp_path


def keep_wheel(*, portable: bool) -> None:
    """Put a wheel into this machine's cache, as if it had been compiled here."""
    build = llama_wheel.describe(portable=portable)
    folder = llama_wheel.cache_dir() / build.key
    folder.mkdir(parents=True)
    built = folder.parent / f"llama_cpp_python-0-{'portable' if portable else 'native'}.whl"
    built.write_bytes(b"a wheel")
    llama_wheel._keep(built, build, folder)


def make(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # This make must not inherit the arguments of the make that runs the tests, as in `make test ARGS=...`.
    clean = {name: value for name, value in os.environ.items() if name not in ("ARGS", "MAKEFLAGS", "MAKEOVERRIDES")}
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=tree,
        env=clean,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize(
    "prompt",
    ['it\'s "five" $5 and $(shell touch made)', "`touch made`; touch made", "-rf --help", "a\\nb # c", "ñ 日本"],
)
def test_prompt_reaches_the_loop_as_it_was_written(tree: Path, prompt: str) -> None:
    done = make(tree, "loop", "PYTHON=true", f"PROMPT={prompt}")
    assert done.stdout == f"{['loop', '--', prompt]}\n", done.stderr
    assert not (tree / "made").exists()


def test_loop_without_a_prompt_says_how(tree: Path) -> None:
    done = make(tree, "loop", "PYTHON=true")
    assert done.returncode != 0
    assert "PROMPT=" in done.stderr


def test_set_up_is_done_once_for_the_same_lock_files_and_again_for_others(
    new_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not setup_venv.is_current()
    setup_venv.note_done("native")
    assert setup_venv.is_current()
    monkeypatch.setenv("SARAI_WHEEL", "portable")
    assert not setup_venv.is_current()
    monkeypatch.setenv("SARAI_WHEEL", "native")
    assert setup_venv.is_current()
    (new_tree / "requirements.lock").write_text("new==1\n", encoding="utf-8")
    assert not setup_venv.is_current()


def test_set_up_that_failed_is_not_taken_for_done(new_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(new_tree))
    for _ in range(2):
        with pytest.raises(StepError, match=r"no C\+\+ compiler"):
            setup_venv.set_up()
    assert not setup_venv.is_current()


@pytest.mark.usefixtures("new_tree")
def test_a_new_clone_takes_the_wheel_that_is_compiled_already() -> None:
    assert setup_venv.choose_wheel() == "native"
    assert setup_venv.choose_wheel(fresh="portable") == "portable"
    keep_wheel(portable=True)
    assert setup_venv.choose_wheel() == "portable"
    keep_wheel(portable=False)
    assert setup_venv.choose_wheel(fresh="portable") == "native"


@pytest.mark.usefixtures("new_tree")
def test_tests_after_a_loop_leave_venv_the_wheel_that_it_has() -> None:
    keep_wheel(portable=False)
    setup_venv.note_done("native")
    assert setup_venv.choose_wheel(fresh="portable") == "native"


@pytest.mark.usefixtures("new_tree")
def test_a_wheel_that_is_neither_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SARAI_WHEEL", "fast")
    with pytest.raises(StepError, match="native or portable"):
        setup_venv.choose_wheel()


@pytest.mark.usefixtures("new_tree")
def test_an_image_is_offered_the_portable_wheels_of_its_version_alone(tmp_path: Path) -> None:
    keep_wheel(portable=False)
    assert not llama_wheel.export(tmp_path / "wheels")
    keep_wheel(portable=True)
    assert llama_wheel.export(tmp_path / "wheels")
    (wheel,) = (tmp_path / "wheels").glob("*/*.whl")
    assert wheel.name == "llama_cpp_python-0-portable.whl"
    assert wheel.parent.name == llama_wheel.describe(portable=True).key
    other = tmp_path / "other.lock"
    other.write_text("llama-cpp-python==0.0.1 --hash=sha256:0\n", encoding="utf-8")
    assert not llama_wheel.export(tmp_path / "wheels", lock=other)


@pytest.mark.usefixtures("new_tree")
def test_uv_is_given_the_wheel_that_is_kept(tmp_path: Path) -> None:
    keep_wheel(portable=True)
    code = "import backend, sys; print(backend.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT / "tools" / "llama_cpp", env={**os.environ, "SARAI_WHEEL": "portable"},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == "llama_cpp_python-0-portable.whl\n"
    assert (tmp_path / done.stdout.strip()).read_bytes() == b"a wheel"


def test_uv_takes_llama_cpp_from_here_in_the_version_that_is_locked() -> None:
    ours = tomllib.loads((ROOT / "tools/llama_cpp/pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert locked.requirement(ROOT / "requirements.lock", ours["name"]).startswith(
        f"{ours['name']}=={ours['version']} "
    )


def test_lock_files_belong_to_pyproject() -> None:
    assert lock.check() == 0


def test_lock_check_notices_a_new_dependency(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = tmp_path / "pyproject.toml"
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    monkeypatch.setattr(lock, "PYPROJECT", changed)
    changed.write_text(text, encoding="utf-8")
    assert lock.check() == 0
    for said, other in (('"pluggy>=1.5"', '"pluggy>=1.6"'), ('"pluggy==', '"pluggy==0.')):
        changed.write_text(text.replace(said, other), encoding="utf-8")
        assert lock.check() == 1, said


@pytest.mark.parametrize("name", LOCK_FILES)
def test_every_locked_package_is_pinned_by_hash_and_names_no_index(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "://" not in text
    assert "--index" not in text
    for package, entry in locked.entries(ROOT / name):
        assert re.search(r"==\S+ .*--hash=sha256:[0-9a-f]{64}", entry), package


def test_the_server_has_the_versions_that_are_tested() -> None:
    tested = set(locked.entries(ROOT / "requirements.lock"))
    served = set(locked.entries(ROOT / "skills/skill_draft/requirements.txt"))
    assert served
    assert served <= tested


def test_a_broken_wheel_in_the_cache_is_not_used(tmp_path: Path) -> None:
    built = tmp_path / "llama_cpp_python-0-py3-none-any.whl"
    built.write_bytes(b"a wheel")
    folder = tmp_path / "cache"
    folder.mkdir()
    build = llama_wheel.Build(requirement="", cmake_args=(), ours="", platform="", compiler="")
    assert llama_wheel.kept_wheel(folder) is None
    kept = llama_wheel._keep(built, build, folder)
    assert llama_wheel.kept_wheel(folder) == kept
    kept.write_bytes(b"half a")
    assert llama_wheel.kept_wheel(folder) is None


def test_a_wheel_for_other_options_has_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    here = llama_wheel.describe(portable=False).key
    assert llama_wheel.describe(portable=False).key == here
    assert llama_wheel.describe(portable=True).key != here
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_LLAMAFILE=OFF")
    assert llama_wheel.describe(portable=False).key != here


def test_ninjas_steps_move_the_bar() -> None:
    assert llama_wheel.ninja_progress("  [34/136] /usr/bin/c++ -DGGML\n") == (0.25, "(34 of 136 files)")
    assert llama_wheel.ninja_progress("*** Building project with Ninja...\n") is None


def test_progress_without_a_terminal_writes_few_plain_lines() -> None:
    stream = io.StringIO()
    progress = Progress("compiling", expected_s=210, stream=stream)
    for step in range(100):
        progress.update(step / 100)
    progress.finish("done")
    assert stream.getvalue() == "compiling: about 3:30 min\ncompiling: done (0 s)\n"


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0 s"), (59.4, "59 s"), (60, "1:00 min"), (3725, "62:05 min")])
def test_durations_are_written_for_people(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_a_failed_step_shows_its_last_lines_and_where_the_log_is(tmp_path: Path) -> None:
    script = "for i in range(100): print('line', i)\nraise SystemExit(7)"
    log = tmp_path / "log" / "step.log"
    with pytest.raises(StepError) as failed:
        run_step("trying", [sys.executable, "-c", script], log=log, expected_s=1, read_progress=lambda _line: None)
    text = str(failed.value)
    assert "line 99" in text
    assert "line 60\n" in text
    assert "line 59\n" not in text
    assert str(log) in text
    assert "exit code 7" in text
    assert log.read_text(encoding="utf-8").startswith("line 0\n")


# Hosts of package indexes, mirrors and image registries: each machine has its own configuration for these.
INDEX = re.compile(
    r"\b(?:debian\.org|ubuntu\.com|pypi\.org|pythonhosted\.org|npmjs\.(?:com|org)|crates\.io|alpinelinux\.org"
    r"|anaconda\.(?:com|org)|conda-forge\.org|ghcr\.io|quay\.io|gcr\.io|(?:registry-1|index|auth|hub)\.docker\.(?:io|com))\b"
)


DOMAIN = re.compile(r"\.(?:org|com|io)\b")  # most texts have none, and this is found fifty times as fast


def index_in(text: str) -> str:
    found = DOMAIN.search(text) and INDEX.search(text)
    return found[0] if found else ""


def test_no_host_of_a_package_index_stands_in_the_tree() -> None:
    assert {name: host for name, text in tracked_texts().items() if (host := index_in(text))} == {}
    assert index_in("deb http://deb.{}/debian bookworm main".format("debian" + ".org"))
