"""What ray_load.py and celery_load.py share: command line, percentiles, process trees, the cost of idle processes."""

from __future__ import annotations

import argparse
import os
import re
import time
from pathlib import Path
from typing import Callable

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
SETTLE_S = 3
IDLE_S = 10
TRY_S = 1
GIVE_UP_S = 30


def options(description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--function", choices=["echo", "handler_5ms"], default="echo")
    parser.add_argument("--payload-bytes", type=int, default=128)
    parser.add_argument("--in-flight", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--workers", type=int, default=2, help="how many workers to load")
    mode.add_argument("--kill", action="store_true", help="kill the only worker and measure until the next answer")
    mode.add_argument("--start", type=int, metavar="N", help="measure the start of N workers")
    mode.add_argument("--idle", type=int, metavar="N", help="measure the supervising processes of N idle workers")
    return parser.parse_args()


def workers_of(asked: argparse.Namespace) -> int:
    return asked.start or asked.idle or (1 if asked.kill else asked.workers)


def stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command name (the first one is the state)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def process_age_s(pid: int) -> float:
    """Seconds since a process started (in steps of 10 ms)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(stat_fields(pid)[19]) / TICKS_PER_S


def descendants(pid: int) -> list[int]:
    """The pids of all children of a process, and of their children."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents.setdefault(int(stat_fields(int(entry.name))[1]), []).append(int(entry.name))
            except OSError:
                continue
    found: list[int] = []
    pending = [pid]
    while pending:
        children = parents.get(pending.pop(), [])
        found += children
        pending += children
    return found


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of processes until now."""
    return sum(int(tick) for pid in pids for tick in stat_fields(pid)[11:13]) / TICKS_PER_S


def pss_mib(pids: list[int]) -> float:
    """Proportional set size of processes: shared pages count by their share."""
    rollups = (Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids)
    return sum(int(kb) for rollup in rollups for kb in re.findall(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)) / 1024


def idle_cost(pids: list[int]) -> dict[str, float]:
    """Processes left alone for some seconds: CPU in percent of one core, and memory."""
    time.sleep(SETTLE_S)
    cpu_before, started = cpu_seconds(pids), time.perf_counter()
    time.sleep(IDLE_S)
    cpu_percent = 100 * (cpu_seconds(pids) - cpu_before) / (time.perf_counter() - started)
    return {"cpuPercent": cpu_percent, "pssMib": pss_mib(pids), "processes": len(pids)}


def next_answer(killed: int, ask: Callable[[float], int], failures: tuple[type[Exception], ...]) -> dict[str, float]:
    """Measures from now until the first good answer; `none` when there is none in time.

    `ask` waits at most TRY_S, and returns the pid of the process that answered: it must not be the killed one.
    """
    started = time.perf_counter()
    while time.perf_counter() - started < GIVE_UP_S:
        try:
            answered = ask(TRY_S)
        except failures:
            time.sleep(0.001)
        else:
            took_s = time.perf_counter() - started
            if answered == killed or is_alive(killed):
                raise RuntimeError(f"process {killed} lives on after it was killed, process {answered} answered")
            return {"ms": 1e3 * took_s}
    return {"none": 1}


def is_alive(pid: int) -> bool:
    """Whether a process is there and has not ended: one that nobody has waited for yet has."""
    try:
        return stat_fields(pid)[0] not in "ZX"
    except OSError:
        return False


def load_summary(latencies_s: list[float], seconds: float) -> dict[str, float]:
    ordered = sorted(latencies_s)
    return {
        "requests": len(ordered),
        "seconds": seconds,
        "perSecond": len(ordered) / seconds,
        "p50Ms": 1e3 * ordered[len(ordered) // 2],
        "p99Ms": 1e3 * ordered[int(0.99 * len(ordered))],
    }
