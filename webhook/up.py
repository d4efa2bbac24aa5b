"""Everything on one machine: a Redis, a worker and the web server, on one data directory and one address."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import shlex
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tasks.settings import Settings
from webhook.access import check_bind, read_token
from webhook.client import SERVER_FILE
from webhook.embedded.children import ChildCommand, module_arguments
from webhook.embedded.directories import (
    Holder,
    hold_data_directory,
    make_private_directory,
    read_private_file,
    runtime_directory,
    write_private_file,
)
from webhook.embedded.follow import LogFollower
from webhook.embedded.redis_server import find_redis_server, lock_redis_data, prepare_redis
from webhook.embedded.signals import block_signals
from webhook.embedded.supervisor import Service, StoppedError, Supervisor
from webhook.listen import DEFAULT_LISTEN, open_listener, parse_listen, reachable_address

_TOKEN_NAME = "api.token"  # noqa: S105


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What `up` is told; what is empty stays with the environment, or with the default."""

    data: Path
    listen: str = DEFAULT_LISTEN
    redis_url: str = field(default="", repr=False)
    registry: str = ""
    concurrency: int | None = None
    git_local_roots: tuple[Path, ...] = ()
    token: str = field(default="", repr=False)
    verbose: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """Where one run of `up` keeps things and listens."""

    data: Path
    runtime: Path
    listener: socket.socket
    url: str
    token_file: Path

    @property
    def server_file(self) -> Path:
        """What the other commands read to find this server."""
        return self.data / SERVER_FILE

    @property
    def host(self) -> str:
        """Host and port as they are part of an image's name."""
        return self.url.partition("://")[2]

    @property
    def empty(self) -> Path:
        """An empty directory to run children in, so that nothing is imported from where somebody stands."""
        return make_private_directory(self.runtime / "empty")

    def log(self, name: str) -> Path:
        return self.data / "logs" / f"{name}.log"

    def directory(self, name: str) -> Path:
        return make_private_directory(self.data / name)


def run_up(options: UpOptions, environment: Mapping[str, str], say: Callable[[str], None]) -> int:
    """Run until a signal asks to stop, then stop everything in order; gives the exit status.

    A second `up` on the same data directory is an `AlreadyRunningError`; a part that does not start is a
    `ChildFailedError` with what it wrote.
    """
    data = make_private_directory(options.data)
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(hold_data_directory(data))
        signals = stack.enter_context(block_signals())
        place = _take_place(stack, data, options, environment)
        lock.tell(Holder(os.getpid(), place.url, str(place.runtime)))
        child_environment = environment_of_children(place, options, environment)
        # what is wrong in the environment is said here and once, not by each child in its log
        token = read_token(Settings.from_environ(child_environment))
        follower = LogFollower({name: place.log(name) for name in ("redis", "worker", "web")}, say)
        supervisor = Supervisor(signals, say, follower if options.verbose else None)
        stack.callback(supervisor.stop)
        try:
            _start(stack, supervisor, place, child_environment)
        except StoppedError:
            say("stopping: it was asked for before everything was up")
            return 0
        stack.callback(place.server_file.unlink, missing_ok=True)
        _tell_others(place, token)
        say(welcome_text(place))
        received = supervisor.watch()
        say(f"{received.name}: stopping {', '.join(supervisor.names_in_stopping_order())}")
        supervisor.stop()
        say(f"stopped; everything is kept in {data}")
    return 0


def _take_place(stack: contextlib.ExitStack, data: Path, options: UpOptions, environment: Mapping[str, str]) -> Place:
    """The directories and the address of this run, held until the stack is closed."""
    host, port = parse_listen(options.listen)
    # the token that is made when there is none does not count: nobody decided yet to open this to others
    check_bind(host, explicit_token(options, environment))
    listener = stack.enter_context(open_listener(host, port))
    runtime = stack.enter_context(runtime_directory(environment))
    make_private_directory(data / "logs")
    token_file = _token_file(data, runtime, options, environment)
    return Place(data, runtime, listener, listener_url(host, listener), token_file)


def explicit_token(options: UpOptions, environment: Mapping[str, str]) -> str:
    """The API token that somebody chose; "" when there is none."""
    given = {name: environment.get(name, "") for name in ("PUSHWRIGHT_API_TOKEN", "PUSHWRIGHT_API_TOKEN_FILE")}
    if options.token:
        given["PUSHWRIGHT_API_TOKEN"] = options.token
    return read_token(Settings.from_environ({"PUSHWRIGHT_HOME": str(options.data), **given}))


