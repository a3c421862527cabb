"""The embedded model's answers equal those of llama-cpp-python's own `Llama`, bit for bit, in any batch."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from skills import skills_pb2
from skills.skill_draft.catalog import EMBEDDED, find_model
from tests.servers import ROOT, draft_server

QUESTIONS = [
    "Explain how a rainbow forms.",
    "Write a haiku about autumn.",
    "What is the capital of France?",
    "List five animals that live in the sea.",
    "Why is the sky blue? Answer in one sentence.",
    "Translate 'good morning' into Spanish.",
    "Write a Python function that adds two numbers.",
    "Tell me a short story about a fox and a crow.",
    "How do I boil an egg?",
    "Summarise: the quick brown fox jumps over the lazy dog. " * 6,
]
MAX_TOKENS = 48


def test_greedy_answers_equal_those_of_llama(tmp_path: Path) -> None:
    model = find_model(EMBEDDED, tmp_path)
    turns = [f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n" for question in QUESTIONS]
    command = [sys.executable, "-m", "tests.llama_reference", str(model), str(MAX_TOKENS)]
    done = subprocess.run(
        command, cwd=ROOT, input=json.dumps(turns), capture_output=True, text=True, timeout=100, check=True
    )
    wanted = [answer["text"] for answer in json.loads(done.stdout)]
    with draft_server(tmp_path, model=EMBEDDED) as server:
        requests = [skills_pb2.GenReq(prompt=turn, raw=True, temperature=0, max_tokens=MAX_TOKENS) for turn in turns]
        one_by_one = [server.stub.Generate(request, timeout=60).text for request in requests]
        with ThreadPoolExecutor(len(requests)) as pool:
            together = list(pool.map(lambda request: server.stub.Generate(request, timeout=60).text, requests))
    assert one_by_one == wanted
    assert together == wanted
    assert len(set(wanted)) == len(wanted)
