"""Set up what the tests need: `python3 -m tools.test_set_up`, which `make test` runs before them.

If containers can be tested, llama.cpp is compiled once for .venv and the images. Long steps are announced in advance,
with their durations. The images are left to pytest, which knows whether a test with containers is selected.
"""

from __future__ import annotations

import argparse
import sys

from tools import base_image, containers, llama_wheel, setup_venv, skill_image
from tools.progress import clock
from tools.step import exit_code

# Measured on two cores; the tests without and with containers.
_PACKAGES_S = 60.0
_TESTS_S = {False: 900.0, True: 1270.0}


def main() -> int:
    """Set up, with progress on standard error."""
    parser = argparse.ArgumentParser(prog="python3 -m tools.test_set_up", description=__doc__.partition("\n")[0])
    parser.add_argument("--selected", action="store_true", help="only some tests are to be run: nobody knows how long")
    arguments = parser.parse_args()
    missing = _missing_containers()
    if missing and containers.are_required():
        print(f"{containers.REQUIRED}=1, and no container can be tested: {missing}", file=sys.stderr)
        return 1
    with_containers = missing is None
    fresh = "portable" if with_containers and skill_image.compiles_for_the_image() else "native"

    def set_up() -> None:
        _announce(plan(fresh, with_containers=with_containers, everything=not arguments.selected), missing)
        setup_venv.set_up(fresh=fresh)

    return exit_code(set_up)


def _missing_containers() -> str | None:
    try:
        containers.check()
    except containers.NoContainersError as error:
        return str(error)
    return None


def plan(fresh: str, *, with_containers: bool, everything: bool) -> list[tuple[str, float]]:
    """Return the missing parts and the tests, with about how long each takes, in seconds."""
    steps = []
    kinds = {setup_venv.choose_wheel(fresh=fresh)} if not setup_venv.is_current() else set()
    if with_containers and skill_image.compiles_for_the_image():
        kinds.add("portable")
    for kind in sorted(kinds):
        if not llama_wheel.is_kept(portable=kind == "portable"):
            whom = "this machine and the images" if kind == "portable" else "this machine"
            steps.append((f"compiling llama.cpp for {whom}", llama_wheel.expected_s(portable=kind == "portable")))
    if not setup_venv.is_current():
        steps.append(("filling .venv", _PACKAGES_S))
    if with_containers and not base_image.is_there():
        steps.append((f"making {base_image.IMAGE} from Debian's packages", base_image.EXPECTED_S))
    if with_containers and not base_image.is_there(containers.DRAFT_TAG):
        compiling = 0.0 if skill_image.compiles_for_the_image() else llama_wheel.expected_s(portable=True)
        steps.append((f"building {containers.DRAFT_TAG}", skill_image.EXPECTED_S + compiling))
    if everything:
        steps.append(("the tests", _TESTS_S[with_containers]))
    return steps


def _announce(steps: list[tuple[str, float]], missing: str | None) -> None:
    width = max((len(what) for what, _ in steps), default=0)
    if steps:
        print("To come, in about this time:", file=sys.stderr)
    for what, seconds in steps:
        print(f"  {what:<{width}}  {clock(seconds)}", file=sys.stderr)
    if missing:
        print(f"Tests with containers will be skipped: {missing}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