def environment_of_children(place: Place, options: UpOptions, environment: Mapping[str, str]) -> dict[str, str]:
    """The settings that the children get: what was asked for, over what the environment says.

    Our own registry speaks plain HTTP, so it is named as one that does: a build may start from an earlier build.
    """
    ours = dict(environment)
    # handed on as a file: an environment is copied into every process that a child starts
    ours.pop("PUSHWRIGHT_API_TOKEN", None)
    ours["PUSHWRIGHT_HOME"] = str(place.data)
    ours["PUSHWRIGHT_API_TOKEN_FILE"] = str(place.token_file)
    ours.setdefault("PUSHWRIGHT_PUBLIC_URL", place.url)
    insecure = [word for word in ours.get("PUSHWRIGHT_INSECURE_REGISTRIES", "").split(",") if word.strip()]
    ours["PUSHWRIGHT_INSECURE_REGISTRIES"] = ",".join([*insecure, place.host])
    if options.redis_url:
        ours["REDIS_URL"] = options.redis_url
    if options.registry:
        ours["PUSHWRIGHT_REGISTRY"] = options.registry
    if options.concurrency is not None:
        ours["PUSHWRIGHT_CONCURRENCY"] = str(options.concurrency)
    if options.git_local_roots:
        ours["PUSHWRIGHT_GIT_LOCAL_ROOTS"] = os.pathsep.join(map(str, options.git_local_roots))
    return ours


def listener_url(host: str, listener: socket.socket) -> str:
    """The URL under which this machine reaches a listening socket."""
    address = reachable_address(host)
    shown = f"[{address}]" if ":" in address else address
    return f"http://{shown}:{listener.getsockname()[1]}"


def welcome_text(place: Place) -> str:
    """What a person is told once everything runs."""
    return f"""\
pushwright is up at {place.url}

  add a project   pushwright project add NAME --url https://…
  its images      docker pull {place.host}/NAME:<commit>
  API token       pushwright token | docker login --username pushwright --password-stdin {place.host}
  data            {place.data}

for the commands above: export PUSHWRIGHT_HOME={shlex.quote(str(place.data))}
Ctrl-C stops everything."""


def _start(stack: contextlib.ExitStack, supervisor: Supervisor, place: Place, environment: Mapping[str, str]) -> None:
    """Redis first; the worker and the web server need it, but not each other."""
    environment = dict(environment)
    if environment.get("REDIS_URL"):
        _check_redis(environment["REDIS_URL"])
    else:
        redis = prepare_redis(find_redis_server(environment), place.directory("redis"), place.runtime)
        lock = stack.enter_context(lock_redis_data(redis.directory, supervisor.pause))
        supervisor.start(
            Service(redis.command(place.log("redis"), lock), lambda _: redis.is_ready(), ready_seconds=300.0)
        )
        environment["REDIS_URL"] = redis.url
    supervisor.start(_worker(place, environment), _web(place, environment))


def _check_redis(url: str) -> None:
    """An external Redis answers, or there is no use in starting anything."""
    from tasks.connection import connect, redis_errors

    with redis_errors(), connect(url) as client:
        client.ping()


def _token_file(data: Path, runtime: Path, options: UpOptions, environment: Mapping[str, str]) -> Path:
    """The file with the API token: the one that was given, else one of our own that is made once and kept."""
    if given := options.token or environment.get("PUSHWRIGHT_API_TOKEN", ""):
        write_private_file(runtime / _TOKEN_NAME, given)
        return runtime / _TOKEN_NAME
    if named := environment.get("PUSHWRIGHT_API_TOKEN_FILE"):
        return Path(named)
    kept = data / _TOKEN_NAME
    if not read_private_file(kept):
        write_private_file(kept, secrets.token_urlsafe(32))
    return kept


def _tell_others(place: Place, token: str) -> None:
    """Leave the URL and the token where the other commands find them."""
    write_private_file(place.server_file, json.dumps({"url": place.url, "token": token, "pid": os.getpid()}))


def _worker(place: Place, environment: Mapping[str, str]) -> Service:
    ready = place.runtime / "worker.ready"
    command = ChildCommand(
        name="worker",
        arguments=(*module_arguments("tasks.worker"), "--ready-file", str(ready)),
        environment=environment,
        directory=place.empty,
        log=place.log("worker"),
        # it gives back what it was building first
        stop_seconds=30.0,
    )
    return Service(command, lambda _: ready.exists())


def _web(place: Place, environment: Mapping[str, str]) -> Service:
    descriptor = place.listener.fileno()
    command = ChildCommand(
        name="web",
        arguments=(*module_arguments("webhook.serve"), "--fd", str(descriptor)),
        environment=environment,
        directory=place.empty,
        log=place.log("web"),
        pass_descriptors=(descriptor,),
    )
    return Service(command, lambda _: _answers(place.listener))


def _answers(listener: socket.socket) -> bool:
    """Whether the web server says that it is ready."""
    host, port = listener.getsockname()[:2]
    connection = http.client.HTTPConnection(reachable_address(host), port, timeout=2)
    with contextlib.closing(connection):
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
