"""The digits service left running, with a gentle traffic that never ends."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NoReturn

from lifelong.demo.digits import PAIRS, Digits, write_files
from lifelong.demo.reasons import why
from lifelong.demo.service import DemoFailed, Service, check_unused
from lifelong.demo.story import Story
from lifelong.demo.traffic import Traffic
from lifelong.demo.watch import Watch
from lifelong.serve.outside import free_port

PHASE = 250
"""Rows learned from before two more classes come."""
FIRST_PORT = 8000


def serve_digits(folder: Path, *, pace: float = 5.0) -> NoReturn:
    """Serve digits until interrupted; started again in the folder, it goes on as it was.

    Args:
        folder: for the service's two files and its state.
        pace: predictions a second, each with its label.

    Raises:
        DemoFailed: it does not start, ends by itself, or another runs in the folder.
    """
    check_unused(folder)
    story, config = Story(), write_files(folder, free_port(FIRST_PORT))
    with Service(config) as service:
        with story.waiting("starting"):
            digits = Digits()
            service.wait_ready()
        story.line(f"console: {service.url}/console")
        story.line(f"the interface: {service.url}/docs; files: {config.parent}; ctrl-C stops it")
        with Watch(service) as watch, Traffic(service.url, digits, pace=pace) as traffic:
            watch.decisions()  # of earlier runs
            while True:
                known = min(int(service.status().get("rows", 0)) // PHASE, len(PAIRS) - 1)
                traffic.send(PAIRS[known], [one for pair in PAIRS[:known] for one in pair])
                service.check()
                if traffic.crash is not None:
                    raise DemoFailed(f"the traffic ended: {traffic.crash}")
                _tell(story, watch, traffic)
                time.sleep(0.5)


def _tell(story: Story, watch: Watch, traffic: Traffic) -> None:
    for entry in watch.decisions():
        reason = why(entry["details"]["reason"])
        story.line(f"{entry['action']} version {entry['details']['version']}: {reason}", "dim")
    for failure in traffic.failures:
        story.line(f"failed: {failure}", "red")
    traffic.failures.clear()
