"""Who is measured: settings read from TOML, and what they become on this machine."""

from __future__ import annotations

import grp
import itertools
import os
import pwd
import shutil
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.errors import BenchError

SETTINGS = Path(__file__).with_name("contenders.toml")
SEARCH_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
USERS = ("any", "root", "ordinary")
SERVICES = ("", "docker")


@dataclass(frozen=True, slots=True)
class Account:
    """Another user, to run a contender as."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Contender:
    """One builder as plain settings; `contenders.toml` says what each is."""

    name: str
    about: str
    version: tuple[str, ...]
    build: tuple[tuple[str, ...], ...]
    own: tuple[str, ...]
    user: str = "any"
    reset: tuple[tuple[str, ...], ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    service: str = ""

    def settled(self) -> Iterator[tuple[Contender, str]]:
        """This contender with each combination of its choices put in, and that combination in words."""
        names = list(self.choices)
        for values in itertools.product(*self.choices.values()):
            picked = dict(zip(names, values, strict=True))
            words = ", ".join(f"{name} {value}" for name, value in picked.items())
            yield (
                replace(
                    self,
                    version=put_in(self.version, picked),
                    build=tuple(put_in(command, picked) for command in self.build),
                    reset=tuple(put_in(command, picked) for command in self.reset),
                    own=put_in(self.own, picked),
                    choices={},
                ),
                words,
            )


def put_in(command: Sequence[str], values: Mapping[str, str]) -> tuple[str, ...]:
    """The command with each `{name}` of `values` replaced; other names stay."""
    done = []
    for argument in command:
        text = argument
        for name, value in values.items():
            text = text.replace(f"{{{name}}}", value)
        done.append(text)
    return tuple(done)


def read_settings(text: str, origin: str) -> tuple[Contender, ...]:
    """Contenders of a settings file; what is misspelt is an error that says where."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BenchError(f"{origin}: expected TOML: {error}") from error
    return tuple(_contender(name, table, f"{origin}: [{name}]") for name, table in document.items())


def _contender(name: str, table: Any, where: str) -> Contender:
    if not isinstance(table, dict):
        raise BenchError(f"{where}: expected a table of settings, found {table!r}")
    table = dict(table)
    contender = Contender(
        name=name,
        about=_string(table.pop("about", None), f"{where} about"),
        version=_strings(table.pop("version", None), f"{where} version"),
        build=_commands(table.pop("build", None), f"{where} build"),
        own=_strings(table.pop("own", None), f"{where} own"),
        user=_one_of(table.pop("user", "any"), USERS, f"{where} user"),
        reset=_commands(table.pop("reset", []), f"{where} reset"),
        environment={
            key: _string(value, f"{where} environment {key}") for key, value in table.pop("environment", {}).items()
        },
        choices={key: _strings(value, f"{where} choices {key}") for key, value in table.pop("choices", {}).items()},
        service=_one_of(table.pop("service", ""), SERVICES, f"{where} service"),
    )
    if table:
        raise BenchError(f"{where}: unknown settings: {', '.join(sorted(table))}")
    return contender


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise BenchError(f"{where}: expected a string, found {value!r}")
    return value


def _strings(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise BenchError(f"{where}: expected a list of strings, found {value!r}")
    return tuple(_string(item, where) for item in value)


def _commands(value: Any, where: str) -> tuple[tuple[str, ...], ...]:
    if not isinstance(value, list):
        raise BenchError(f"{where}: expected a list of commands, found {value!r}")
    return tuple(_strings(item, where) for item in value)


def _one_of(value: Any, allowed: Sequence[str], where: str) -> str:
    if value not in allowed:
        raise BenchError(f"{where}: expected one of {', '.join(filter(None, allowed))}, found {value!r}")
    return _string(value, where)


def named(contenders: Sequence[Contender], names: Sequence[str]) -> tuple[Contender, ...]:
    """Those with these names, in the order of the settings; all for none."""
    known = {contender.name for contender in contenders}
    if unknown := set(names) - known:
        raise BenchError(f"expected contenders of {', '.join(sorted(known))}, found {', '.join(sorted(unknown))}")
    return tuple(contender for contender in contenders if not names or contender.name in names)


def programs_directory() -> Path:
    """Where the programs of this Python are: those of the virtual environment, when it is one."""
    return Path(sys.prefix) / "bin"


def account_for(contender: Contender, ordinary: str | None) -> Account | None:
    """Whom to run a contender as; None for who runs the benchmark."""
    if contender.user == "root" and os.geteuid() != 0:
        raise BenchError("it is to run as root, and the benchmark does not")
    if contender.user != "ordinary" or os.geteuid() != 0:
        return None
    return ordinary_account(ordinary)


def ordinary_account(name: str | None) -> Account:
    """The account of this name, or the first other than root with subordinate ids of both kinds."""
    names = [name] if name else sorted(_owners("/etc/subuid") & _owners("/etc/subgid"))
    for candidate in names:
        try:
            entry = pwd.getpwnam(candidate)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            groups = tuple(group.gr_gid for group in grp.getgrall() if candidate in group.gr_mem)
            return Account(candidate, entry.pw_uid, entry.pw_gid, groups)
    raise BenchError(
        "no ordinary user has subordinate ids in /etc/subuid and /etc/subgid: make one with useradd, or give --user"
    )


def _owners(path: str) -> set[str]:
    try:
        text = Path(path).read_text()
    except FileNotFoundError:
        return set()
    return {line.partition(":")[0] for line in text.splitlines() if ":" in line}


def inodes(programs: Sequence[str]) -> frozenset[tuple[int, int]]:
    """Device and inode of each program that is here, by which its processes are known under any root."""
    found = set()
    for program in programs:
        if path := shutil.which(program, path=SEARCH_PATH):
            status = Path(path).stat()
            found.add((status.st_dev, status.st_ino))
    return frozenset(found)
