"""A picture that is damaged anywhere is refused, or survives."""

from __future__ import annotations

import pytest

from skills.runtime.pictures.errors import BadPictureError
from skills.skill_image.jobs import Job
from skills.skill_image.normalizing import normalize
from tests.damaged_pictures import SOUND

JOB = Job(min_pixels=1024, max_pixels=1 << 20, encoding="png", quality=85, decode_pixels=1 << 22)


@pytest.mark.parametrize("name", SOUND)
def test_damage_anywhere_is_refused_or_survived(name: str) -> None:
    whole = SOUND[name]
    for at in range(len(whole)):
        for image in (whole[:at], *(whole[:at] + other + whole[at + 1 :] for other in (b"\0", b"\xff"))):
            try:
                about, _ = normalize(image, JOB)
            except BadPictureError:
                continue
            assert about.width * about.height <= JOB.max_pixels
