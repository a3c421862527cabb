"""What a kept answer looks like outside of this process, so that it is believed only if a replica of ours wrote it.

    byte 0       version
    bytes 1-32   the key
    bytes 33-40  when it was computed, milliseconds since 1970, big-endian
    bytes 41-72  HMAC-SHA256 of all other bytes
    bytes 73-    the value, compressed (zlib)

Another version, the entry of another key, another secret, a byte that has changed, a piece that is missing: each is as
if nothing were there.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
import zlib

from .kept import KEY_BYTES, Entry

VERSION = 1
_HEAD = struct.Struct(f">B{KEY_BYTES}sQ")
_MAC_BYTES = hashlib.sha256().digest_size
_BODY = _HEAD.size + _MAC_BYTES
_LEVEL = 1  # answers are short; the higher levels take three times as long for a few per cent


def seal(secret: bytes, key: bytes, entry: Entry) -> bytes:
    """Return an entry as it may leave this process."""
    head = _HEAD.pack(VERSION, key, max(0, round(entry.made_s * 1000)))
    body = zlib.compress(entry.value, _LEVEL)
    return head + _mac(secret, head, body) + body


def unseal(secret: bytes, key: bytes, sealed: bytes) -> Entry | None:
    """Return the entry; None unless it was sealed with this secret for this key. Nothing is unpacked before that."""
    if len(sealed) < _BODY:
        return None
    head, mac, body = sealed[: _HEAD.size], sealed[_HEAD.size : _BODY], sealed[_BODY:]
    version, own_key, made_ms = _HEAD.unpack(head)
    if version != VERSION or own_key != key or not hmac.compare_digest(mac, _mac(secret, head, body)):
        return None
    return Entry(zlib.decompress(body), made_ms / 1000)


def _mac(secret: bytes, head: bytes, body: bytes) -> bytes:
    return hmac.digest(secret, head + body, "sha256")
