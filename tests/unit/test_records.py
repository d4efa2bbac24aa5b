from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from executor.errors import UsageError
from tasks.connection import Client, connect
from tasks.errors import BuildNotFoundError, RecordDamagedError, RedisUnavailableError
from tasks.records import (
    QUEUE,
    TRANSITIONS,
    BuildRequest,
    Claim,
    Records,
    Renewal,
    State,
    TagRequest,
    Written,
    config_digest,
)
from tests.support.redis_server import RedisServer

COMMIT = "ab" * 20
MAIN = "refs/heads/main"
LEASE = 30.0
BRIEF = 0.05


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture
def redis(server: RedisServer) -> Iterator[Client]:
    client = server.client()
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def records(redis: Client) -> Records:
    return Records(redis, announce_seconds=0.05)


def request(
    commit: str = COMMIT, *, config: int = 1, tags: tuple[TagRequest, ...] = (), **changes: Any
) -> BuildRequest:
    content = {"dockerfile": "Dockerfile", "n": config}
    fields: dict[str, Any] = {
        "project": "demo",
        "repository": "demo",
        "ref": MAIN,
        "sequence": 1,
        "config_digest": config_digest(content),
        "config": content,
        **changes,
    }
    return BuildRequest(commit=commit, tags=tags, **fields)


def moving(tag: str, sequence: int = 1, ref: str = MAIN) -> TagRequest:
    return TagRequest(tag, moving=True, ref=ref, sequence=sequence)


def claimed(records: Records, build_id: str, lease: float = LEASE) -> Claim:
    claim = records.claim(build_id, "worker", lease)
    assert claim is not None
    return claim


def wait_past(lease: float) -> None:
    time.sleep(lease + 0.02)


class TestTable:
    def test_every_state_has_a_row_and_targets_are_states(self) -> None:
        assert set(TRANSITIONS) == set(State)
        assert all(targets <= set(State) for targets in TRANSITIONS.values())

    def test_final_states_stay_final(self) -> None:
        final = {state for state in State if state.is_final}
        assert final == set(State) - {State.QUEUED, State.RUNNING}


