"""`sarai models`: list, download, inspect, verify and remove the model files of skills."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from core.cli.common import ExitCode, Settings, common_options, print_json, start_command
from core.cli.parameters import Whole
from core.cli.views import table

if TYPE_CHECKING:
    from core.models.catalog import Model, ModelFile
    from core.models.folder import ModelFolder
    from core.models.gguf_file import GgufFile

_EPILOG = """\b
Examples:
  sarai models list
  sarai models pull qwen3-vl-4b-instruct-iq4_nl
  sarai models show qwen3-vl-4b-instruct-iq4_nl
  sarai models verify

\b
Environment:
  HF_ENDPOINT               a mirror of the hub
  HF_HUB_OFFLINE=1          no network
  HF_TOKEN                  opens repositories that require consent
  SKILL_<NAME>_MODELS_DIR   the models folder of a skill, also for its server
"""
_USUAL_CELLS = 4096
_GIB = 1024**3


@click.group(epilog=_EPILOG, short_help="List, download, inspect, verify and remove model files.")
@common_options
def models() -> None:
    """List, download, inspect, verify and remove the model files of skills.

    The named models are in the skills' catalogues (models/catalog.toml). A download gets its file name only after its
    hash has been checked, so a file under its name is complete.
    """


def _folder_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--models-dir",
        type=click.Path(file_okay=False, path_type=Path),
        help="Models folder. Default: the one that the skill's server uses.",
    )(command)


def _complete_model(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in _all_models() if name.startswith(incomplete)]


def _all_models() -> dict[str, Model]:
    from core.models.catalog import read_catalogs
    from core.plugins import get_plugins

    return read_catalogs(get_plugins().skills.values())


def _chosen(names: tuple[str, ...]) -> list[Model]:
    """Return the named models, or all."""
    from core.models.catalog import find_model

    known = _all_models()
    return [find_model(name, known) for name in names] or list(known.values())


def _folder_of(model: Model, chosen: Path | None) -> ModelFolder:
    from core.models.folder import ModelFolder, models_dir

    return ModelFolder(chosen or models_dir(model.skill, os.environ))


def _names(*, required: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    metavar = "NAME..." if required else "[NAME]..."
    return click.argument("names", metavar=metavar, nargs=-1, required=required, shell_complete=_complete_model)


@models.command("list", short_help="List the named models.")
@_folder_option
@common_options
def list_models(*, models_dir: Path | None) -> None:
    """List the named models: which are here, their size, and the memory that they need.

    MEMORY is for text, with a cache of 4,096 cells. Each cell holds one token of a running request or of a kept prefix.
    """
    from core.models.needs import about_bytes

    settings = start_command()
    rows = [("NAME", "STATE", "LICENSE", "SUMMARY", "SIZE", "MEMORY")]
    for model in _chosen(()):
        folder = _folder_of(model, models_dir)
        if settings.json:
            print_json(_as_dict(model, folder))
            continue
        needed = about_bytes(model, _USUAL_CELLS)
        about = (model.license, model.summary, _size(model.text), f"{needed / 1e9:.1f} GB")
        rows.append((model.name, _state(model.text, folder), *about))
    if not settings.json:
        print("\n".join(table(rows, left=4)))


def _state(file: ModelFile, folder: ModelFolder) -> str:
    path = folder.find(file)
    if path is not None:
        return "here" if path.parent == folder.path else "in a package"
    if arrived := folder.partial_bytes(file):
        return f"{arrived / file.nominal_bytes:.0%} here" if file.nominal_bytes else f"{arrived / 1e6:,.0f} MB here"
    return "-" if file.repository else "not installed"


def _size(file: ModelFile) -> str:
    about = "" if file.size_bytes else "~"
    return f"{about}{file.nominal_bytes / 1e6:,.0f} MB"


def _as_dict(model: Model, folder: ModelFolder) -> dict[str, Any]:
    """Return one object: the catalogue's entry and the state of its files."""
    files = [
        dataclasses.asdict(file)
        | {"path": str(folder.find(file) or ""), "state": _state(file, folder), "sha256": folder.expected(file)}
        for file in model.files
    ]
    fields = ("name", "summary", "license", "context", "cell_bytes", "template", "numerics")
    return {name: getattr(model, name) for name in fields} | {
        "skill": model.skill.name, "sampling": dict(model.sampling), "files": files,
    }  # fmt: skip


@models.command(short_help="Download models from the hub.")
@_names(required=True)
@click.option("--images/--no-images", default=True, help="With or without the file that reads images. Default: with.")
@_folder_option
@common_options
def pull(*, names: tuple[str, ...], images: bool, models_dir: Path | None) -> None:
    """Download each NAME that is not here yet, with the file that reads images if there is one.

    An interrupted download resumes with the same command. If several programs download the same model, one does it
    and the others wait. The hash is checked before the file gets its name. If a file has no pinned hash, the first one
    seen is recorded in SHA256SUMS and required from then on.
    """
    from core.cli.model_progress import shown_progress
    from core.models.fetch import fetch

    settings = start_command()
    for model in _chosen(names):
        folder = _folder_of(model, models_dir)
        for file in model.files if images else (model.text,):
            with shown_progress(file.file, settings) as watcher:
                fetched = fetch(file, folder, watcher)
            if settings.json:
                print_json({"name": model.name, "path": str(fetched.path), "fetched_bytes": fetched.fetched_bytes,
                            "sha256": fetched.sha256, "first_seen": fetched.first_seen})  # fmt: skip
                continue
            print(fetched.path)
            if fetched.first_seen:
                _tell_first_seen(file.file, fetched.sha256, folder, settings)


