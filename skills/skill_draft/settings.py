"""The settings of the draft skill, in addition to those of every skill's server. They are read before anything else."""

from __future__ import annotations

from dataclasses import dataclass

from skills.runtime.settings import CachingSettings, setting

NAME = "draft"
PORT = 50051


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(CachingSettings):
    """The settings of a draft skill. 0 lets the skill choose by what the machine has."""

    listen: str = setting(f"127.0.0.1:{PORT}", "address to serve on: HOST:PORT or unix:/PATH")
    on_start_failure: str = setting(
        "exit", "if the model cannot be loaded. exit: end with code 1; stay: be NOT_SERVING, report why, and try again",
        choices=("exit", "stay"),
    )  # fmt: skip
    model: str = setting(
        "", "a GGUF file, or a name from models/catalog.toml; empty: the model in the models folder, else the embedded "
        "small model",
    )  # fmt: skip
    models_dir: str = setting(
        "", "folder of GGUF files; empty: /models, else models/ of the repository, else ~/.local/share/sarai/models"
    )  # fmt: skip
    mmproj: str = setting(
        "", "the file that reads images (mmproj); empty: the one that the catalogue names for the model, else the only "
        "one next to the model; off: no images",
    )  # fmt: skip
    threads: int = setting(
        0, "CPU threads; 0: the CPUs this process may use, including the cgroup quota and its changes at run time",
        low=0, high=512,
    )  # fmt: skip
    n_ctx: int = setting(
        0, "tokens of prompt and answer together; 0: 4096, or as many as model and memory allow", low=0, high=1 << 20
    )  # fmt: skip
    kv_cells: int = setting(
        0, "cells of the KV cache, for running requests and prefixes; 0: twice n_ctx, or as many as memory allows",
        low=0, high=1 << 22,
    )  # fmt: skip
    n_batch: int = setting(512, "most rows in one step", low=16, high=4096)
    slots: int = setting(16, "requests that run at once", low=1, high=128)
    prefixes: int = setting(32, "finished conversations that the KV cache holds; others are parked", low=1, high=120)
    prefix_dir: str = setting(
        "", "folder, mode 700, for prefixes that survive a restart and that replicas of one machine share; empty: none"
    )
    prefix_mb: float = setting(1024.0, "most bytes of files in it, MiB", low=1, high=1 << 20)
    packed_dir: str = setting(
        "", "folder, mode 700, for a copy of the model that is packed for this CPU: loading it takes a fraction of the "
        "time, and replicas of one machine share its memory; takes as much disk as the model; empty: none",
    )  # fmt: skip
    gap_ms: float = setting(
        250.0,
        "bound on the inter-token latency of a stream, as far as other requests cause it, milliseconds",
        low=1,
        high=60000,
    )
    piece_ms: float = setting(
        50.0, "flush interval: how long tokens of a stream, except the first, may wait to be sent together, "
        "milliseconds; 0: not at all", low=0, high=10000,
    )  # fmt: skip
    max_message_mb: float = setting(17.0, "largest request, MiB", low=0.01, high=1024)
    uploads_mb: float = setting(
        64.0, "image files that are kept, so that callers need not send them again, MiB", low=0, high=65536
    )  # fmt: skip
    rows_mb: float = setting(
        0.0, "memory for encoded images, MiB; 0: two of the largest", low=0, high=65536
    )  # fmt: skip
    read_timeout_s: float = setting(20.0, "most time for reading an image, seconds", low=0.1, high=3600)
    encode_timeout_s: float = setting(300.0, "most time for encoding an image, seconds", low=0.1, high=86400)
    vision_idle_s: float = setting(
        60.0, "how long the process that encodes images stays without work, seconds", low=0, high=86400
    )  # fmt: skip
    engine_idle_s: float = setting(
        0.0, "how long the engine stays without requests, seconds; the next one waits until the model is loaded again; "
        "0: always", low=0, high=31_536_000,
    )  # fmt: skip
    deadline: str = setting(
        "answer", "result of a call whose answer is incomplete at its deadline. answer: the text so far; error: "
        "DEADLINE_EXCEEDED", choices=("answer", "error"),
    )  # fmt: skip
    numerics: str = setting(
        "exact", "exact: an answer is a function of its request alone; fast: all kernels", choices=("exact", "fast")
    )
    cache_near: str = setting(
        "off", "on: lookup speculation also proposes what is kept for a near-equal prompt, which changes no answer; it "
        "takes 20 MB, works with exact numerics, and is for callers who may learn what others ask",
        choices=("off", "on"),
    )  # fmt: skip
    step_timeout_s: float = setting(
        20.0, "time without a step after which an engine is replaced, seconds", low=0.5, high=3600
    )
    start_timeout_s: float = setting(300.0, "time for loading the model, seconds", low=1, high=86400)
