"""What was run, and what was not and why, on one screen at the end of a test run."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.folders import folder_of
from tools.progress import clock

_OUTCOMES = ("passed", "failed", "error", "skipped", "xfailed", "xpassed")
_REASONS = 12


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Write a line for each folder, then a line for each reason why tests were not run."""
    reports = {
        outcome: [each for each in found if isinstance(each, pytest.TestReport)]
        for outcome, found in terminalreporter.stats.items()
    }
    if not any(reports.get(outcome) for outcome in _OUTCOMES):
        return
    terminalreporter.section("what was run, and what was not")
    for line in [*_by_folder(reports, config.rootpath), *_by_reason(reports.get("skipped", []))]:
        terminalreporter.write_line(line)
    if deselected := len(terminalreporter.stats.get("deselected", [])):
        terminalreporter.write_line(f"not run  {deselected}: not selected by the arguments")


def _by_folder(reports: Mapping[str, list[pytest.TestReport]], root: Path) -> Iterator[str]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    seconds: dict[str, float] = defaultdict(float)
    for outcome, found in reports.items():  # a successful set-up has an empty outcome; its time counts too
        for report in found:
            folder = folder_of(root / report.nodeid.partition("::")[0])
            seconds[folder] += report.duration
            counts[folder][outcome] += 1
    for folder in sorted(counts):
        outcomes = ", ".join(f"{counts[folder][each]} {each}" for each in _OUTCOMES if counts[folder][each])
        yield f"{folder:<8} {outcomes} ({clock(seconds[folder])})"


def _by_reason(skipped: list[pytest.TestReport]) -> Iterator[str]:
    reasons = Counter(map(_reason, skipped))
    for reason, number in reasons.most_common(_REASONS):
        yield f"not run  {number}: {reason}"
    if (more := len(reasons) - _REASONS) > 0:
        yield f"         … and {more} other reasons: -rs lists them"


def _reason(report: pytest.TestReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return " ".join(text.removeprefix("Skipped: ").split())
