"""Whatever workers, users and sweeps do to a build, in whatever order, its record obeys the table of transitions."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.records import TRANSITIONS, BuildRequest, Claim, Records, State, TagRequest
from tests.support.redis_server import RedisServer

EXPIRED = 0.001
ACTIONS = st.lists(
    st.sampled_from(
        ["claim", "claim-briefly", "renew", "image", "succeed", "fail", "skip", "put-back", "cancel", "sweep", "tag"]
    ),
    max_size=25,
)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


class Life:
    """One build, its newest and its oldest claim."""

    def __init__(self, records: Records) -> None:
        self.records = records
        self.build_id = records.create(self.request(0))[0].id
        self.claims: list[Claim] = []

    @staticmethod
    def request(sequence: int) -> BuildRequest:
        tags = (TagRequest("main", True, "refs/heads/main", sequence),) if sequence else ()
        return BuildRequest("p", "r", "c" * 40, "refs/heads/main", sequence, "d", {}, tags)

    def act(self, action: str, claim: Claim | None) -> None:
        records = self.records
        if action.startswith("claim"):
            brief = action == "claim-briefly"
            if taken := records.claim(self.build_id, "w", EXPIRED if brief else 60):
                self.claims.append(taken)
            if brief:
                time.sleep(0.003)
        elif action == "cancel":
            records.request_cancel(self.build_id)
        elif action == "sweep":
            records.overdue()
        elif action == "tag":
            records.create(self.request(len(self.claims) + 1))
        elif claim is not None:
            self.write(action, claim)

    def write(self, action: str, claim: Claim) -> None:
        records = self.records
        match action:
            case "renew":
                records.renew(claim, 60)
            case "image":
                records.record_image(claim, {"by": claim.fence})
            case "succeed":
                records.finish(claim, State.SUCCEEDED, results=[{"by": claim.fence}])
            case "fail":
                records.finish(claim, State.FAILED, "x")
            case "skip":
                records.finish(claim, State.SKIPPED, "x")
            case "put-back":
                records.put_back(claim, "x")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=ACTIONS, stale=st.booleans())
def test_records_obey_the_table(server: RedisServer, actions: list[str], stale: bool) -> None:
    redis = server.client()
    redis.flushall()
    life = Life(Records(redis))
    before = life.records.get(life.build_id)
    for action in actions:
        claim = None if not life.claims else life.claims[0 if stale else -1]
        life.act(action, claim)
        after = life.records.get(life.build_id)
        # an expired lease may be settled and the build claimed within one step
        via_queue = before.state is State.RUNNING and after.state is State.RUNNING and after.fence > before.fence
        assert after.state == before.state or after.state in TRANSITIONS[before.state] or via_queue
        assert after.fence >= before.fence
        if before.state.is_final:
            assert after == before
        if after.image != before.image or after.results != before.results:
            assert claim is not None
            assert claim.fence == after.fence
        queued = redis.zscore("pw:queued", life.build_id) is not None
        running = redis.zscore("pw:running", life.build_id) is not None
        assert (queued, running) == (after.state is State.QUEUED, after.state is State.RUNNING)
        before = after
    redis.close()