class TestCreate:
    def test_a_new_build_is_queued_with_all_that_was_asked(self, records: Records) -> None:
        build, made = records.create(request(tags=(moving("main"),)))
        assert made
        assert build == records.get(build.id)
        assert (build.state, build.attempt, build.fence, build.rebuild) == (State.QUEUED, 0, 0, 0)
        assert (build.commit_tag, build.config, build.tags) == (COMMIT, request().config, (moving("main"),))
        assert len(build.id) == 26
        assert build.created > 0

    def test_the_same_request_is_the_same_build(self, records: Records) -> None:
        first, _ = records.create(request())
        again, made = records.create(request())
        assert (again.id, made) == (first.id, False)

    def test_at_once_from_many_threads_it_is_one_build(self, server: RedisServer, records: Records) -> None:
        made: list[bool] = []
        start = threading.Barrier(8)

        def create() -> None:
            mine = Records(server.client())
            start.wait()
            made.append(mine.create(request())[1])

        threads = [threading.Thread(target=create) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(made) == [False] * 7 + [True]
        assert len(records.list_builds()) == 1

    def test_another_project_repository_or_commit_is_another_build(self, records: Records) -> None:
        others = [request(), request("cd" * 20), request(project="other"), request(repository="other")]
        builds = [records.create(item)[0] for item in others]
        assert len({build.id for build in builds}) == 4
        assert {build.rebuild for build in builds} == {0}

    def test_a_changed_configuration_and_a_forced_rebuild_get_numbers(self, records: Records) -> None:
        records.create(request())
        changed, _ = records.create(request(config=2))
        forced, made = records.create(request(config=2), force=True)
        assert made
        assert (changed.commit_tag, forced.commit_tag) == (f"{COMMIT}-r1", f"{COMMIT}-r2")
        assert records.create(request(config=2))[0].id == forced.id

    def test_a_number_is_free_again_when_its_build_ended_without_an_image(self, records: Records) -> None:
        first, _ = records.create(request())
        records.request_cancel(first.id)
        assert records.create(request(), force=True)[0].commit_tag == COMMIT

    def test_a_failed_build_that_may_have_put_its_tag_keeps_its_number(self, records: Records) -> None:
        first, _ = records.create(request())
        claim = claimed(records, first.id)
        records.record_image(claim, {"digest": "x"})
        records.finish(claim, State.FAILED, "registry-unavailable")
        assert records.create(request(), force=True)[0].commit_tag == f"{COMMIT}-r1"

    def test_a_second_ref_adds_its_tag_request(self, records: Records) -> None:
        first, _ = records.create(request(tags=(moving("main"),)))
        build, made = records.create(request(tags=(moving("next", ref="refs/heads/next"),)))
        assert not made
        assert build.tags == (moving("main"), moving("next", ref="refs/heads/next"))
        assert build.id == first.id

    def test_a_later_push_of_a_ref_replaces_its_request_and_an_earlier_one_does_not(self, records: Records) -> None:
        records.create(request(tags=(moving("main", 2),)))
        assert records.create(request(tags=(moving("main", 1),)))[0].tags == (moving("main", 2),)
        assert records.create(request(tags=(moving("main", 3),)))[0].tags == (moving("main", 3),)

    def test_a_tag_for_a_succeeded_build_is_a_further_build_with_its_image(self, records: Records) -> None:
        first, _ = records.create(request(tags=(moving("main"),)))
        claim = claimed(records, first.id)
        records.record_image(claim, {"digest": "x"})
        records.finish(claim, State.SUCCEEDED, met=first.tags)
        assert records.create(request(tags=(moving("main"),)))[0].id == first.id
        further, made = records.create(request(tags=(moving("main", 5),)))
        assert made
        assert (further.image, further.commit_tag, further.tags) == ({"digest": "x"}, COMMIT, (moving("main", 5),))
        assert records.get(first.id).tags == (moving("main"),)

    def test_hostile_texts_stay_values(self, records: Records) -> None:
        evil = 'refs/heads/"]},{"tag":"x\u202e\\ \ud7ff é'
        build, _ = records.create(request(ref=evil, tags=(moving("main", ref=evil),)))
        again, _ = records.create(request(ref=evil, tags=(moving("main", 2, ref=evil),)))
        assert build.ref == evil
        assert again.tags == (moving("main", 2, ref=evil),)


class TestClaim:
    def test_one_of_two_claims_wins(self, records: Records) -> None:
        build, _ = records.create(request())
        claim = claimed(records, build.id)
        assert (claim.attempt, claim.fence, claim.build.state) == (1, 1, State.RUNNING)
        assert records.claim(build.id, "worker", LEASE) is None

    def test_at_once_from_many_threads_one_wins(self, server: RedisServer, records: Records) -> None:
        build, _ = records.create(request())
        start, won = threading.Barrier(8), []

        def claim() -> None:
            mine = Records(server.client())
            start.wait()
            won.append(mine.claim(build.id, "worker", LEASE) is not None)

        threads = [threading.Thread(target=claim) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert won.count(True) == 1

    def test_an_expired_lease_can_be_claimed_with_a_higher_fence(self, records: Records) -> None:
        build, _ = records.create(request())
        first = claimed(records, build.id, BRIEF)
        wait_past(BRIEF)
        second = claimed(records, build.id)
        assert (second.attempt, second.fence) == (2, first.fence + 1)

    def test_unknown_and_final_builds_cannot_be_claimed(self, records: Records) -> None:
        build, _ = records.create(request())
        records.request_cancel(build.id)
        assert records.claim(build.id, "worker", LEASE) is None
        assert records.claim("0" * 26, "worker", LEASE) is None

    def test_a_build_that_waits_is_not_claimed_before_its_time(self, records: Records) -> None:
        build, _ = records.create(request())
        records.put_back(claimed(records, build.id), "registry-unavailable", delay_seconds=0.1)
        assert records.claim(build.id, "worker", LEASE) is None
        wait_past(0.1)
        assert claimed(records, build.id).attempt == 2

    def test_claiming_an_expired_last_attempt_fails_the_build(self, records: Records) -> None:
        build, _ = records.create(request())
        for _ in range(3):
            claimed(records, build.id, BRIEF)
            wait_past(BRIEF)
        assert records.claim(build.id, "worker", LEASE) is None
        ended = records.get(build.id)
        assert (ended.state, ended.reason) == (State.FAILED, "worker-lost")
        assert ended.error
        assert ended.error["code"] == "worker-lost"


class TestRenew:
    def test_it_lengthens_the_lease(self, records: Records) -> None:
        build, _ = records.create(request())
        claim = claimed(records, build.id, 0.5)
        before = records.get(build.id).lease_until
        assert records.renew(claim, 60) == Renewal(held=True, cancel=False)
        assert records.get(build.id).lease_until > before + 50_000

    def test_a_lease_that_is_over_is_not_revived(self, records: Records) -> None:
        build, _ = records.create(request())
        claim = claimed(records, build.id, BRIEF)
        wait_past(BRIEF)
        assert not records.renew(claim, LEASE).held

    def test_it_brings_the_wish_to_cancel(self, records: Records) -> None:
        build, _ = records.create(request())
        claim = claimed(records, build.id)
        assert records.request_cancel(build.id).state is State.RUNNING
        assert records.renew(claim, LEASE) == Renewal(held=True, cancel=True)


class TestFence:
    """A worker that lost its build writes nothing any more, whatever it tries."""

    @pytest.fixture
    def stale(self, records: Records) -> Claim:
        build, _ = records.create(request())
        claim = claimed(records, build.id, BRIEF)
        wait_past(BRIEF)
        claimed(records, build.id)
        return claim

    def test_nothing_can_be_written(self, records: Records, stale: Claim) -> None:
        before = records.get(stale.build.id)
        assert records.record_image(stale, {"digest": "stale"}) is Written.LOST
        assert records.finish(stale, State.SUCCEEDED, results=[{"digest": "stale"}]) is Written.LOST
        assert records.finish(stale, State.FAILED, "stale") is Written.LOST
        assert records.put_back(stale, "stale") is Written.LOST
        assert not records.renew(stale, LEASE).held
        assert records.get(stale.build.id) == before

    def test_not_after_the_second_has_finished_either(self, records: Records, stale: Claim) -> None:
        winner = Claim(records.get(stale.build.id), "x", fence=stale.fence + 1)
        assert records.finish(winner, State.SUCCEEDED, results=[{"digest": "good"}]) is Written.DONE
        assert records.finish(stale, State.SUCCEEDED, results=[{"digest": "stale"}]) is Written.LOST
        assert records.get(stale.build.id).results == ({"digest": "good"},)


class TestEnd:
    def test_results_and_error_are_kept(self, records: Records) -> None:
        build, _ = records.create(request())
        error = {"code": "step-failed", "message": "no", "retryable": False}
        assert records.finish(claimed(records, build.id), State.FAILED, "step-failed", error=error) is Written.DONE
        ended = records.get(build.id)
        assert (ended.state, ended.reason, ended.error) == (State.FAILED, "step-failed", error)
        assert ended.finished >= ended.started > 0

    def test_text_that_utf_8_cannot_hold_does_not_leave_the_build_running(self, records: Records) -> None:
        build, _ = records.create(request())
        claim = claimed(records, build.id)
        assert records.finish(claim, State.FAILED, "x", error={"message": "a\ud800b"}) is Written.DONE
        assert records.get(build.id).error == {"message": "a?b"}

    def test_a_repeated_ending_is_no_loss(self, records: Records) -> None:
        build, _ = records.create(request())
        claim = claimed(records, build.id)
        assert records.finish(claim, State.SUCCEEDED) is Written.DONE
        assert records.finish(claim, State.SUCCEEDED) is Written.DONE

    def test_a_running_build_does_not_end_as_skipped(self, records: Records) -> None:
        build, _ = records.create(request())
        assert records.finish(claimed(records, build.id), State.SKIPPED, "x") is Written.LOST
        assert records.get(build.id).state is State.RUNNING

    def test_tags_that_came_meanwhile_are_told(self, records: Records) -> None:
        build, _ = records.create(request())
        claim = claimed(records, build.id)
        records.create(request(tags=(moving("main"),)))
        assert records.finish(claim, State.SUCCEEDED, met=build.tags) is Written.TAGS_ADDED
        assert records.finish(claim, State.SUCCEEDED, met=(moving("main"),)) is Written.DONE

    def test_put_back_keeps_attempt_and_image(self, records: Records) -> None:
        build, _ = records.create(request())
        claim = claimed(records, build.id)
        records.record_image(claim, {"digest": "x"})
        assert records.put_back(claim, "registry-unavailable", error={"code": "registry-unavailable"}) is Written.DONE
        back = records.get(build.id)
        assert (back.state, back.reason, back.attempt) == (State.QUEUED, "registry-unavailable", 1)
        assert claimed(records, build.id).build.image == {"digest": "x"}

    def test_a_worker_that_stops_costs_no_attempt(self, records: Records) -> None:
        build, _ = records.create(request())
        for fence in range(1, 6):
            claim = claimed(records, build.id)
            assert (claim.attempt, claim.fence) == (1, fence)
            records.put_back(claim, "worker-stopping", counted=False)

    def test_put_back_of_a_build_to_be_cancelled_cancels_it(self, records: Records) -> None:
        build, _ = records.create(request())
        claim = claimed(records, build.id)
        records.request_cancel(build.id)
        records.put_back(claim, "executor-died")
        assert records.get(build.id).state is State.CANCELLED


class TestCancel:
    def test_a_queued_build_is_over_at_once(self, records: Records) -> None:
        build, _ = records.create(request())
        ended = records.request_cancel(build.id)
        assert (ended.state, ended.reason) == (State.CANCELLED, "cancelled")

    def test_a_finished_build_stays_as_it_is(self, records: Records) -> None:
        build, _ = records.create(request())
        records.finish(claimed(records, build.id), State.SUCCEEDED)
        ended = records.request_cancel(build.id)
        assert (ended.state, ended.cancel) == (State.SUCCEEDED, False)

    def test_an_unknown_build_is_said_to_be_unknown(self, records: Records) -> None:
        with pytest.raises(BuildNotFoundError):
            records.request_cancel("0" * 26)


class TestOverdue:
    def test_an_unannounced_build_is_found_once_per_interval(self, records: Records) -> None:
        build, _ = records.create(request())
        assert records.overdue().unannounced == ()
        wait_past(0.05)
        assert records.overdue().unannounced == (build.id,)
        assert records.overdue().unannounced == ()

    def test_a_backlog_with_its_messages_is_left_alone(self, records: Records, redis: Client) -> None:
        records.create(request())
        redis.lpush(QUEUE, "message")
        wait_past(0.05)
        assert records.overdue().unannounced == ()
        redis.delete(QUEUE)
        assert len(records.overdue().unannounced) == 1

    def test_a_lost_worker_s_build_is_queued_again(self, records: Records) -> None:
        build, _ = records.create(request())
        claimed(records, build.id, BRIEF)
        assert records.overdue().retaken == ()
        wait_past(BRIEF)
        found = records.overdue()
        assert (found.retaken, found.unannounced) == ((build.id,), (build.id,))
        assert records.get(build.id).reason == "worker-lost"

    def test_after_three_attempts_it_is_given_up(self, records: Records) -> None:
        build, _ = records.create(request())
        for _ in range(3):
            claimed(records, build.id, BRIEF)
            wait_past(BRIEF)
            found = records.overdue()
        assert found.ended == (build.id,)
        assert records.get(build.id).state is State.FAILED

    def test_a_build_to_be_cancelled_whose_worker_is_lost_is_cancelled(self, records: Records) -> None:
        build, _ = records.create(request())
        claimed(records, build.id, BRIEF)
        records.request_cancel(build.id)
        wait_past(BRIEF)
        assert records.overdue().ended == (build.id,)
        assert records.get(build.id).state is State.CANCELLED

    def test_one_record_that_is_gone_does_not_keep_the_others_from_being_swept(
        self, records: Records, redis: Client
    ) -> None:
        lost, _ = records.create(request())
        waiting, _ = records.create(request("cd" * 20))
        claimed(records, lost.id, BRIEF)
        redis.zadd("pw:running", {"0" * 26: 0})
        redis.zadd("pw:queued", {"1" * 26: 0})
        wait_past(BRIEF)
        found = records.overdue()
        assert found.retaken == (lost.id,)
        assert set(found.unannounced) == {lost.id, waiting.id}
        assert redis.zrange("pw:running", 0, -1) == []
        assert set(redis.zrange("pw:queued", 0, -1)) == {lost.id, waiting.id}


class TestQuestions:
    def test_builds_are_listed_newest_first_in_pages(self, records: Records) -> None:
        for number in range(5):
            records.create(request(f"{number:040d}"))
            time.sleep(0.002)
        records.create(request(project="other"))
        page = records.list_builds("demo", limit=3)
        rest = records.list_builds("demo", before=page[-1].id)
        assert [int(build.commit) for build in page + rest] == [4, 3, 2, 1, 0]
        assert len(records.list_builds()) == 6

    def test_commits_are_found_by_their_beginning(self, records: Records) -> None:
        commits = ["abcd" + "0" * 36, "abce" + "0" * 36, "b" * 40]
        for commit in commits:
            records.create(request(commit))
        assert records.commits_matching("demo", "abc") == commits[:2]
        assert records.commits_matching("demo", commits[2]) == [commits[2]]
        assert records.commits_matching("demo", "abc", limit=1) == commits[:1]
        assert records.commits_matching("other", "abc") == []

    def test_sequences_grow_per_project_and_ref(self, records: Records) -> None:
        assert [records.next_sequence("demo", MAIN) for _ in range(3)] == [1, 2, 3]
        assert records.next_sequence("demo", "refs/heads/x") == 1
        assert records.next_sequence("other", MAIN) == 1

    def test_a_newer_record_is_refused_not_misread(self, records: Records, redis: Client) -> None:
        build, _ = records.create(request())
        redis.hset(f"pw:build:{build.id}", "v", "2")
        with pytest.raises(RecordDamagedError, match="version 1"):
            records.get(build.id)

    def test_a_broken_record_is_said_to_be_broken(self, records: Records, redis: Client) -> None:
        build, _ = records.create(request())
        redis.hset(f"pw:build:{build.id}", "request", "{")
        with pytest.raises(RecordDamagedError, match=build.id):
            records.get(build.id)

    def test_what_is_shown_tells_nothing_of_the_lease(self, records: Records) -> None:
        build, _ = records.create(request())
        shown = claimed(records, build.id).build.to_json()
        assert not {"owner", "lease_until", "fence"} & set(shown)


class TestConnection:
    @pytest.mark.parametrize("url", ["", "http://x", "redis-sentinel://x"])
    def test_other_addresses_are_usage_errors(self, url: str) -> None:
        with pytest.raises(UsageError, match="REDIS_URL"):
            connect(url)

    def test_an_absent_redis_is_our_error_and_retryable(self, tmp_path: Any) -> None:
        with pytest.raises(RedisUnavailableError) as caught:
            Records(connect(f"unix://:hunter2@{tmp_path}/nothing")).get("x")
        assert caught.value.retryable
        assert "hunter2" not in str(caught.value)
