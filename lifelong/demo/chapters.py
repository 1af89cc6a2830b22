"""What is done to the service, chapter by chapter; each number is measured as it is printed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lifelong.demo.digits import PAIRS, Digits
from lifelong.demo.reasons import why
from lifelong.demo.service import DemoFailed, Service
from lifelong.demo.story import Story, percent
from lifelong.demo.traffic import Traffic
from lifelong.demo.watch import Watch
from lifelong.serve.client import Client
from lifelong.serve.served import served


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything is shown, and what it has to come to.

    Attributes:
        pairs: the classes that are new in each phase.
        least, most: rows of a phase.
        pace: predictions a second, at most.
        poison: labels in the burst.
        learned: the share of held-out rows of new classes that has to be right for a phase to end.
        kept: the share of held-out rows of all classes that has to be right after the phases.
        patience: seconds that anything may take.
    """

    pairs: Sequence[tuple[int, ...]] = PAIRS
    least: int = 150
    most: int = 600
    pace: float = 100.0
    poison: int = 150
    learned: float = 0.75
    kept: float = 0.8
    patience: float = 240.0


@dataclass(frozen=True, slots=True)
class Scene:
    """All that the chapters work with."""

    service: Service
    client: Client
    traffic: Traffic
    watch: Watch
    digits: Digits
    story: Story
    scale: Scale

    @property
    def classes(self) -> list[int]:
        """All classes that are shown."""
        return [one for pair in self.scale.pairs for one in pair]

    def asked(self, classes: Sequence[int], most: int) -> list[tuple[int | None, int]]:
        """Ask for held-out rows of these classes; return each answer and what it should be."""
        x, y = self.digits.tests(classes, most)
        answers = [
            answer.label
            for start in range(0, len(x), 60)
            for answer in self.client.predict_rows(x[start : start + 60])
        ]
        return list(zip(answers, y, strict=True))

    def accuracy(self, classes: Sequence[int], most: int = 60) -> float | None:
        """Ask for held-out rows of these classes; None if there are no classes."""
        if not classes:
            return None
        asked = self.asked(classes, most)
        return sum(answer == label for answer, label in asked) / len(asked)

    def told(self) -> tuple[float, str]:
        """Ask what is served for all classes: the share that is right, and the words for it."""
        version, asked = self.champion(), self.asked(self.classes, 300)
        right = sum(answer == label for answer, label in asked) / len(asked)
        others = [answer for answer, label in asked if label != 0]
        zeros = f"{others.count(0)} of {len(others)} other digits called 0"
        return right, f"version {version}, {percent(right)} right, {zeros}"

    def champion(self) -> int:
        """Return the version that is served."""
        return int(served(self.service.state)["champion"])

    def wait(self, done: Any, what: str) -> Any:
        """Wait while traffic flows.

        Raises:
            DemoFailed: it does not come to that in time, or the traffic has ended.
        """

        def look() -> Any:
            if self.traffic.crash is not None:
                raise DemoFailed(f"the traffic ended: {self.traffic.crash}")
            return done()

        return self.service.wait(look, self.scale.patience, what)

    def wait_for_rows(self, traffic: Traffic, rows: int) -> None:
        """Wait until so many rows were sent, or a request failed."""
        self.wait(lambda: traffic.rows >= rows or traffic.failures, "answer")

    def decided(self) -> list[dict[str, Any]]:
        """Tell what was promoted or rolled back since this was asked last."""
        new = self.watch.decisions()
        for entry in new:
            number, reason = entry["details"]["version"], entry["details"]["reason"]
            done = "was promoted" if entry["action"] == "promote" else "is served again"
            self.story.line(f"  version {number} {done}: {why(reason)}", "dim")
        return new


def classes_arrive(scene: Scene) -> None:
    """Send new classes, two at a time, until what is served knows them."""
    story, scale, traffic = scene.story, scene.scale, scene.traffic
    story.chapter("Classes arrive, two at a time; the learner is not told when")
    story.line("new     right on new   on old   version   labels   answered   failed")
    old: list[int] = []
    promoted: list[int] = []
    known = True
    for new in scale.pairs:
        traffic.send(new, old)
        right = _until_known(scene, new, promoted)
        known = known and right >= scale.learned
        told = (
            f"{' '.join(map(str, new)):<8}{percent(right):>12}   "
            f"{percent(scene.accuracy(old)):>6}   {scene.champion():>7}   {traffic.rows:>6}   "
            f"{traffic.answered:>8}   {len(traffic.failures):>6}"
        )
        story.line(told, "bold")
        old += new
    promotions = len(promoted)
    right = scene.accuracy(old, 300) or 0.0
    story.claim(
        known and right >= scale.kept,
        f"every class was learned, and {percent(right)} of held-out digits of all "
        f"{len(old)} classes are right now",
    )
    story.claim(
        promotions >= len(scale.pairs) and not traffic.failures,
        f"{promotions} challengers passed the gate and were swapped in, with "
        f"{len(traffic.failures)} of {traffic.answered} requests failed",
    )


