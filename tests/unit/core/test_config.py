from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from core.config import PoolConfig
from core.errors import ConfigError
from tests.stub_plugin import stub_spec

READS = re.compile(r"\bos\.(environ|getenv)\b")


def test_environment_is_read_into_the_type_of_each_setting() -> None:
    config = PoolConfig.from_env(
        {
            "SARAI_CALL_TIMEOUT_S": "7.5",
            "SARAI_RESTART_LIMIT": "1",
            "SARAI_EMBEDDED": "off",
            "SARAI_LOG_DIR": "/logs",
            "SARAI_DRAFT_TARGET": "somewhere:1",
            "SARAI_OTHER_TARGET": "",
            "SARAI_DRAFT_PORTS": "51000-51015",
            "SARAI_DRAFT_SCALER": "somewhere:2",
        }
    )
    assert (config.call_timeout_s, config.restart_limit, config.embedded) == (7.5, 1, False)
    assert config.log_dir == Path("/logs")
    assert config.target_of(stub_spec("draft")) == "somewhere:1"
    assert config.target_of(stub_spec("other")) is None
    assert config.ports_of(stub_spec("draft")) == range(51000, 51016)
    assert len(config.ports_of(stub_spec("other"))) == 8
    assert config.scaler_of(stub_spec("draft")) == "somewhere:2"


@pytest.mark.parametrize(
    "name", [field.name for field in dataclasses.fields(PoolConfig) if "Mapping" not in str(field.type)]
)
def test_every_setting_can_be_read_from_the_environment(name: str) -> None:
    kinds = {field.name: str(field.type) for field in dataclasses.fields(PoolConfig)}
    text = {"float": "33", "int": "33", "bool": "no", "Path": "/p"}[kinds[name]]
    assert getattr(PoolConfig.from_env({f"SARAI_{name.upper()}": text}), name) != getattr(PoolConfig(), name)


def test_keyword_goes_before_the_environment() -> None:
    assert PoolConfig.from_env({"SARAI_EMBEDDED": "1"}, embedded=False).embedded is False


def test_log_directory_follows_xdg_state_home_when_it_is_absolute() -> None:
    assert PoolConfig.from_env({"XDG_STATE_HOME": "/state"}).log_dir == Path("/state/sarai/logs")
    assert PoolConfig.from_env({"XDG_STATE_HOME": "state"}).log_dir == Path.home() / ".local/state/sarai/logs"


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("SARAI_CALL_TIMEOUT_S", "soon"),
        ("SARAI_CALL_TIMEOUT_S", "0"),
        ("SARAI_CALL_TIMEOUT_S", "nan"),
        ("SARAI_CALL_TIMEOUT_S", "inf"),
        ("SARAI_STOP_GRACE_S", "-1"),
        ("SARAI_RESTART_LIMIT", "-1"),
        ("SARAI_RESTART_LIMIT", "1.5"),
        ("SARAI_EMBEDDED", "maybe"),
        ("SARAI_DRAFT_PORTS", "9-8"),
        ("SARAI_DRAFT_PORTS", "1-65536"),
        ("SARAI_DRAFT_PORTS", "some"),
    ],
)
def test_setting_out_of_range_names_its_variable(variable: str, text: str) -> None:
    with pytest.raises(ConfigError, match=variable):
        PoolConfig.from_env({variable: text})


def test_every_setting_has_a_docstring() -> None:
    (cls,) = ast.parse(inspect.getsource(PoolConfig)).body
    assert isinstance(cls, ast.ClassDef)
    body: list[Any] = cls.body
    for field, after in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign):
            assert isinstance(after, ast.Expr), ast.unparse(field.target)
            assert isinstance(after.value, ast.Constant), ast.unparse(field.target)


def test_only_config_reads_the_environment_for_settings() -> None:
    core = Path(inspect.getfile(PoolConfig)).parent
    files = {path.relative_to(core).as_posix(): path.read_text() for path in core.rglob("*.py")}
    readers = {path for path, code in files.items() if READS.search(code) and not path.startswith("cli/")}
    # rpc sets a variable for gRPC; process and compose pass the environment to a child.
    assert readers == {"config.py", "rpc/__init__.py", "local/process.py", "local/compose.py"}
