"""Properties of plans that golden cases cannot show."""

from __future__ import annotations

import pytest

from executor.dockerfile.parse import parse
from executor.errors import DockerfileError
from executor.oci import Platform
from executor.plan import ImageSource, Plan, StageSource, make_plan


def plan(text: str, target: str = "") -> Plan:
    return make_plan(
        parse(text.encode(), "Dockerfile"), target=target, build_args={}, platform=Platform(), build_platform=Platform()
    )


def test_stages_come_behind_what_they_need_and_the_target_last() -> None:
    text = "FROM scratch AS s0\n" + "".join(
        f"FROM s{max(0, n - 3)} AS s{n}\nCOPY --from=s{n - 1} /x /\nCOPY --from={n // 2} /y /\n" for n in range(1, 40)
    )
    found = plan(text, "s30")
    seen: set[int] = set()
    for planned in found.stages:
        assert set(planned.dependencies()) <= seen
        seen.add(planned.stage.index)
    assert found.target.stage.name == "s30"
    assert seen == set(range(31))


def test_a_dependency_is_told_once() -> None:
    found = plan("FROM scratch AS a\nFROM a\nCOPY --from=a /x /\nCOPY --from=0 /y /\n")
    assert found.target.dependencies() == (0,)
    assert found.target.copies == {0: StageSource(0), 1: StageSource(0)}


def test_an_image_is_told_once_by_reference_and_platform() -> None:
    found = plan(
        "FROM debian AS a\nFROM docker.io/library/debian AS b\nFROM --platform=linux/arm64 debian AS c\n"
        "FROM scratch\nCOPY --from=a /x /\nCOPY --from=b /x /\nCOPY --from=c /x /\nCOPY --from=debian /x /\n"
    )
    assert [(str(item.reference), str(item.platform)) for item in found.images()] == [
        ("docker.io/library/debian", "linux/amd64"),
        ("docker.io/library/debian", "linux/arm64"),
    ]


def test_an_image_that_nearly_names_a_stage_says_so() -> None:
    found = plan("FROM scratch AS builder\nFROM scratch\nCOPY --from=bulider /x /\n")
    source = found.target.copies[0]
    assert isinstance(source, ImageSource)
    assert source.hint == "did you mean builder?"
    assert source.location.line == 3


def test_an_unknown_target_names_the_nearest() -> None:
    with pytest.raises(DockerfileError) as caught:
        plan("FROM scratch AS builder\n", "buidler")
    assert caught.value.hint == "did you mean builder?"
    assert caught.value.location is not None


@pytest.mark.parametrize("target", ["1", "-1", "00000000000000", "٠", " "])
def test_what_is_no_target(target: str) -> None:
    with pytest.raises(DockerfileError, match="could not be found"):
        plan("FROM scratch\n", target)


def test_many_stages_are_planned() -> None:
    text = "FROM scratch AS s0\n" + "".join(f"FROM s{n - 1} AS s{n}\n" for n in range(1, 5000))
    assert len(plan(text).stages) == 5000


def test_many_images_are_planned() -> None:
    text = "".join(f"FROM debian:{n} AS s{n}\n" for n in range(10_000))
    assert [str(item.reference) for item in plan(text).images()] == ["docker.io/library/debian:9999"]


def test_an_index_of_any_length_is_refused() -> None:
    with pytest.raises(DockerfileError):
        plan("FROM scratch\nFROM scratch\nCOPY --from=" + "9" * 5000 + " /x /\n")
