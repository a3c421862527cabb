from __future__ import annotations

import pytest

from core.config import PoolConfig
from core.errors import ConfigError
from core.model_pool import ModelPool
from core.pool.targets import names_many, resolve, resolve_all, split_targets
from tests.stub_plugin import PluginTree


def test_targets_are_a_list_with_commas() -> None:
    assert split_targets("a:1") == ("a:1",)
    assert split_targets(" a:1, unix:/tmp/s ,, a:1,dns:///b:2") == ("a:1", "unix:/tmp/s", "dns:///b:2")


@pytest.mark.parametrize("text", ["", " , ", "a:1 b:2", "localhost", "a:1,draft", "dns:///draft", "[::1]"])
def test_what_is_no_target_is_refused_with_what_one_is(text: str) -> None:
    with pytest.raises(ConfigError, match="host:port"):
        split_targets(text)


def test_only_a_name_by_dns_stands_for_many() -> None:
    assert names_many("dns:///draft:50051")
    assert names_many("dns:draft:50051")
    assert not any(map(names_many, ("draft:50051", "unix:/tmp/s", "127.0.0.1:50051")))


def test_name_is_resolved_to_its_addresses() -> None:
    assert resolve("dns:///localhost:7") == ("127.0.0.1:7",)
    assert resolve("dns:///127.0.0.1:7") == ("127.0.0.1:7",)
    assert resolve("dns:///[::1]:7") == ("[::1]:7",)
    assert resolve("dns:///there-is.invalid:7") == ()
    assert resolve("somewhere:7") == ("somewhere:7",)
    assert resolve_all(("dns:///localhost:7", "127.0.0.1:7", "unix:/s")) == ("127.0.0.1:7", "unix:/s")


@pytest.mark.parametrize("target", [f"{'x' * 64}.example:1", "two..dots:1", ".dot:1", "localhost:70000"])
@pytest.mark.parametrize("more", ["", ",127.0.0.1:1"])
def test_name_that_cannot_be_one_is_refused_with_the_setting_it_is_in(tree: PluginTree, target: str, more: str) -> None:
    tree.write_stub("echo")
    targets = {"SARAI_ECHO_TARGET": f"dns:///{target}{more}"}
    with (
        ModelPool(PoolConfig(targets=targets), plugins=tree.load()) as pool,
        pytest.raises(ConfigError, match="SARAI_ECHO_TARGET") as caught,
    ):
        pool.get_skill_client("echo")
    assert target in str(caught.value)
