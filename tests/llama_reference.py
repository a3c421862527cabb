"""The answers of `llama_cpp.Llama`, from a separate process: prompts as JSON on stdin, answers as JSON on stdout.

`python -m tests.llama_reference MODEL.gguf MAX_TOKENS`
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

os.environ["GGML_CPU_TILED_MM"] = "0"

from pathlib import Path

import llama_cpp  # noqa: TID251 - the reference that the engine is compared with
from llama_cpp import Llama  # noqa: TID251 - the same


def load_cpu_library() -> None:
    """Load the right library if the build has one per CPU family: llama-cpp-python does not."""
    library: Any = llama_cpp.llama_cpp._lib
    if library.ggml_backend_reg_count() == 0:
        library.ggml_backend_load_all_from_path(str(Path(llama_cpp.__file__).parent / "lib").encode())


def main() -> None:
    """Answer greedily with the engine's settings; one thread, so that a busy machine does not matter."""
    load_cpu_library()
    model, max_tokens = sys.argv[1], int(sys.argv[2])
    llama = Llama(model, n_ctx=2048, flash_attn=True, type_k=8, type_v=1, n_threads=1, verbose=False)
    answers = []
    for prompt in json.load(sys.stdin):
        tokens = llama.tokenize(prompt.encode(), add_bos=False, special=True)
        answer = llama.create_completion(tokens, max_tokens=max_tokens, temperature=0)
        answers.append({"text": answer["choices"][0]["text"], "tokens": tokens})
    json.dump(answers, sys.stdout)
    llama.close()


if __name__ == "__main__":
    main()
