"""The image's builder makes the embedded model from a few files: as many as that takes."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.servers import ROOT

DOCKERFILE = ROOT / "skills" / "skill_draft" / "Dockerfile"
# Prints the files of ours that are loaded.
PROGRAM = """
import sys, skills.skill_draft.embedded
print(*(module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "skills"), sep="\\n")
"""


def test_builder_has_all_files_that_make_the_embedded_model() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    needed = {line.removeprefix(f"{ROOT}/") for line in loaded.split()}
    text = DOCKERFILE.read_text(encoding="utf-8")
    builder = text[text.index("# In the form that is read twice as fast") : text.index("skills.skill_draft.embedded")]
    copied = {f"skills/{name}" for name in re.findall(r"/src/app/skills/(\S+\.py)", builder)}
    assert "skills/skill_draft/embedded.py" in needed
    assert needed <= copied