def _until_known(scene: Scene, new: Sequence[int], promoted: list[int]) -> float:
    """Wait until new classes are known, or as many rows came as may; return the share right.

    Rows come by the clock, and are learned as fast as the machine can: those that came by then are
    waited for, and a few more, by which the gate judges what was made of them. What is promoted
    meanwhile is told as it happens, and added to `promoted`.
    """
    start, scale, traffic = scene.traffic.rows, scene.scale, scene.traffic
    most, read = start + scale.most, False
    while True:
        scene.wait_for_rows(traffic, max(start + scale.least, traffic.rows + 30))
        promoted += [e["details"]["version"] for e in scene.decided() if e["action"] == "promote"]
        right = scene.accuracy(new) or 0.0
        if right >= scale.learned or traffic.failures or (read and traffic.rows >= most):
            return right
        if traffic.rows >= most:
            end = scene.service.last()
            scene.wait(lambda end=end: scene.service.has_read(end), "read what came")
            most, read = traffic.rows + scale.least, True


def poison(scene: Scene) -> None:
    """Send a burst of labels that all say 0, among the right ones; then take it out again."""
    story, service, classes = scene.story, scene.service, scene.classes
    story.chapter(f"A broken client labels {scene.scale.poison} digits as 0")
    scene.traffic.send(classes)
    scene.decided()
    (before, told), champion = scene.told(), scene.champion()
    story.line(f"served before: {told}")
    held, refused, good = _quarantined(service), set(scene.watch.refused), scene.traffic.rows
    with Traffic(service.url, scene.digits, pace=scene.scale.pace, name="broken", says=0) as broken:
        broken.send(classes)
        lowest = before
        while broken.rows < scene.scale.poison:
            scene.wait_for_rows(broken, min(broken.rows + 60, scene.scale.poison))
            lowest = min(lowest, scene.accuracy(classes, 300) or 0.0)
            if broken.failures:
                break
    scene.traffic.failures += broken.failures
    scene.traffic.answered += broken.answered
    end, good = service.last(), scene.traffic.rows - good
    scene.wait(
        lambda: (
            service.has_read(end)
            and (set(scene.watch.refused) - refused or scene.champion() != champion)
        ),
        "judge what it learned from the burst",
    )
    held = _quarantined(service) - held
    story.line(
        f"sent: {broken.rows} wrong labels among {good} right ones; {held} labels were held back "
        "as unlike other rows, the learner took the others"
    )
    for version in sorted(set(scene.watch.refused) - refused):
        reason = why(scene.watch.refused[version][0])
        story.line(f"  version {version} was refused: {reason}", "dim")
    right, told = scene.told()
    scene.decided()
    learning = " (it went on learning from the right ones)" if right > before else ""
    story.line(f"served after:  {told}{learning}")
    story.claim(
        min(lowest, right) >= before - 0.1,
        f"what is served lost no more than 10 points: {percent(before)} right before the burst, "
        f"{percent(min(lowest, right))} at the lowest since",
    )
    story.line(_what_kept_it(held, broken.rows, scene.champion() != champion))
    _take_out(scene, champion, before)


def _what_kept_it(held: int, wrong: int, promoted: bool) -> str:
    """Say which of the safeguards had a part in it, by what was counted.

    Example:
        >>> _what_kept_it(held=120, wrong=150, promoted=True)
        'what kept it: the quarantine, which held back 120 of 150 wrong labels'
        >>> _what_kept_it(held=2, wrong=150, promoted=False)
        'what kept it: the gate, which has let no version through since'
    """
    if held > wrong / 2:
        return f"what kept it: the quarantine, which held back {held} of {wrong} wrong labels"
    if not promoted:
        return "what kept it: the gate, which has let no version through since"
    return (
        "what kept it: neither the quarantine nor the gate; the learner took the labels, and the "
        "version it made passed the gate, being as right as was measured"
    )


def _take_out(scene: Scene, champion: int, before: float) -> None:
    """As an operator: have the learner forget what came since the last good version."""
    story, service, classes = scene.story, scene.service, scene.classes
    answer = scene.client.rollback("a client sent wrong labels", to=champion, discard=True)
    # It reaches the decision's place in the log only after it went back and learned again.
    scene.wait(lambda: service.has_read(answer["offset"]), "go back")
    scene.decided()
    right, kept = scene.accuracy(classes, 300) or 0.0, service.status()["quarantine"]
    story.claim(
        kept.get("range", 0) > 0 and scene.champion() == champion and right >= before - 0.1,
        f"an operator had the learner go back to version {champion}: the {kept.get('range', 0)} "
        f"rows since then stay out, {percent(right)} right",
    )


def kill(scene: Scene) -> None:
    """Kill the trainer while requests come in, and wait until it has caught up."""
    story, service, traffic = scene.story, scene.service, scene.traffic
    story.chapter("The trainer is killed with SIGKILL")
    traffic.pace = scene.scale.pace / 3  # a restart needs most of a small machine
    pid, end = service.kill_trainer(), service.last()
    at, answered, failed = time.monotonic(), traffic.answered, len(traffic.failures)
    version = scene.client.predict(scene.digits.draw(scene.classes)[0]).version
    scene.wait(lambda: service.status().get("pid", pid) != pid, "start its trainer again")
    scene.wait(lambda: service.has_read(end), "catch up")
    seconds = time.monotonic() - at
    story.line(f"process {pid} died; version {version} went on answering")
    story.claim(
        len(traffic.failures) == failed and traffic.answered > answered,
        f"{traffic.answered - answered} requests were answered in the {seconds:.1f} s until it had "
        f"caught up again, {len(traffic.failures) - failed} failed",
    )


def _quarantined(service: Service) -> int:
    return int(service.status().get("quarantine", {}).get("loss", 0))
