"""The image skill's plugin: a few values, no Pillow."""

from __future__ import annotations

from typing import Any

from sarai import Resources, SkillSpec, hookimpl

from . import IMAGE, VERSION

MIB = 1024**2


def _stub(channel: Any) -> Any:
    from skills.skill_image.image_pb2_grpc import ImageServiceStub

    return ImageServiceStub(channel)


@hookimpl
def sarai_skills() -> list[SkillSpec]:
    """Return the image skill."""
    return [
        SkillSpec(
            name="image",
            summary="Prepares pictures for a vision model: upright, sRGB, in whole tiles",
            version=VERSION,
            image=IMAGE,
            container="skill_image",
            port=50061,
            resources=Resources(cpus=1.0, memory_bytes=512 * MIB),
            serve=("-m", "skills.skill_image.server"),
            stub=_stub,
            health_service="skills.skill_image.ImageService",
        )
    ]
