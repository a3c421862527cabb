"""`sarai doctor`: report what is missing or slow on this machine, and the command that repairs it."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from core.cli.common import ExitCode, common_options, print_json, start_command
from core.cli.streams import Paint

if TYPE_CHECKING:
    from core.skill import SkillSpec

_EPILOG = """\b
Examples:
  sarai doctor
  sarai doctor --json | jq -r 'select(.state != "ok").repair'

\b
States:
  ok       as it should be
  slow     it works, but not as fast as it could
  missing  something that you may need is not here
"""
_COLORS = {"ok": "green", "slow": "yellow", "missing": "red"}
_SLOW_BYTES_PER_S = 8e9
"""Below this the 4B writes fewer than four tokens per second in a single answer."""
_USUAL_CPUS = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    what: str
    """The place: cpu, memory, port and the like."""
    state: str
    """ok, slow or missing."""
    text: str
    repair: str = ""
    """Command or advice that helps."""


@click.command(epilog=_EPILOG, short_help="Report what is missing or slow here, and what repairs it.")
@common_options
def doctor() -> int:
    """Check this machine: CPUs, memory and its bandwidth, container engine, images, models, ports, plugins.

    Nothing is changed or started. The exit code is 1 if something is missing. Measuring memory takes half a second.
    """
    settings, paint = start_command(), Paint(sys.stdout)
    code = ExitCode.OK
    for finding in _findings():
        if finding.state == "missing":
            code = ExitCode.FAILED
        if settings.json:
            print_json(dataclasses.asdict(finding))
            continue
        paint.write(f"{finding.state:<8}", fg=_COLORS[finding.state])
        paint.line(f"{finding.what:<10} {finding.text}")
        if finding.repair:
            paint.line(f"{'':<8}{'':<10} -> {finding.repair}")
    return code


def _findings() -> Iterator[Finding]:
    from core.plugins import get_plugins

    plugins = get_plugins()
    specs = list(plugins.skills.values())
    yield from _of_machine(specs)
    yield from _of_containers(specs)
    yield from _of_models(specs)
    yield from _of_ports(specs)
    for error in plugins.errors:
        yield Finding("plugin", "missing", str(error), "sarai --debug skills")


def _of_machine(specs: list[SkillSpec]) -> Iterator[Finding]:
    from core.local.machine import Machine
    from core.models.bandwidth import measure_bandwidth

    machine = Machine.here()
    best = next((name for name in ("avx512_vnni", "avx512f", "avx2") if name in machine.features), "")
    if best or "sse2" not in machine.features:
        yield Finding("cpu", "ok", f"the best supported extension is {best}" if best else "not an x86 CPU")
    else:
        yield Finding("cpu", "slow", "no AVX2, which the fast kernels need", "use a machine with AVX2 or AVX-512")
    cores = f"{machine.quota:g} of {machine.cpus} CPUs may be used"
    if machine.quota >= _USUAL_CPUS:
        yield Finding("cores", "ok", cores)
    else:
        repair = f"raise the affinity or quota; for a container: docker update --cpus={_USUAL_CPUS} NAME"
        yield Finding("cores", "slow", f"{cores}; the figures of the documents are for {_USUAL_CPUS}", repair)
    yield _memory(machine.memory_bytes, max((spec.resources.memory_bytes for spec in specs), default=0))
    speed = measure_bandwidth(machine.cpus, most_bytes=int(machine.memory_bytes / 8))
    text = f"{speed / 1e9:.1f} GB/s of memory bandwidth, which bounds the speed of an answer: see `sarai models show`"
    if speed >= _SLOW_BYTES_PER_S:
        yield Finding("bandwidth", "ok", text)
    else:
        yield Finding("bandwidth", "slow", text, "end other programs, or use a smaller model: sarai models list")


def _memory(available: float, wanted: int) -> Finding:
    text = f"{available / 2**20:,.0f} MiB are available, and the largest skill's limit is {wanted / 2**20:,.0f} MiB"
    if available >= wanted:
        return Finding("memory", "ok", text)
    return Finding("memory", "slow", text, "end other programs, or use a smaller model: sarai models list")


def _of_containers(specs: list[SkillSpec]) -> Iterator[Finding]:
    from core.errors import ComposeError
    from core.local.compose import find_project, has_image

    try:
        project = find_project()
        services = project.services()
    except ComposeError as error:
        yield Finding("containers", "missing", str(error), "none needed if `sarai serve` is enough")
        return
    yield Finding("containers", "ok", f"`{' '.join(project.command)}`, project {project.folder}")
    for spec in specs:
        if spec.container in services and has_image(spec.image):
            yield Finding("image", "ok", spec.image)
        elif spec.container in services:
            yield Finding("image", "missing", f"{spec.image} is not built", f"sarai up {spec.name}")


def _of_models(specs: list[SkillSpec]) -> Iterator[Finding]:
    from core.models.catalog import read_catalogs
    from core.models.fetch import MISSING_LIBRARY
    from core.models.folder import ModelFolder, models_dir

    if importlib.util.find_spec("huggingface_hub") is None:
        yield Finding("models", "missing", MISSING_LIBRARY, "pip install 'sarai-skills[models]'")
    for spec in specs:
        models = [model for model in read_catalogs([spec]).values() if model.text.repository]
        if not models:
            continue
        folder = ModelFolder(models_dir(spec, os.environ))
        if here := [model.name for model in models if folder.find(model.text)]:
            yield Finding("models", "ok", f"{spec.name}: {', '.join(here)}")
        else:
            # The first downloadable model of a catalogue is the one for production.
            text = f"{spec.name} has only its embedded model (none in {folder.path}), which is not for production"
            yield Finding("models", "missing", text, f"sarai models pull {models[0].name}")


def _of_ports(specs: list[SkillSpec]) -> Iterator[Finding]:
    from core.rpc.health import check_serving

    for spec in specs:
        target = f"127.0.0.1:{spec.port}"
        with socket.socket() as probe:
            probe.settimeout(1)
            taken = probe.connect_ex(("127.0.0.1", spec.port)) == 0
        if not taken:
            yield Finding("port", "ok", f"{target} is free for {spec.name}")
        elif check_serving(target, spec.health_service, timeout_s=2):
            yield Finding("port", "ok", f"{spec.name} serves at {target}")
        else:
            text = f"{target} is taken by a program that does not serve {spec.name}"
            yield Finding("port", "missing", text, f"end the program: ss -ltnp 'sport = :{spec.port}'")
