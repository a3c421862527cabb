"""(j) Questions about images: a new one, the same one again, and one that arrives while others are answered."""

from __future__ import annotations

import asyncio
import io
import random

from PIL import Image

from bench.prompting import Prompts
from bench.site import Figures, Site
from bench.streams import four_streams, longest_gap_s
from bench.wire import Ask, Turn

WARM_SIDE = 96


def picture(random_: random.Random, side: int) -> bytes:
    """Return a PNG of side x side pixels that no server has seen: large squares of random colours."""
    small = Image.frombytes("RGB", (8, 8), random_.randbytes(8 * 8 * 3))
    out = io.BytesIO()
    small.resize((side, side), Image.Resampling.NEAREST).save(out, "PNG")
    return out.getvalue()


def _about(prompts: Prompts, image: bytes, max_tokens: int) -> Ask:
    """Return a question about an image. The image comes first, so that a second question shares what precedes it."""
    return Ask(turns=(Turn(role="user", content=prompts.question(), images=(image,)),), max_tokens=max_tokens)


async def images(site: Site) -> Figures:
    """Measure the time to the first token by size, new and known, and the gaps of running streams meanwhile."""
    sizes, prompts, figures = site.sizes, site.prompts, Figures()
    # The vision tower is loaded with the first image.
    await site.client.ask(_about(prompts, picture(prompts.random, WARM_SIDE), 4))
    for side in sizes.image_sides:
        image = picture(prompts.random, side)
        new = await site.client.ask(_about(prompts, image, sizes.image_new))
        again = await site.client.ask(_about(prompts, image, sizes.image_new))
        figures |= {
            f"new_first_ms@{side}": 1000 * new.first_token_s,
            f"again_first_ms@{side}": 1000 * again.first_token_s,
            f"faster_again@{side}": new.first_token_s / again.first_token_s,
            f"prompt_tokens@{side}": float(new.prompt_tokens),
        }
    async with four_streams(site) as streams:
        image = picture(prompts.random, sizes.arriving_side)
        answer = await site.client.ask(_about(prompts, image, 4))
        await asyncio.sleep(0.3)
    figures["longest_gap_ms"] = 1000 * longest_gap_s(streams, answer.start, answer.times[0])
    figures["arriving_first_ms"] = 1000 * answer.first_token_s
    return figures
