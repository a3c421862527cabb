"""Measure the cost of a container's health check: milliseconds of CPU a check, in the container and in Docker.

`python -m bench.health_cost [--seconds 20]`, with the image built and the machine quiet. Compares an idle server
without checks to one with a check a second: by our probe, and by Python with grpc, the obvious alternative.
"""

from __future__ import annotations

import argparse
import sys
import time

import psutil

from bench.containers import container, docker, open_channel, target, wait_serving

_PYTHON = (
    "import grpc; from grpc_health.v1 import health_pb2 as m, health_pb2_grpc as g; "
    "g.HealthStub(grpc.insecure_channel('127.0.0.1:50051')).Check(m.HealthCheckRequest())"
)
CHECKS = {
    "no check": ("--no-healthcheck",),
    "health_probe": ("--health-interval=1s",),
    "python with grpc": ("--health-interval=1s", f'--health-cmd=python3 -c "{_PYTHON}"'),
}
_ENGINE = ("dockerd", "containerd", "containerd-shim")
_CPU_FILES = "cat /sys/fs/cgroup/cpuacct/cpuacct.usage 2>/dev/null || sed -n 's/usage_usec //p' /sys/fs/cgroup/cpu.stat"


def cpu_ms(name: str) -> tuple[float, float]:
    """Return the CPU time of a container so far, and that of Docker's processes including reaped children."""
    version_1, text = docker("exec", name, "sh", "-c", f"test -d /sys/fs/cgroup/cpuacct; echo $?; {_CPU_FILES}").split()
    inside = float(text) / (1e6 if version_1 == "0" else 1e3)
    engine = 0.0
    for process in psutil.process_iter(["name"]):
        if str(process.info["name"]).startswith(_ENGINE):
            try:
                engine += 1000 * sum(process.cpu_times()[:4])
            except psutil.Error:
                continue
    return inside, engine


def measure(options: tuple[str, ...], seconds: float) -> tuple[float, float]:
    """Return the CPU milliseconds a second of an idle server with these options: in the container, and in Docker."""
    with container(*options) as name:
        docker("start", name)
        with open_channel(target(name)) as channel:
            wait_serving(channel)
        time.sleep(5.0)
        before = cpu_ms(name)
        time.sleep(seconds)
        after = cpu_ms(name)
    return (after[0] - before[0]) / seconds, (after[1] - before[1]) / seconds


def main() -> int:
    """Measure, and print a line for each kind of check."""
    parser = argparse.ArgumentParser(prog="python -m bench.health_cost", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="how long to measure each")
    arguments = parser.parse_args()
    idle = None
    for name, options in CHECKS.items():
        inside, engine = measure(options, arguments.seconds)
        idle = idle or (inside, engine)
        line = f"{name:18} container {inside - idle[0]:6.1f} ms a check, engine {engine - idle[1]:6.1f} ms a check\n"
        sys.stdout.write(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
