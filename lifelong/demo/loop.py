"""The loop from end to end: new classes, the gate, poison, a kill, and the proof."""

from __future__ import annotations

import shutil
from pathlib import Path

from lifelong.core.errors import LifelongError
from lifelong.demo import chapters
from lifelong.demo.chapters import Scale, Scene
from lifelong.demo.digits import Digits, write_files
from lifelong.demo.proof import prove
from lifelong.demo.service import DemoFailed, Service, check_unused
from lifelong.demo.story import Story
from lifelong.demo.traffic import Traffic
from lifelong.demo.watch import Watch
from lifelong.serve.client import Client
from lifelong.serve.outside import free_port


def show_loop(folder: Path, scale: Scale | None = None) -> list[str]:
    """Show a service on digits from end to end; return the claims that did not hold.

    Args:
        folder: for the service's two files and its state; what an earlier demo left is deleted.
        scale: how much of it.

    Raises:
        DemoFailed: another demo runs in the folder.
    """
    check_unused(folder)
    shutil.rmtree(folder / "state", ignore_errors=True)
    story, scale = Story(), scale or Scale()
    config = write_files(folder, free_port())
    try:
        story.chapter("A service starts, with a model that has seen no digits")
        with Service(config) as service:
            with story.waiting("starting: its processes import torch and MLflow first"):
                digits = Digits()
                service.wait_ready()
            story.line(f"answers on {service.url}, with a console at {service.url}/console")
            story.line(f"its files: {config} and {config.with_suffix('.py').name}")
            _run(service, digits, story, scale)
            service.stop()
        _prove(config, story)
        story.line("next: `lifelong demo --part serve` (`make serve` in a clone) leaves it running")
    except LifelongError as error:
        story.claim(False, str(error))
    return story.failed


def _run(service: Service, digits: Digits, story: Story, scale: Scale) -> None:
    with (
        Client(service.url, attempts=1, timeout=60.0) as client,
        Watch(service) as watch,
        Traffic(service.url, digits, pace=scale.pace) as traffic,
    ):
        scene = Scene(service, client, traffic, watch, digits, story, scale)
        chapters.classes_arrive(scene)
        chapters.poison(scene)
        chapters.kill(scene)
    for failure in traffic.failures[:3]:
        story.line(f"failed: {failure}", "red")
    if traffic.crash is not None:
        raise DemoFailed(f"the traffic ended: {traffic.crash}")
    end = service.last()
    service.wait(lambda: service.has_read(end), scale.patience, "catch up")


def _prove(config: Path, story: Story) -> None:
    """Learn the whole log again, undisturbed, and compare."""
    story.chapter("Proof: the same log, learned again by a trainer that nothing disturbed")
    with story.waiting("learning again"):
        proof = prove(config)
    story.line(f"killed and recovered   {proof.recovered[:32]}")
    story.line(f"never disturbed        {proof.undisturbed[:32]}")
    story.claim(
        proof.recovered == proof.undisturbed,
        f"the weights after {proof.events} events are the same, bit for bit",
    )
    story.claim(proof.audit_code == 0, f"lifelong audit: {proof.audit}")
