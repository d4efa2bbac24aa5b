from __future__ import annotations

from pathlib import Path

import pytest

from executor.errors import (
    BuildDeadlineError,
    DiskFullError,
    DockerfileError,
    IsolationError,
    Location,
    PushwrightError,
    RegistryAuthError,
    RegistryUnavailableError,
    StepFailedError,
)
from executor.progress import error_fields
from executor.spec import BuildSpec, Credential, GitContext
from tasks.app import broker_url, create_app
from tasks.build import (
    ERROR_TAIL_LINES,
    ERROR_TEXT_LIMIT,
    Ending,
    ending_of_error,
    ending_of_interruption,
    error_of_event,
)
from tasks.errors import ExecutorDiedError, RedisUnavailableError, TagConflictError
from tasks.lease import Interruption
from tasks.lifecycle import State
from tasks.records import QUEUE
from tasks.settings import Settings
from tasks.tags import TagLockedError

PAUSES = (5.0, 20.0)


@pytest.mark.parametrize(
    "error",
    [
        DockerfileError("x"),
        StepFailedError("x", status=3),
        RegistryAuthError("x"),
        IsolationError("x"),
        TagConflictError("x"),
        BuildDeadlineError("x"),
    ],
)
def test_what_trying_again_cannot_mend_fails_at_once(error: PushwrightError) -> None:
    ending = ending_of_error(error.to_dict(), 1, PAUSES)
    assert (ending.state, ending.reason, ending.error) == (State.FAILED, error.code, error.to_dict())


@pytest.mark.parametrize(
    "error", [RegistryUnavailableError("x"), DiskFullError("x"), ExecutorDiedError("x"), RedisUnavailableError("x")]
)
def test_what_passes_is_tried_three_times_with_growing_pauses(error: PushwrightError) -> None:
    endings = [ending_of_error(error.to_dict(), attempt, PAUSES) for attempt in (1, 2, 3)]
    assert [ending.state for ending in endings] == [State.QUEUED, State.QUEUED, State.FAILED]
    assert [ending.delay_seconds for ending in endings] == [5.0, 20.0, 0.0]
    assert {ending.reason for ending in endings} == {error.code}
    assert all(ending.is_counted for ending in endings)


def test_an_executor_s_error_is_kept_whole() -> None:
    error = StepFailedError("x", status=3, tail=("a", "b"), hint="h", location=Location("Dockerfile", 3))
    assert error_of_event(error_fields(error)) == error.to_dict()


def test_a_hostile_error_does_not_grow_the_record() -> None:
    kept = error_of_event(
        {
            "code": "c",
            "message": "m" * 1_000_000,
            "tail": ["t" * 1_000_000] * 1000,
            "retryable": "yes",
            "line": "no number",
            "event_type": "warning",
            "more": ["x"] * 1_000_000,
        }
    )
    assert set(kept) == {"code", "message", "retryable", "tail"}
    assert kept["retryable"] is False
    assert len(str(kept)) < (ERROR_TAIL_LINES + 1) * (ERROR_TEXT_LIMIT + 10) + 1000


def test_a_locked_tag_is_waited_for_however_long_the_lock_lasts() -> None:
    ending = ending_of_error(TagLockedError("x").to_dict(), 3, PAUSES)
    assert (ending.state, ending.delay_seconds, ending.is_counted) == (State.QUEUED, 5.0, False)


def test_one_pause_serves_for_all() -> None:
    assert ending_of_error(RegistryUnavailableError("x").to_dict(), 2, (7.0,)).delay_seconds == 7.0


@pytest.mark.parametrize(
    ("why", "state", "is_counted"),
    [
        (Interruption.CANCELLED, State.CANCELLED, True),
        (Interruption.DEADLINE, State.FAILED, True),
        (Interruption.LEASE_LOST, State.QUEUED, True),
        (Interruption.STOPPING, State.QUEUED, False),
    ],
)
def test_interruptions(why: Interruption, state: State, is_counted: bool) -> None:
    ending = ending_of_interruption(why, 60)
    assert ending == Ending(state, str(why), error=ending.error, is_counted=is_counted)
    assert (ending.error is not None) == (state is State.FAILED)


class TestApp:
    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("redis://:pw@host:1/2", "redis://:pw@host:1/2"),
            ("rediss://host", "rediss://host"),
            ("unix:///run/r.sock", "redis+socket:///run/r.sock?virtual_host=0"),
            ("unix://:p%40w@/run/r.sock?db=3", "redis+socket://:p%40w@/run/r.sock?virtual_host=3"),
        ],
    )
    def test_the_broker_s_address_is_that_of_the_records(self, url: str, expected: str) -> None:
        assert broker_url(url) == expected

    def test_only_json_and_one_queue(self) -> None:
        app = create_app(Settings(Path("/data"), redis_url="redis://host"))
        assert list(app.conf.accept_content) == ["json"]
        assert app.conf.task_default_queue == QUEUE
        assert not app.conf.task_acks_late
        assert app.conf.worker_disable_prefetch


def test_a_specification_survives_its_way_through_json() -> None:
    context = GitContext("https://git.example/x", "c" * 40, password="hunter2")
    spec = BuildSpec(context, "/store")
    assert BuildSpec.from_json(spec.to_json()) == spec
    assert "hunter2" not in repr(spec)
    assert "hunter2" not in repr(Credential("u", "hunter2"))
