"""Mark tests by their folder, and run those with containers if there is a container engine.

Without one they are skipped, and one line says why; SARAI_REQUIRE_DOCKER=1, as in CI, makes that an error.
"""

from __future__ import annotations

import contextlib
import gc
import signal
import sys
from collections.abc import Generator

import pytest

from tests import summary
from tests.folders import folder_of
from tests.plugin_tree import tree  # noqa: F401  # a fixture of all folders
from tools import containers
from tools.step import StepError

_NO_CONTAINERS = pytest.StashKey[str]()
_BROKEN_IMAGE = pytest.StashKey[str | None]()


def pytest_configure(config: pytest.Config) -> None:
    """Restore Ctrl-C: a shell's background jobs ignore it, and the processes of tests would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.pluginmanager.register(summary)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None, None, None]:
    """Mark by folder before `-m` selects by marks; then prepare containers if a selected test needs them."""
    for item in items:
        item.add_marker(folder_of(item.path))
    yield
    if not config.option.collectonly and any(item.get_closest_marker("docker") for item in items):
        _prepare_containers(config)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Exempt what exists now, modules and tests above all, from garbage collection: it stays until the end."""
    if "hypothesis" not in sys.modules:  # where no test uses it, its plugin would still import it for its last words
        session.config.pluginmanager.unregister(name="hypothesispytest")
    gc.collect()
    gc.freeze()


def _prepare_containers(config: pytest.Config) -> None:
    capture = config.pluginmanager.getplugin("capturemanager")
    try:
        # Progress goes to the terminal, as this takes minutes the first time.
        with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
            containers.prepare()
    except containers.NoContainersError as error:
        if containers.are_required():
            raise pytest.UsageError(f"{containers.REQUIRED}=1, and no container can be tested: {error}") from None
        config.stash[_NO_CONTAINERS] = str(error)
    except StepError as error:
        config.stash[_BROKEN_IMAGE] = str(error)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests with containers if they cannot run. An image that cannot be built is one failure, not fifty."""
    if item.get_closest_marker("docker") is None:
        return
    stash = item.config.stash
    broken = stash.get(_BROKEN_IMAGE, None)
    if broken is not None:
        stash[_BROKEN_IMAGE] = None
        stash[_NO_CONTAINERS] = "the image cannot be built: the first of these tests says why"
        pytest.fail(broken, pytrace=False)
    if reason := stash.get(_NO_CONTAINERS, None):
        pytest.skip(reason)
