"""How every method of every skill handles bytes that are no message, and a refusal that quotes its caller."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from skills import skills_pb2
from skills.runtime.testing import served
from skills.skill_image.plugin import sarai_skills
from skills.skills_pb2_grpc import SkillsServiceStub
from tests.servers import draft_server
from tests.system.test_text_skill import Obedient

NO_MESSAGE = b"\xff\xff\xff"
SIZES = (3_000, 16_000, 1_000_000)


@contextlib.contextmanager
def skill(name: str, folder: Path) -> Iterator[grpc.Channel]:
    with contextlib.ExitStack() as stack:
        match name:
            case "draft":
                yield stack.enter_context(draft_server(folder, "--n-ctx", "1024", "--threads", "1")).channel
            case "image":
                yield stack.enter_context(served(sarai_skills()[0]))
            case "text":
                yield stack.enter_context(served(Obedient()))


def reflect(channel: grpc.Channel, **ask: Any) -> reflection_pb2.ServerReflectionResponse:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    (answer,) = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(**ask)]), timeout=10)
    return answer


def methods(channel: grpc.Channel) -> Iterator[tuple[str, str, str]]:
    """Yield path, kind and request message of each method, from the server's own reflection service."""
    for service in reflect(channel, list_services="").list_services_response.service:
        found = reflect(channel, file_containing_symbol=service.name).file_descriptor_response
        for data in found.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(data)
            for described in file.service:
                if ".".join(filter(None, (file.package, described.name))) == service.name:
                    for method in described.method:
                        streams = (method.client_streaming, method.server_streaming)
                        kind = "_".join("stream" if s else "unary" for s in streams)
                        yield f"/{service.name}/{method.name}", kind, method.input_type.removeprefix(".")


@pytest.mark.parametrize("name", ["draft", "image", "text"])
def test_bytes_that_are_no_message_are_the_callers_fault_and_the_server_goes_on(name: str, tmp_path: Path) -> None:
    with skill(name, tmp_path) as channel:
        tried = list(methods(channel))
        assert len(tried) >= 5, "the skill's methods, and those of health and reflection"
        for path, kind, message in tried:
            request = iter([NO_MESSAGE]) if kind.startswith("stream") else NO_MESSAGE
            with pytest.raises(grpc.RpcError) as failed:
                list(getattr(channel, kind)(path)(request, timeout=10))
            assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT, path
            assert message in str(failed.value.details()), path
        health = next(path for path, *_ in tried if path.endswith("Health"))
        ask: Any = channel.unary_unary(health, response_deserializer=skills_pb2.HealthResp.FromString)
        assert ask(b"", timeout=10).status == "SERVING"
        assert list(methods(channel)) == tried


@pytest.mark.parametrize("letter", ["x", "漢"])
def test_a_refusal_that_quotes_its_caller_arrives_whatever_its_size(letter: str, tmp_path: Path) -> None:
    with skill("draft", tmp_path) as channel:
        stub = SkillsServiceStub(channel)
        for size in SIZES:
            word = letter * (size // len(letter.encode()))
            for request in (
                skills_pb2.GenReq(prompt="Hello", json_schema=f'{{"properties": {{"{word}": {{"not": {{}}}}}}}}'),
                skills_pb2.GenReq(prompt="Hello", json_schema=f'{{"type": "{word}"}}'),
                skills_pb2.GenReq(prompt="Hello", grammar=f"root ::= {word}"),
                skills_pb2.GenReq(messages=[skills_pb2.Message(role=word, content="Hello")]),
            ):
                for ask in (lambda r: stub.Generate(r, timeout=20), lambda r: list(stub.GenerateStream(r, timeout=20))):
                    with pytest.raises(grpc.RpcError) as refused:
                        ask(request)
                    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT, refused.value
        assert stub.Generate(skills_pb2.GenReq(prompt="Hello", max_tokens=1), timeout=20).tokens_generated
