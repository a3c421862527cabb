"""The vision process: `python -m skills.skill_draft.vision FD`, started by the server, never by hand.

Images are untrusted and decoders are C. A crash ends this process, not the server, and an image that takes too long is
ended with it. This thread reads images; another one encodes them meanwhile, one at a time.
"""

from __future__ import annotations

import mmap
import os
import queue
import resource
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skills.runtime.child import JSON, Link, link_to_server
from skills.runtime.pictures.errors import BadPictureError

from .pixels import Pixels, read_pixels

if TYPE_CHECKING:
    from .tower import Tower


class VisionProcess:
    """Answers the server's questions: what an image is read as, and its rows.

    Args:
        link: The link to the server.
        config: The first frame: the files, and where rows go.
    """

    def __init__(self, link: Link, config: dict[str, Any]) -> None:
        self._link, self._config = link, config
        self._sending = threading.Lock()
        self._tower_sha256 = bytes.fromhex(config["mmproj_sha256"])
        self._to_encode: queue.Queue[tuple[int, Pixels, int]] = queue.Queue()

    def run(self) -> None:
        """Work until the server goes."""
        threading.Thread(target=self._encode_all, name="encode", daemon=True).start()
        while (frame := self._link.receive()) is not None:
            values, image = frame
            if answer := self._take(values, image):
                self._send({"id": values["id"], **answer})

    def _send(self, answer: dict[str, Any]) -> None:
        with self._sending:
            self._link.send((answer, b""))

    def _take(self, values: dict[str, Any], image: bytes) -> dict[str, Any]:
        """Return the answer to a question; empty if the other thread will give it."""
        try:
            pixels = read_pixels(image, values["max_tokens"])
        except BadPictureError as error:
            return {"fault": error.fault, "message": str(error)}
        except MemoryError:
            return {"fault": "too_large", "message": "takes more memory than there is"}
        except Exception as error:  # noqa: BLE001  # Pillow raises anything, and the next image is a good one
            return {"fault": "invalid", "message": f"cannot be read: {type(error).__name__}"}
        if "offset" in values:
            self._to_encode.put((values["id"], pixels, values["offset"]))
            return {}
        key = pixels.key(self._tower_sha256).hex()
        return {"key": key, "across": pixels.across, "down": pixels.down}

    def _encode_all(self) -> None:
        """Encode images one after the other: the body of the other thread."""
        tower, rows = None, memoryview(_open_rows(self._config["rows_path"]))
        while True:
            id_, pixels, offset = self._to_encode.get()
            begin_s = time.monotonic()
            try:
                tower = tower or self._open_tower()
                tower.encode(pixels, rows[offset:])
            except Exception as error:  # noqa: BLE001  # told to the operator; the next image may fare better
                self._send({"id": id_, "broken": str(error) or type(error).__name__})
                continue
            self._send({"id": id_, "seconds": time.monotonic() - begin_s})

    def _open_tower(self) -> Tower:
        from .tower import Tower  # llama.cpp, which an image that is only read does not need

        config = self._config
        return Tower(
            Path(config["model"]), Path(config["mmproj"]), row_width=config["row_width"], threads=config["threads"]
        )


def _open_rows(path: str) -> mmap.mmap:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        return mmap.mmap(descriptor, 0)
    finally:
        os.close(descriptor)


def main() -> int:
    """Read and encode images until the server goes."""
    link = link_to_server(JSON)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold a user's image
    warnings.simplefilter("ignore")
    if (frame := link.receive()) is not None:
        VisionProcess(link, frame[0]).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
