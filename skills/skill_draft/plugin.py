"""The draft skill as the host sees it: a few values, without a model."""

from __future__ import annotations

from typing import Any

from sarai import Resources, SkillSpec, hookimpl

from . import IMAGE, VERSION

GIB = 1024**3


def _stub(channel: Any) -> Any:
    from skills.skills_pb2_grpc import SkillsServiceStub

    return SkillsServiceStub(channel)


@hookimpl
def sarai_skills() -> list[SkillSpec]:
    """Return the draft skill."""
    return [
        SkillSpec(
            name="draft",
            summary="Drafts, reflects and corrects text with a small language model",
            version=VERSION,
            image=IMAGE,
            container="skill_draft",
            port=50051,
            resources=Resources(cpus=2.0, memory_bytes=3 * GIB),
            serve=("-m", "skills.skill_draft.server"),
            stub=_stub,
            health_service="SkillsService",
            catalog="skills.skill_draft/catalog.toml",
        )
    ]
