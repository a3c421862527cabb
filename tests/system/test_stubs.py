"""After users have generated stubs with protoc, in whichever folder, the tree still works."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.own_network import own_network
from tests.pictures import RED, encoded
from tests.servers import TINY
from tests.source_tree import copy_tree, make_environment, typed

PROTOC = "python -m grpc_tools.protoc"
CONTRACT = {
    "at the root": f"{PROTOC} -I. --python_out=. --grpc_python_out=. skills/skills.proto",
    "in skills": f"cd skills && {PROTOC} -I. --python_out=. --grpc_python_out=. skills.proto",
    "in the skill's folder": (
        f"cd skills/skill_draft && {PROTOC} -I.. --python_out=.. --grpc_python_out=.. ../skills.proto"
    ),
}
IMAGE = {
    "at the root": f"{PROTOC} -I. --python_out=. --grpc_python_out=. skills/skill_image/image.proto",
    "in skills": f"cd skills && {PROTOC} -I. -I.. --python_out=. --grpc_python_out=. skill_image/image.proto",
    "in the skill's folder": (
        f"cd skills/skill_image && {PROTOC} -I. -I../.. --python_out=. --grpc_python_out=. image.proto"
    ),
}
ASK_DRAFT = """
import grpc
from core.model_pool import get_model_pool
from skills import skills_pb2, skills_pb2_grpc
import skills_pb2 as top, skills_pb2_grpc as top_grpc

request = skills_pb2.GenReq(prompt="Count to twenty.", max_tokens=4, temperature=0.0)
draft = get_model_pool().get_skill_client("draft")
answer = draft.Generate(request, timeout=60)
assert type(answer) is skills_pb2.GenResp is top.GenResp, type(answer)
assert isinstance(request, top.GenReq)
stub = top_grpc.SkillsServiceStub(grpc.insecure_channel("127.0.0.1:50051"))
assert stub.Generate(top.GenReq(prompt="Count to twenty.", max_tokens=4, temperature=0.0)).text == answer.text
bare = skills_pb2_grpc.SkillsServiceStub(grpc.insecure_channel("127.0.0.1:50051"))
print(answer.text, bare.Health(skills_pb2.HealthReq()).status, draft.target)
"""
ASK_IMAGE = """
from core.model_pool import get_model_pool
from skills.skill_image import image_pb2
from skills import skills_pb2

skill = get_model_pool().get_skill_client("image")
health = skill.Health()
assert isinstance(health, skills_pb2.HealthResp)
picture = open("picture.png", "rb").read()
answer = skill.Normalize(image_pb2.NormalizeRequest(image=picture), timeout=60)
assert isinstance(answer, image_pb2.NormalizeResponse)
print(answer.media_type, health.status, skill.target)
"""
SERVE_AND_ASK = """
(cd skills/{folder} && exec python server.py) &
until python -m sarai health -q {skill}; do kill -0 $!; sleep 0.2; done
python ask.py
buf curl --protocol grpc --http2-prior-knowledge http://localhost:{port}/{service}/Health
kill $!
wait $!
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Create a copy of this tree with its own environment."""
    tree = copy_tree(tmp_path / "tree")
    make_environment(tree)
    return tree


def generate(tree: Path, *lines: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in (tree / "skills").rglob("*_pb2*.py")}
    for line in lines:
        typed(f"source .venv/bin/activate && {line}", tree)
    changed = [path.name for path, time_ns in before.items() if path.stat().st_mtime_ns != time_ns]
    assert len(changed) == 2 * len(lines), changed
    assert set((tree / "skills").rglob("*_pb2*.py")) == set(before), "stubs were written elsewhere"


def serve_and_ask(tree: Path, skill: str, *, port: int, service: str, program: str) -> str:
    """Start the skill's server in its folder and run a program at the root that calls it; return what they print."""
    (tree / "ask.py").write_text(program)
    script = SERVE_AND_ASK.format(folder=f"skill_{skill}", skill=skill, port=port, service=service)
    path = os.pathsep.join((f"{tree}/.venv/bin", str(Path(sys.executable).parent), os.environ["PATH"]))
    return typed(script, tree, within=own_network(port), PATH=path, SKILL_DRAFT_MODEL=str(TINY))


@pytest.mark.parametrize("where", CONTRACT)
def test_server_and_host_work_with_the_contracts_stubs_generated(tree: Path, where: str) -> None:
    generate(tree, CONTRACT[where])
    said = serve_and_ask(tree, "draft", port=50051, service="SkillsService", program=ASK_DRAFT)
    assert "one two three four SERVING 127.0.0.1:50051\n" in said
    assert '"status": "SERVING"' in said, "buf curl got no health by reflection"


@pytest.mark.parametrize(
    ("contract", "own"),
    [("in skills", None), *(("in skills", where) for where in IMAGE), ("at the root", "in the skill's folder")],
)
def test_a_sibling_with_its_own_messages_works_with_generated_stubs(tree: Path, contract: str, own: str | None) -> None:
    generate(tree, CONTRACT[contract], *([IMAGE[own]] if own else []))
    (tree / "picture.png").write_bytes(encoded(Image.new("RGB", (64, 64), RED)))
    service = "skills.skill_image.ImageService"
    said = serve_and_ask(tree, "image", port=50061, service=service, program=ASK_IMAGE)
    assert "image/png SERVING 127.0.0.1:50061\n" in said
    assert '"status": "SERVING"' in said, "buf curl got no health by reflection"


def test_a_new_skills_stubs_may_be_generated_in_its_own_folder(tree: Path) -> None:
    typed("source .venv/bin/activate && sarai new-skill shout --proto", tree)
    generate(tree, f"cd skills/skill_shout && {PROTOC} -I. -I../.. --python_out=. --grpc_python_out=. shout.proto")
    assert " passed" in typed(".venv/bin/python -m pytest -q skills/skill_shout", tree)


def test_a_packaged_skills_stubs_may_be_generated_in_its_own_folder(tree: Path) -> None:
    typed("source .venv/bin/activate && sarai new-skill shout --proto --package ../shout", tree)
    package = tree.parent / "shout"
    line = f"{PROTOC} -I. -I{tree} --python_out=. --grpc_python_out=. shout.proto"
    typed(f"source .venv/bin/activate && cd {package}/sarai_skill_shout && {line}", tree)
    assert "\nimport shout_pb2 as" in (package / "sarai_skill_shout" / "shout_pb2_grpc.py").read_text()
    info = package / "sarai_skill_shout-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sarai-skill-shout\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[sarai.skills]\nshout = sarai_skill_shout.plugin\n")
    assert " passed" in typed(f"cd {package} && PYTHONPATH=$PWD {tree}/.venv/bin/python -m pytest -q", tree)
    program = "from sarai_skill_shout import shout_pb2_grpc as s; print(s.shout__pb2.RunRequest(text='x'))"
    assert "text" in typed(f'cd {package} && {tree}/.venv/bin/python -c "{program}"', tree)
