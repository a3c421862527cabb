"""Where memory is too small for images next to the model, a server reads text alone and says what is missing."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from skills.wire import Feature
from tests.large_engine import LARGE
from tests.own_cgroup import write_limits
from tests.servers import DraftServer, draft_server
from tests.system.test_images import NAMES, WHAT, ask, fails, serves_on
from tests.vision import sample

MIB = 1 << 20
IN_CGROUP = ("-m", "tests.own_cgroup", "serve")


def reads_text_alone(server: DraftServer, says: str) -> bool:
    health = server.health()
    code, message, _ = fails(server, ask(sample(NAMES[0]), WHAT))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert message == f"this replica reads no images: {health.message.removeprefix('reads no images: ')}"
    assert says in health.message
    return Feature.IMAGES not in health.features and serves_on(server)


@pytest.mark.parametrize(("limit", "reads"), [(450 * MIB, False), (1024 * MIB, True)])
def test_memory_limit_decides_whether_images_are_read(tmp_path: Path, limit: int, reads: bool) -> None:
    write_limits(tmp_path, cpus=2, memory_bytes=limit)
    with draft_server(tmp_path, module=IN_CGROUP, environment={"OWN_CGROUP": str(tmp_path)}) as server:
        if reads:
            assert server.stub.Generate(ask(sample(NAMES[0]), WHAT), timeout=60).text == "a black square"
            assert not server.health().message
        else:
            assert reads_text_alone(server, "more memory: mem_limit, with compose SARAI_DRAFT_MEMORY=1g")


@pytest.mark.parametrize(
    ("how", "says"),
    [("refuses", "with images, the model's buffers need 9 MB more than there are"), ("few", "more memory: mem_limit")],
)
def test_engine_gets_all_memory_where_it_turns_out_not_to_fit_next_to_images(
    tmp_path: Path, how: str, says: str
) -> None:
    with draft_server(tmp_path, module=LARGE, environment={"LARGE": how}) as server:
        assert reads_text_alone(server, says)
        assert server.health().engine.kv_cells > 1024
        assert server.health().status == "SERVING"
