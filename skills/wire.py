"""The words of the contract that are no fields: metadata, reasons and features, for servers and callers alike.

What they mean is written in skills.proto. This file imports nothing of ours, so a word costs its reader nothing else.
"""

from __future__ import annotations

import enum

FEW_PIECES = ("sarai-pieces", "few")
"""Metadata of a request: the caller reads only the whole answer, so its pieces may come gathered."""
RANDOM_SEED = ("sarai-seed", "random")
"""Metadata of a request: nobody has chosen its seed, so nobody will ask for its answer again."""
HARD_DEADLINES = ("sarai-deadline", "error")
"""Initial metadata of a server for which an answer that is not whole at the deadline is an error."""
SKILL = "sarai-skill"
"""Key in the initial metadata of grpc.health.v1: the name of the skill."""
IN_CONTAINER = ("sarai-container", "1")
"""Initial metadata of grpc.health.v1 where the server runs in a container."""
STATUS_DETAILS = "grpc-status-details-bin"
"""Key in the trailing metadata of a failed call: a google.rpc.Status with its details. The name is gRPC's."""
IMAGE_RESOURCE = "sarai.image"
"""The resource type of an image that a server does not have (google.rpc.ResourceInfo)."""
REASON_DOMAIN = "sarai"
"""The domain of every `Reason` in a google.rpc.ErrorInfo."""


class Reason(enum.StrEnum):
    """Why a replica does not take a call (google.rpc.ErrorInfo). If it is UNAVAILABLE, another replica may take it."""

    DRAINING = "DRAINING"
    """It is going away. What it has sent of an answer can be continued elsewhere."""
    LOADING = "LOADING"
    """It is not ready yet."""
    ENGINE_GONE = "ENGINE_GONE"
    """It cannot get ready, or has lost its engine and cannot get another one."""
    NOT_KEPT = "NOT_KEPT"
    """NOT_FOUND, not UNAVAILABLE: only a kept answer would do, and there is none."""


class Feature(enum.StrEnum):
    """What a server can do beyond answering a prompt (`HealthResp.features`)."""

    RESUME = "resume"
    """It takes `GenReq.continuations`, and the pieces of its answers carry their token ids."""
    IMAGES = "images"
    """`Message.parts` may hold images."""
    CACHE = "cache"
    """It keeps answers: `GenReq.cache` and the method ClearCache."""
    # Constraints, named like their fields in GenReq.
    GRAMMAR = "grammar"
    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    LARK = "lark"
    JSON_OBJECT = "json_object"
