"""Small pictures of every format, damaged at random: bits, bytes, ranges, and whole chunks of a PNG."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.pictures import PNG_SIGNATURE, animated, chunk, chunks, encoded, exif, gif_frame, quarters, tiff, with_chunks

_PICTURE = quarters(8, 8)
_PARTS = (chunk(b"tRNS", bytes(6)), chunk(b"tEXt", b"Comment\0text"), chunk(b"gAMA", bytes(4)))
SOUND = {
    **{kind: encoded(_PICTURE, kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")},
    **{f"animated {kind}": animated(kind, _PICTURE) for kind in ("PNG", "WEBP", "GIF")},
    **{f"{kind} TIFF": encoded(_PICTURE, "TIFF", compression=kind) for kind in ("tiff_lzw", "tiff_deflate", "jpeg")},
    **{f"{kind} with a palette": encoded(_PICTURE.quantize(4), kind) for kind in ("PNG", "GIF", "BMP", "TIFF")},
    "PNG with a clear colour": with_chunks(encoded(_PICTURE), *_PARTS),
    "PNG with a clear index": encoded(_PICTURE.quantize(4), transparency=b"\0\1\2\3"),
    "PNG of 16 bits": encoded(_PICTURE.convert("I;16"), transparency=7),
    "PNG with alpha": encoded(_PICTURE.convert("LA")),
    "turned JPEG": encoded(_PICTURE, "JPEG", progressive=True, exif=exif(6)),
    "turned WebP": encoded(_PICTURE, "WEBP", lossless=True, exif=exif(6)),
    "JPEG of print": encoded(_PICTURE.convert("CMYK"), "JPEG"),
    "TIFF with premultiplied alpha": tiff((8, 8), bytes(128), (8, 8), 1, extra=(1,)),
    "GIF with another frame": gif_frame(8, 8),
}
_NUMBERS = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\0\0\x40\0", b"\0\x40\0\0", b"\xff\xff", b"\0\0")


@st.composite
def damaged_pictures(draw: st.DrawFn) -> bytes:
    """Return a picture that is damaged in one to four places."""
    image = draw(st.sampled_from(sorted(SOUND.values())))
    if image.startswith(PNG_SIGNATURE) and draw(st.booleans()):
        return draw(_other_chunks(image))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(image) - 1)))
        until = at + draw(st.integers(1, 40))
        match draw(st.sampled_from(("cut", "flip", "number", "drop", "repeat"))):
            case "cut":
                image = image[:at]
            case "flip":
                image = (
                    image[:at]
                    + bytes([byte ^ 1 << draw(st.integers(0, 7)) for byte in image[at : at + 1]])
                    + image[at + 1 :]
                )
            case "number":
                number = draw(st.sampled_from(_NUMBERS))
                image = image[:at] + number + image[at + len(number) :]
            case "drop":
                image = image[:at] + image[until:]
            case "repeat":
                image = image[:until] + image[at:]
    return image


@st.composite
def _other_chunks(draw: st.DrawFn, image: bytes) -> bytes:
    """Return a PNG with chunks in another order, some twice, some with other content, all with right checksums."""
    parts = draw(st.permutations(chunks(image)))
    parts = [part for part in parts for _ in range(draw(st.sampled_from((1, 1, 1, 0, 2))))]
    first = [] if draw(st.booleans()) else chunks(image)[:1]
    content = st.binary(max_size=40)
    return PNG_SIGNATURE + b"".join(
        chunk(kind, draw(content) if draw(st.integers(0, 4)) == 0 else part) for kind, part in (*first, *parts)
    )
