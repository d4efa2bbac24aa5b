"""The task: one attempt at one build, from the claim to the record's last word."""

from __future__ import annotations

import functools
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from executor.errors import PushwrightError
from executor.spec import BuildSpec
from tasks.child import ExecutorChild, read_until_end
from tasks.errors import ExecutorDiedError, RedisUnavailableError
from tasks.lease import InterruptedBuild, Interruption, Lease
from tasks.lifecycle import MAX_ATTEMPTS, Build, Claim, State, TagRequest, Written
from tasks.logs import Logs
from tasks.logwriter import LogWriter
from tasks.records import Records
from tasks.settings import Settings
from tasks.tags import Image, MovingTags, Publisher, Tagging, TagLockedError

logger = logging.getLogger(__name__)
T = TypeVar("T")

# a cancelled executor says so and leaves within this time, or is killed
CANCEL_SECONDS = 5.0
REDIS_PAUSE_SECONDS = 0.5
# an error is kept in a record and sent with every list of builds
ERROR_TEXT_LIMIT = 4096
ERROR_TAIL_LINES = 50
# ends that the executor reports when it lost us, not because of the build
ABANDONED_CODES = frozenset({"lease-silent", "worker-gone", "cancelled"})


class Collaborators(Protocol):
    """What a build needs besides its record."""

    def specification(self, build: Build) -> BuildSpec: ...

    def publisher(self, build: Build) -> AbstractContextManager[Publisher]: ...


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended: in a final state, or (`QUEUED`) to be tried again."""

    state: State
    reason: str = ""
    results: tuple[Mapping[str, Any], ...] = ()
    error: Mapping[str, Any] | None = None
    delay_seconds: float = 0.0
    is_counted: bool = True
    met: tuple[TagRequest, ...] | None = None


def ending_of_error(error: Mapping[str, Any], attempt: int, retry_seconds: Sequence[float]) -> Ending:
    """What follows from an error: the user's own is final, a passing one is tried again after a pause."""
    code = str(error["code"])
    if code == TagLockedError.code:
        # another build's moment, or the lock of a killed one, which outlasts all pauses together
        return Ending(State.QUEUED, code, error=error, delay_seconds=retry_seconds[0], is_counted=False)
    if error.get("retryable") is not True or attempt >= MAX_ATTEMPTS:
        return Ending(State.FAILED, code, error=error)
    delay = retry_seconds[min(attempt, len(retry_seconds)) - 1]
    return Ending(State.QUEUED, code, error=error, delay_seconds=delay)


def ending_of_interruption(why: Interruption, deadline_seconds: float) -> Ending:
    """What follows when a build was ended before its time."""
    if why is Interruption.CANCELLED:
        return Ending(State.CANCELLED, str(why))
    if why is Interruption.DEADLINE:
        error = {
            "code": str(why),
            "message": f"the build ran longer than {deadline_seconds:g} seconds",
            "fixable_by": "user",
            "retryable": False,
            "hint": "raise PUSHWRIGHT_BUILD_DEADLINE_SECONDS, or make it faster",
        }
        return Ending(State.FAILED, str(why), error=error)
    return Ending(State.QUEUED, str(why), is_counted=why is not Interruption.STOPPING)


def error_of_event(fields: Mapping[str, Any]) -> dict[str, Any]:
    """An executor's error as the record keeps it: what an error has, in lengths that can be shown."""
    texts = ("code", "message", "fixable_by", "hint", "file")
    error: dict[str, Any] = {name: _kept_text(fields[name]) for name in texts if name in fields}
    error["retryable"] = fields.get("retryable") is True
    error.update({name: fields[name] for name in ("line", "status") if isinstance(fields.get(name), int)})
    tail = fields.get("tail")
    if isinstance(tail, list):
        error["tail"] = [_kept_text(line) for line in tail[-ERROR_TAIL_LINES:]]
    return error


def _kept_text(value: object) -> str:
    return str(value)[:ERROR_TEXT_LIMIT].encode("utf-8", "replace").decode()


@dataclass(slots=True)
class _Report:
    """What the executor's events amount to."""

    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None

    def take(self, event: dict[str, Any], writer: LogWriter) -> None:
        fields = {key: value for key, value in event.items() if key not in {"v", "seq", "ts", "type"}}
        if event["type"] == "result":
            self.result = fields
            # the manifest's bytes are kept in the record
            event = {key: value for key, value in event.items() if key != "manifest"}
        elif event["type"] == "error":
            # whether it is the last word is decided when the executor has ended
            self.error = error_of_event(fields)
            return
        writer.write(event)


