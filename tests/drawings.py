"""Drawn images that the tiny vision model was trained to name: one coloured shape on a grey, noisy ground."""

from __future__ import annotations

import io
import math
import random
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageDraw

COLOURS = {
    "red": (222, 32, 38), "green": (34, 170, 48), "blue": (36, 46, 214), "yellow": (244, 220, 30),
    "black": (6, 4, 10), "white": (254, 250, 254),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle")
PLACES = {"left": (0.25, 0.5), "right": (0.75, 0.5), "top": (0.5, 0.25), "bottom": (0.5, 0.75)}
_SIDES = (64, 96)


@dataclass(frozen=True, slots=True)
class Drawing:
    """An image file and what it shows."""

    png: bytes
    colour: str
    shape: str
    place: str

    @property
    def name(self) -> str:
        """The answer to "What is in the image?"."""
        return f"a {self.colour} {self.shape}"


def draw(random_: random.Random, *, side: int = 0) -> Drawing:
    """Draw a random image of `side` x `side` pixels, by default 64 or 96."""
    colour, shape = random_.choice(list(COLOURS)), random_.choice(SHAPES)
    place = random_.choice(list(PLACES))
    side = side or random_.choice(_SIDES)
    ground = random_.randint(100, 155)
    image = Image.new("RGB", (side, side), tuple(ground + random_.randint(-12, 12) for _ in range(3)))
    x, y = (side * (at + random_.uniform(-0.04, 0.04)) for at in PLACES[place])
    fill = tuple(max(0, min(255, value + random_.randint(-8, 8))) for value in COLOURS[colour])
    _put(ImageDraw.Draw(image), shape, (x, y, side * random_.uniform(0.16, 0.2)), fill, random_.uniform(-0.15, 0.15))
    out = io.BytesIO()
    _noisy(image, random_, random_.randint(3, 14)).save(out, "PNG")
    return Drawing(out.getvalue(), colour, shape, place)


def _put(
    draw_: ImageDraw.ImageDraw,
    shape: str,
    at: tuple[float, float, float],
    fill: tuple[int, ...],
    turn: float,
) -> None:
    x, y, radius = at
    if shape == "circle":
        draw_.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
        return
    corners, begin = (4, math.pi / 4) if shape == "square" else (3, -math.pi / 2)
    angles = [begin + turn + i * 2 * math.pi / corners for i in range(corners)]
    reach = 1.2 * radius
    draw_.polygon([(x + reach * math.cos(a), y + reach * math.sin(a)) for a in angles], fill=fill)


def _noisy(image: Image.Image, random_: random.Random, amount: int) -> Image.Image:
    """Add noise of up to `amount` in both directions to each channel of each pixel."""
    noise = Image.frombytes("RGB", image.size, random_.randbytes(3 * image.width * image.height))
    scaled = noise.point([value * amount // 255 for value in range(256)] * 3)
    return ImageChops.subtract(ImageChops.add(image, scaled), Image.new("RGB", image.size, (amount // 2,) * 3))
