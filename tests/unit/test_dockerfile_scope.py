"""ARG and ENV in their scopes."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from executor.dockerfile.instructions import Arg, Env, Instruction
from executor.dockerfile.parse import parse
from executor.dockerfile.scope import DEFAULT_PATH, StageScope
from executor.errors import DockerfileError, UsageError
from executor.oci import OciError, Platform
from executor.plan import Plan, make_plan

ARM = Platform("linux", "arm", "v7")
AMD = Platform()


def plan(text: str, build_args: Mapping[str, str] | None = None, target: str = "") -> Plan:
    dockerfile = parse(text.encode(), "Dockerfile")
    return make_plan(dockerfile, target=target, build_args=build_args or {}, platform=ARM, build_platform=AMD)


def follow(scope: StageScope, instructions: tuple[Instruction, ...]) -> StageScope:
    for instruction in instructions:
        if isinstance(instruction, Arg):
            scope, _ = scope.declare(instruction)
        elif isinstance(instruction, Env):
            scope, _ = scope.assign(instruction)
    return scope


def scope_of(text: str, build_args: Mapping[str, str] | None = None, env: list[str] | None = None) -> StageScope:
    planned = plan(text, build_args)
    return follow(planned.begin_scope(env or []), planned.target.stage.instructions)


def test_path_is_added_where_the_base_has_none() -> None:
    assert scope_of("FROM scratch").config_env() == [f"PATH={DEFAULT_PATH}"]
    assert scope_of("FROM scratch", env=["A=1", "PATH=/x"]).config_env() == ["A=1", "PATH=/x"]


def test_env_replaces_in_place_and_else_appends() -> None:
    scope = scope_of("FROM scratch\nENV A=2 C=3", env=["A=1", "PATH=/x", "B=2"])
    assert scope.config_env() == ["A=2", "PATH=/x", "B=2", "C=3"]


def test_one_instruction_sees_one_state() -> None:
    scope = scope_of("FROM scratch\nENV abc=hello\nENV abc=bye def=$abc\nENV ghi=$abc")
    assert (scope.env["def"], scope.env["ghi"]) == ("hello", "bye")


def test_the_last_of_env_and_arg_wins_but_the_config_keeps_env() -> None:
    scope = scope_of("FROM scratch\nENV X=env\nARG X=arg", {"X": "cli"})
    assert (scope.variables["X"], scope.env["X"]) == ("cli", "env")
    scope = scope_of("FROM scratch\nARG X=arg\nENV X=env", {"X": "cli"})
    assert (scope.variables["X"], scope.env["X"]) == ("env", "env")


def test_where_an_argument_gets_its_value() -> None:
    text = "ARG G=global\nFROM scratch\nARG G\nARG D=default\nARG U\nARG E=$D-$G"
    assert scope_of(text).arg_values() == (("G", "global"), ("D", "default"), ("U", None), ("E", "default-global"))
    scope = scope_of(text, {"G": "1", "D": "2", "U": "3", "E": "4"})
    assert scope.arg_values() == (("G", "1"), ("D", "2"), ("U", "3"), ("E", "4"))


def test_a_stage_default_wins_over_the_global_value() -> None:
    assert scope_of("ARG A=global\nFROM scratch\nARG A=stage").variables["A"] == "stage"


def test_an_argument_without_value_is_unset_not_empty() -> None:
    scope = scope_of("FROM scratch\nARG X")
    assert scope.expand("${X-d}") == "d"
    assert "X" not in scope.run_environment({})


def test_global_arguments_are_unseen_in_a_stage_without_arg() -> None:
    assert scope_of("ARG A=1\nFROM scratch").expand("${A-unset}") == "unset"


def test_an_argument_is_seen_from_its_line_on() -> None:
    assert scope_of("FROM scratch\nENV V=${A-unset}\nARG A=1\nENV W=$A").env["V"] == "unset"


def test_platform_arguments_need_a_declaration_in_a_stage() -> None:
    undeclared = scope_of("FROM scratch")
    assert undeclared.expand("${TARGETARCH-unset}") == "unset"
    scope = scope_of("FROM scratch\nARG TARGETPLATFORM TARGETOS TARGETARCH TARGETVARIANT BUILDPLATFORM BUILDVARIANT")
    assert scope.arg_values() == (
        ("TARGETPLATFORM", "linux/arm/v7"),
        ("TARGETOS", "linux"),
        ("TARGETARCH", "arm"),
        ("TARGETVARIANT", "v7"),
        ("BUILDPLATFORM", "linux/amd64"),
        ("BUILDVARIANT", ""),
    )


def test_a_global_declaration_does_not_hide_a_platform_argument() -> None:
    assert scope_of("ARG TARGETARCH\nFROM scratch\nARG TARGETARCH").variables["TARGETARCH"] == "arm"


def test_platform_arguments_can_be_overridden() -> None:
    assert scope_of("FROM scratch\nARG TARGETARCH", {"TARGETARCH": "mine"}).variables["TARGETARCH"] == "mine"


def test_targetstage_names_the_target() -> None:
    text = "FROM scratch AS Base\nARG TARGETSTAGE"
    for target, value in (("", "default"), ("BASE", "base")):
        planned = plan(text, target=target)
        scope = follow(planned.begin_scope([]), planned.target.stage.instructions)
        assert scope.variables["TARGETSTAGE"] == value


def test_a_child_stage_goes_on_with_the_scope_of_its_parent() -> None:
    planned = plan("FROM scratch AS a\nARG A=1\nENV E=2\nFROM a\nENV F=$A$E")
    parent = follow(planned.begin_scope([]), planned.stages[0].stage.instructions)
    child = follow(parent, planned.stages[1].stage.instructions)
    assert child.env["F"] == "12"
    assert child.arg_values() == (("A", "1"),)


def test_history_lists_a_repeated_argument_once_with_its_last_value() -> None:
    assert scope_of("FROM scratch\nARG A=1\nARG B\nARG A=2").arg_values() == (("A", "2"), ("B", None))


def test_the_history_of_an_argument_has_the_value_that_its_own_line_gives() -> None:
    planned = plan("ARG G=global\nFROM scratch\nENV E=env\nARG A=1\nARG A E G D=$E")
    *before, last = planned.target.stage.instructions
    assert isinstance(last, Arg)
    scope = follow(planned.begin_scope([]), tuple(before))
    scope, given = scope.declare(last)
    assert given == (("A", None), ("E", None), ("G", "global"), ("D", "env"))
    assert scope.arg_values() == (("A", "1"), ("E", "env"), ("G", "global"), ("D", "env"))


def test_proxies_are_in_the_environment_of_run_only() -> None:
    scope = scope_of("FROM scratch\nENV NO_PROXY=kept", {"http_proxy": "http://cli"})
    environment = scope.run_environment({"HTTPS_PROXY": "http://spec", "no_proxy": "spec", "OTHER": "x"})
    assert environment["HTTP_PROXY"] == environment["http_proxy"] == "http://cli"
    assert environment["HTTPS_PROXY"] == environment["https_proxy"] == "http://spec"
    assert (environment["NO_PROXY"], environment["no_proxy"]) == ("kept", "spec")
    assert "OTHER" not in environment
    assert scope.arg_values() == ()
    assert "HTTP_PROXY" not in scope.variables
    assert not any("proxy" in item.lower() for item in scope.config_env() if not item.startswith("NO_PROXY"))


def test_a_declared_proxy_is_an_argument() -> None:
    scope = scope_of("FROM scratch\nARG HTTP_PROXY", {"HTTP_PROXY": "http://cli"})
    assert scope.arg_values() == (("HTTP_PROXY", "http://cli"),)


@pytest.mark.parametrize("text", ["FROM scratch\nENV $A=1", "FROM scratch\nARG A=x=y\nENV $A=1"])
def test_an_expanded_name_must_be_one(text: str) -> None:
    with pytest.raises(DockerfileError, match="expected the name of a variable") as caught:
        scope_of(text)
    assert caught.value.location is not None


def test_an_error_in_an_expansion_has_its_line() -> None:
    with pytest.raises(DockerfileError, match="X: must be given") as caught:
        scope_of('FROM scratch\n\nARG Y="${X:?must be given}"')
    assert caught.value.location is not None
    assert caught.value.location.line == 3


def test_doubling_variables_end_in_an_error() -> None:
    text = "FROM scratch\nENV a=xxxxxxxx\n" + "ENV a=$a$a\n" * 60
    with pytest.raises(DockerfileError, match="expands to more than"):
        scope_of(text)


def test_many_large_variables_end_in_an_error() -> None:
    text = "FROM scratch\nENV a=" + "x" * 60_000 + "\n" + "".join(f"ENV v{n}=$a$a$a$a$a$a$a$a\n" for n in range(40))
    with pytest.raises(DockerfileError) as caught:
        scope_of(text)
    assert caught.value.code == "dockerfile-too-large"


@pytest.mark.parametrize("name", ["", "A=B", "A\0", "A\ud800"])
def test_build_arguments_must_be_such(name: str) -> None:
    with pytest.raises(UsageError, match="build argument"):
        plan("FROM scratch", {name: "1"})


@pytest.mark.parametrize("item", ["A=\0", "A=\ud800"])
def test_the_environment_of_an_image_is_text(item: str) -> None:
    with pytest.raises(OciError, match=r"config\.Env"):
        scope_of("FROM debian", env=[item])