@dataclass(frozen=True, slots=True)
class BuildRunner:
    """Runs builds by id, in any number of threads; `stopping` makes it give every build back."""

    records: Records
    logs: Logs
    moving: MovingTags
    collaborators: Collaborators
    settings: Settings
    command: tuple[str, ...]
    owner: str
    announce: Callable[[str], object]
    stopping: threading.Event = field(default_factory=threading.Event)

    def run(self, build_id: str) -> None:
        """One attempt at this build, unless somebody else is at it or it is not due."""
        claimed_at = time.monotonic()
        claim = self._claim(build_id)
        if claim is None:
            return
        logger.info("build %s: attempt %d begins", build_id, claim.attempt)
        with (
            Lease(self.records, claim, self.settings, self.stopping, claimed_at) as lease,
            LogWriter(self.logs, build_id, claim.attempt) as writer,
        ):
            ending, written = self._attempt_until_written(claim, lease, writer)
        if written is not Written.DONE:
            logger.warning("build %s: attempt %d lost its lease", build_id, claim.attempt)
            return
        logger.info("build %s: attempt %d ended: %s %s", build_id, claim.attempt, ending.state, ending.reason)
        self._afterwards(build_id, ending)

    def _claim(self, build_id: str) -> Claim | None:
        if self.stopping.is_set():
            return None
        until = time.monotonic() + self.settings.lease_seconds
        return self._with_redis(
            lambda: self.records.claim(build_id, self.owner, self.settings.lease_seconds),
            lambda: time.monotonic() > until or self.stopping.is_set(),
        )

    def _attempt_until_written(self, claim: Claim, lease: Lease, writer: LogWriter) -> tuple[Ending, Written]:
        """Repeats the last part while further tags were asked for during it."""
        build = claim.build
        while True:
            ending = self._attempt(build, claim, lease, writer)
            # whoever sees the ending, or takes the build up, shall find a log that has been told to its end
            writer.flush()
            written = self._write(claim, ending)
            if written is not Written.TAGS_ADDED:
                return ending, written
            read = functools.partial(self.records.get, build.id)
            build = self._with_redis(read, lease.is_lost) or build

    def _attempt(self, build: Build, claim: Claim, lease: Lease, writer: LogWriter) -> Ending:
        """What became of the attempt; the log has its last words by then."""
        if claim.attempt > 1 or claim.fence > 1:
            message = f"attempt {claim.attempt} begins: the one before did not finish"
            writer.say("warning", code="retaken", message=message)
        try:
            return self._build_and_publish(build, claim, lease, writer)
        except InterruptedBuild as interruption:
            ending = ending_of_interruption(interruption.why, self.settings.build_deadline_seconds)
        except PushwrightError as error:
            ending = ending_of_error(error.to_dict(), claim.attempt, self.settings.retry_seconds)
        except Exception as error:
            logger.exception("build %s: a fault in the worker", build.id)
            fault = PushwrightError(f"a fault in the worker ({type(error).__name__})", retryable=True)
            ending = ending_of_error(fault.to_dict(), claim.attempt, self.settings.retry_seconds)
        self._say_ending(ending, writer)
        return ending

    def _build_and_publish(self, build: Build, claim: Claim, lease: Lease, writer: LogWriter) -> Ending:
        recorded = build.image
        if recorded is None:
            report = self._execute(build, lease, writer)
            if report.error is not None:
                return self._ending_of_report(report.error, claim, writer)
            recorded = report.result or {}
            Image.from_result(recorded)
            self._record_image(claim, lease, recorded)
        image = Image.from_result(recorded)
        lease.check()
        with self.collaborators.publisher(build) as publisher:
            tagging = Tagging(publisher, self.moving, self._image_of, lease.check)
            published = tagging.publish(build, image)
        for tag, why in published.held_back.items():
            writer.say("warning", code="tag-held-back", message=f"tag {tag} was not moved: {why}")
        result = {
            "repository": build.repository,
            "digest": str(image.descriptor.digest),
            "media_type": image.descriptor.media_type,
            "size": image.descriptor.size,
            "platform": str(recorded.get("platform", "")),
            "tags": list(published.tags),
        }
        return Ending(State.SUCCEEDED, results=(result,), met=build.tags)

    def _execute(self, build: Build, lease: Lease, writer: LogWriter) -> _Report:
        """Runs the executor to its end; `InterruptedBuild` when it had to be ended."""
        specification = json.dumps(self.collaborators.specification(build).to_json()).encode()
        lease.check()
        report = _Report()
        command = [*self.command, "--protocol", "--lease-seconds", f"{self.settings.lease_seconds:g}"]
        with ExecutorChild(command, self._empty_directory()) as child, lease.telling(child.renew):
            child.send_specification(specification)
            has_ended = read_until_end(
                child, lambda event: report.take(event, writer), lambda: lease.interruption() is not None
            )
            if not has_ended and lease.interruption() is Interruption.CANCELLED:
                child.cancel()
                read_until_end(
                    child, lambda event: report.take(event, writer), lease.is_lost, within_seconds=CANCEL_SECONDS
                )
            how = child.end()
        lease.check()
        if report.result is None and report.error is None:
            raise ExecutorDiedError(f"the executor {how}", hint="look for an out-of-memory kill in the kernel's log")
        return report

    def _ending_of_report(self, error: Mapping[str, Any], claim: Claim, writer: LogWriter) -> Ending:
        if error.get("code") in ABANDONED_CODES:
            died = ExecutorDiedError(f"the executor gave up unasked: {error.get('message')}")
            error = died.to_dict()
        ending = ending_of_error(error, claim.attempt, self.settings.retry_seconds)
        self._say_ending(ending, writer)
        return ending

    def _say_ending(self, ending: Ending, writer: LogWriter) -> None:
        if ending.error is not None:
            writer.say("error", **ending.error)
        if ending.state is State.QUEUED:
            message = f"will be tried again ({ending.reason}), not before {ending.delay_seconds:g} s from now"
            writer.say("warning", code="will-retry", message=message)
        if ending.state is State.CANCELLED:
            message = "the build was cancelled"
            writer.say("error", code="cancelled", message=message, fixable_by="user", retryable=False)

    def _record_image(self, claim: Claim, lease: Lease, result: Mapping[str, Any]) -> None:
        """Keeps the image under the fence; even when the lease has just passed, so that it is not built again."""
        until = time.monotonic() + self.settings.lease_seconds
        written = self._with_redis(lambda: self.records.record_image(claim, result), lambda: time.monotonic() > until)
        if written is not Written.DONE:
            raise InterruptedBuild(Interruption.LEASE_LOST)

    def _write(self, claim: Claim, ending: Ending) -> Written:
        """Writes the ending under the fence; given up after two leases, when the sweep has long taken over."""
        until = time.monotonic() + 2 * self.settings.lease_seconds

        def write() -> Written:
            if ending.state is State.QUEUED:
                return self.records.put_back(
                    claim,
                    ending.reason,
                    delay_seconds=ending.delay_seconds,
                    error=ending.error,
                    counted=ending.is_counted,
                )
            return self.records.finish(
                claim, ending.state, ending.reason, results=ending.results, error=ending.error, met=ending.met
            )

        return self._with_redis(write, lambda: time.monotonic() > until) or Written.LOST

    def _afterwards(self, build_id: str, ending: Ending) -> None:
        """What the sweep would do a little later."""
        try:
            if ending.state is not State.QUEUED:
                self.logs.archive(build_id)
            elif not ending.delay_seconds:
                self.announce(build_id)
        except RedisUnavailableError as error:
            logger.warning("build %s: left to the sweep: %s", build_id, error.message)

    def _image_of(self, build_id: str) -> Image:
        return Image.from_result(self.records.get(build_id).image)

    def _empty_directory(self) -> Path:
        """Where the executor starts, so that it imports nothing of a repository's and leaves nothing behind."""
        directory = self.settings.data_dir / "empty"
        directory.mkdir(mode=0o555, parents=True, exist_ok=True)
        return directory

    @staticmethod
    def _with_redis(call: Callable[[], T], is_over: Callable[[], bool]) -> T | None:
        """Repeats a call while Redis is away; None when that lasted too long."""
        while True:
            try:
                return call()
            except RedisUnavailableError as error:
                if is_over():
                    logger.warning("given up: %s", error.message)
                    return None
                time.sleep(REDIS_PAUSE_SECONDS)
