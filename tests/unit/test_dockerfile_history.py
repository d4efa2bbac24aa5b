"""`created_by` as BuildKit writes it, ports and signals."""

from __future__ import annotations

import pytest

from executor.dockerfile import history
from executor.dockerfile.healthcheck import parse_duration
from executor.dockerfile.instructions import Healthcheck
from executor.dockerfile.parse import parse
from executor.dockerfile.ports import check_signal, parse_ports
from executor.errors import DockerfileError, Location

HERE = Location("Dockerfile", 7)


def check_of(line: str) -> Healthcheck:
    (check,) = parse(f"FROM scratch\n{line}\n".encode(), "Dockerfile").stages[0].instructions
    assert isinstance(check, Healthcheck)
    return check


def test_run() -> None:
    assert history.run(["/bin/sh", "-c", "make all"], []) == "RUN /bin/sh -c make all # buildkit"
    shown = history.run(["/bin/sh", "-c", "x"], [("A", "1"), ("B", None)])
    assert shown == "RUN |2 A=1 B= /bin/sh -c x # buildkit"


def test_copy() -> None:
    assert history.copy(["a", "b"], "/c/") == "COPY a b /c/ # buildkit"
    assert history.copy(["a"], "b", chown="1:2", chmod="755") == "COPY --chown=1:2 --chmod=755 a b # buildkit"
    assert history.copy(["a"], "b/", heredocs=["EOF"]) == "COPY a <<EOF b/ # buildkit"


def test_metadata() -> None:
    assert history.workdir("/x") == "WORKDIR /x"
    assert history.env([("A", "1"), ("B", "x y")]) == "ENV A=1 B=x y"
    assert history.label([("a.b", "c")]) == "LABEL a.b=c"
    assert history.arg([("A", "1"), ("B", None), ("C", "")]) == "ARG A=1 B C="
    assert history.cmd(["/bin/sh", "-c", "x"]) == 'CMD ["/bin/sh" "-c" "x"]'
    assert history.cmd([]) == "CMD []"
    assert history.entrypoint(["/a b"]) == 'ENTRYPOINT ["/a b"]'
    assert history.shell(["/bin/bash", "-c"]) == "SHELL [/bin/bash -c]"
    assert history.expose(["80/tcp", "53/udp"]) == "EXPOSE [80/tcp 53/udp]"
    assert history.volume(["/a", "/b"]) == "VOLUME [/a /b]"
    assert history.user("1000:0") == "USER 1000:0"
    assert history.stop_signal("SIGINT") == "STOPSIGNAL SIGINT"
    assert history.maintainer("a <b@c>") == "MAINTAINER a <b@c>"


def test_healthcheck() -> None:
    shown = history.healthcheck(check_of("HEALTHCHECK --interval=1m30s --retries=3 CMD curl x"))
    assert shown == 'HEALTHCHECK &{["CMD-SHELL" "curl x"] "1m30s" "0s" "0s" "0s" \'\\x03\'}'
    assert history.healthcheck(check_of("HEALTHCHECK --retries=39 CMD x")).endswith("'\\''}")
    assert history.healthcheck(check_of("HEALTHCHECK --retries=2000000000 CMD x")).endswith("'\ufffd'}")


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ('a"b\\c', '"a\\"b\\\\c"'),
        ("\a\b\f\n\r\t\v", '"\\a\\b\\f\\n\\r\\t\\v"'),
        ("\x00\x1f\x7f", '"\\x00\\x1f\\x7f"'),
        ("é한😀'", '"é한😀\'"'),
        ("\u200b\ufeff\u00a0", '"\\u200b\\ufeff\\u00a0"'),
        ("\U000e0001", '"\\U000e0001"'),
        ("\udcff", '"\\xff"'),
    ],
)
def test_quoting_is_that_of_go(text: str, quoted: str) -> None:
    assert history.quote(text) == quoted


def test_history_is_always_unicode() -> None:
    history.run(["echo \udcff"], []).encode("utf-8")
    assert history.copy(["\udce9"], "/") == "COPY \ufffd / # buildkit"


@pytest.mark.parametrize(
    ("nanoseconds", "shown"),
    [
        (0, "0s"),
        (1, "1ns"),
        (1_500, "1.5\u00b5s"),
        (2_000_000, "2ms"),
        (1_500_000_000, "1.5s"),
        (60_000_000_000, "1m0s"),
        (5_400_000_000_000, "1h30m0s"),
        (3_600_000_000_000 * 30 + 1, "30h0m0.000000001s"),
    ],
)
def test_durations_are_those_of_go(nanoseconds: int, shown: str) -> None:
    assert history.duration(nanoseconds) == shown
    assert parse_duration(shown) == nanoseconds


@pytest.mark.parametrize("text", ["", "1", "s", ".s", "1x", "1s2", "-", "1 s", "9" * 30 + "h", "1e3s", "٣s"])
def test_what_is_no_duration(text: str) -> None:
    assert parse_duration(text) is None


@pytest.mark.parametrize(
    ("text", "value"), [("1.5h", 5_400_000_000_000), ("-1s", -1_000_000_000), (".5s", 500_000_000)]
)
def test_what_is_a_duration(text: str, value: int) -> None:
    assert parse_duration(text) == value


def test_ports() -> None:
    assert parse_ports(["80", "53/UDP", "8000-8002/sctp"], HERE) == [
        "80/tcp",
        "53/udp",
        "8000/sctp",
        "8001/sctp",
        "8002/sctp",
    ]
    assert parse_ports(["127.0.0.1:8080:80", "90:91", "[::1]:1:2/udp", "3000-3001:10-11"], HERE) == [
        "80/tcp",
        "91/tcp",
        "2/udp",
        "10/tcp",
        "11/tcp",
    ]


@pytest.mark.parametrize(
    "word", ["", "x", "80/x", "65536", "90-80", "-1", "80-", "1-2-3", "x:80:80", "1-2:3-5", "٣", "80/tcp/udp", " 80"]
)
def test_what_is_no_port(word: str) -> None:
    with pytest.raises(DockerfileError, match="EXPOSE") as caught:
        parse_ports([word], HERE)
    assert caught.value.location == HERE


def test_ports_are_bounded() -> None:
    with pytest.raises(DockerfileError, match="more than"):
        parse_ports(["0-65535"] * 1000, HERE)


@pytest.mark.parametrize("name", ["SIGTERM", "term", "15", "RTMIN+3", "SIGRTMAX-1"])
def test_signals(name: str) -> None:
    assert check_signal(name, HERE) == name


@pytest.mark.parametrize("name", ["", "0", "-9", "SIGFOO", "RTMIN+16", "TERM "])
def test_what_is_no_signal(name: str) -> None:
    with pytest.raises(DockerfileError, match="STOPSIGNAL"):
        check_signal(name, HERE)