def _tell_first_seen(name: str, sha256: str, folder: ModelFolder, settings: Settings) -> None:
    if not settings.quiet:
        click.echo(
            f"{name}: its hash is not pinned. It is {sha256}: compare it with the publisher's page. "
            f"It is recorded in {folder.path}/SHA256SUMS and required from now on.",
            err=True,
        )


@models.command(short_help="Compare files with their hashes.")
@_names(required=False)
@_folder_option
@common_options
def verify(*, names: tuple[str, ...], models_dir: Path | None) -> int:
    """Compare the files of each NAME, by default of all, with their SHA-256. The exit code is 1 if one is wrong.

    If the hash of a file is neither pinned nor recorded, it is recorded now, as by `pull`.
    """
    from core.cli.model_progress import shown_progress
    from core.models.folder import hash_file

    settings, code, seen = start_command(), ExitCode.OK, 0
    for model in _chosen(names):
        folder = _folder_of(model, models_dir)
        for file in model.files:
            path = folder.find(file)
            if path is None:
                continue
            seen += 1
            with shown_progress(file.file, settings) as watcher:
                watcher.stage("checking", path.stat().st_size, 0)
                found = hash_file(path, watcher.at)
            known = folder.expected(file)
            state = "ok" if known == found else "wrong" if known else "package" if file.package else "first seen"
            if state == "wrong":
                code = ExitCode.FAILED
            if state == "first seen":
                folder.record(file, found)
                _tell_first_seen(file.file, found, folder, settings)
            if settings.json:
                print_json({"name": model.name, "path": str(path), "state": state, "sha256": found, "expected": known})
            else:
                print(f"{state}: {path}" + (f" has {found}, not {known}" if state == "wrong" else ""))
    if names and not seen:
        click.echo(f"not here: {', '.join(names)}", err=True)
        return ExitCode.FAILED
    return code


@models.command("rm", short_help="Remove files.")
@_names(required=True)
@_folder_option
@common_options
def remove(*, names: tuple[str, ...], models_dir: Path | None) -> None:
    """Remove the files and partial downloads of each NAME. Files of Python packages stay.

    A server that has the model open keeps serving it.
    """
    settings = start_command()
    for model in _chosen(names):
        folder = _folder_of(model, models_dir)
        freed = sum(folder.remove(file) for file in model.files)
        if settings.json:
            print_json({"name": model.name, "freed_bytes": freed})
        else:
            print(f"{model.name}: {freed / 1e6:,.0f} MB removed from {folder.path}")


@models.command(short_help="Show the metadata of a model, and what it needs.")
@click.argument("model", metavar="NAME|FILE", shell_complete=_complete_model)
@click.option("--cells", type=Whole(1), default=_USUAL_CELLS, help="Cells of the cache. Default: 4096.")
@click.option("--memory", type=Whole(1), metavar="MB", help="Memory limit, MiB. Default: the skill's container's.")
@click.option("--no-bandwidth", is_flag=True, help="Do not measure this machine's memory.")
@_folder_option
@common_options
def show(*, model: str, cells: int, memory: int | None, no_bandwidth: bool, models_dir: Path | None) -> None:
    """Show a model by its name, or any GGUF FILE: architecture, types, template, and the memory it needs.

    Memory is estimated for exact numerics. The maximum speed is what this machine's memory bandwidth allows a single
    answer; measuring it takes half a second.
    """
    from core.cli.model_view import show_file, show_model
    from core.models.gguf_file import read_gguf

    settings = start_command()
    if model.endswith(".gguf") or "/" in model:
        show_file(_read(read_gguf, Path(model)), settings, cells=cells, limit_bytes=(memory or 3072) << 20,
                  measure=not no_bandwidth)  # fmt: skip
        return
    (entry,) = _chosen((model,))
    folder = _folder_of(entry, models_dir)
    limit_bytes = memory << 20 if memory else entry.skill.resources.memory_bytes
    path = folder.find(entry.text)
    if settings.json:
        print_json(_as_dict(entry, folder))
    else:
        show_model(entry, _as_dict(entry, folder)["files"], cells=0 if path else cells)
    if path is not None:
        show_file(read_gguf(path), settings, cells=cells, limit_bytes=limit_bytes, measure=not no_bandwidth)


def _read(read: Callable[[Path], GgufFile], path: Path) -> GgufFile:
    if not path.is_file():
        raise click.UsageError(f"there is no file {path}.")
    return read(path)
