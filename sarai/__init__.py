"""The door: what programs and plugins take from SARAi.

    from sarai import GenReq, get_model_pool

    draft = get_model_pool().get_skill_client("draft")
    print(draft.Generate(GenReq(prompt="Explain how a rainbow forms"), timeout=10.0).text)

    from sarai import user_turn

    print(draft.Generate(GenReq(messages=[user_turn("What is this?", images=["photo.jpg"])])).text)

Each name is loaded at its first use, so that `import sarai` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from core import errors

if TYPE_CHECKING:
    from core.config import PoolConfig
    from core.hookspecs import hookimpl
    from core.images import read_image, user_turn
    from core.model_pool import ModelPool, get_model_pool
    from core.omni_loop import LoopConfig, LoopResult, OmniLoop
    from core.pool.aio import AsyncSkillClient
    from core.pool.client import SkillClient
    from core.skill import Resources, SkillSpec
    from skills.skills_pb2 import GenChunk, GenReq, GenResp, Image, Message, Part

    __version__: str
else:
    _HOMES = {
        "core.config": ("PoolConfig",),
        "core.hookspecs": ("hookimpl",),
        "core.images": ("read_image", "user_turn"),
        "core.model_pool": ("ModelPool", "get_model_pool"),
        "core.omni_loop": ("LoopConfig", "LoopResult", "OmniLoop"),
        "core.pool.aio": ("AsyncSkillClient",),
        "core.pool.client": ("SkillClient",),
        "core.skill": ("Resources", "SkillSpec"),
        "skills.skills_pb2": ("GenChunk", "GenReq", "GenResp", "Image", "Message", "Part"),
    }

    def __getattr__(name: str) -> object:
        import importlib

        if name == "__version__":
            import importlib.metadata

            try:
                return importlib.metadata.version("sarai-skills")
            except importlib.metadata.PackageNotFoundError:
                return "0+unknown"  # a source tree that is not installed
        for home, names in _HOMES.items():
            if name in names:
                return getattr(importlib.import_module(home), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return __all__


__all__ = [
    "AsyncSkillClient",
    "GenChunk",
    "GenReq",
    "GenResp",
    "Image",
    "LoopConfig",
    "LoopResult",
    "Message",
    "ModelPool",
    "OmniLoop",
    "Part",
    "PoolConfig",
    "Resources",
    "SkillClient",
    "SkillSpec",
    "__version__",
    "errors",
    "get_model_pool",
    "hookimpl",
    "read_image",
    "user_turn",
]
