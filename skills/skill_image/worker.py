"""The worker process: takes pictures from the server, and sends back what it has made of them.

Pictures are untrusted and decoders are C. A crash ends this process, not the server, and a picture that takes too long
is ended with it: nothing could stop a thread that decodes.
"""

from __future__ import annotations

import dataclasses
import resource
import sys
import warnings
from typing import Any

from skills.runtime.child import JSON, link_to_server
from skills.runtime.pictures.errors import BadPictureError
from skills.skill_image.jobs import Job
from skills.skill_image.normalizing import normalize


def main() -> int:
    """Work until the server goes."""
    link = link_to_server(JSON)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold a user's picture
    warnings.simplefilter("ignore")
    while (frame := link.receive()) is not None:
        values, image = frame
        link.send(_answer(image, Job(**values)))
    return 0


def _answer(image: bytes, job: Job) -> tuple[dict[str, Any], bytes]:
    try:
        picture, encoded = normalize(image, job)
    except BadPictureError as error:
        return {"fault": error.fault, "message": str(error), "field": error.field}, b""
    except MemoryError:
        return {"fault": "too_large", "message": "takes more memory than there is", "field": "image"}, b""
    return dataclasses.asdict(picture), encoded


if __name__ == "__main__":
    sys.exit(main())
