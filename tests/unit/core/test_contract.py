"""The contract: which names have no package; words on the wire that are no fields are in one place, and documented."""

from __future__ import annotations

from skills import skills_pb2, types_pb2, wire
from tests.python_files import python_file, sources
from tests.servers import ROOT

PAIRS = (wire.FEW_PIECES, wire.RANDOM_SEED, wire.HARD_DEADLINES, wire.IN_CONTAINER)
KEYS = {*(key for key, _ in PAIRS), wire.SKILL, wire.STATUS_DETAILS}
SOURCES = [*sources("core"), *sources("skills")]


def test_only_what_users_write_has_no_package() -> None:
    contract = skills_pb2.DESCRIPTOR
    assert set(contract.message_types_by_name) == {"GenReq", "GenResp", "GenChunk", "HealthReq", "HealthResp"}
    assert set(contract.services_by_name) == {"SkillsService"}
    assert not contract.enum_types_by_name
    assert types_pb2.DESCRIPTOR.package == "sarai.v1"


def test_programs_find_every_type_in_the_module_of_the_messages() -> None:
    types = types_pb2.DESCRIPTOR
    for name in (*types.message_types_by_name, *types.enum_types_by_name):
        assert getattr(skills_pb2, name) is getattr(types_pb2, name)


def test_words_of_the_wire_stand_in_one_place() -> None:
    for path in SOURCES:
        if not path.endswith("/wire.py"):
            words = KEYS | set(wire.Reason) if path.startswith("core/") else KEYS
            assert not words & python_file(path).constants, path


def test_words_of_the_wire_are_written_down_in_the_contract() -> None:
    contract = (ROOT / "skills" / "skills.proto").read_text()
    for word in (*KEYS, *wire.Reason, *wire.Feature, wire.REASON_DOMAIN):
        assert word in contract, word
