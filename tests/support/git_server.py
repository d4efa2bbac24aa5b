"""Git repositories made with the git binary, and a real git server over smart HTTP (`git http-backend`)."""

from __future__ import annotations

import base64
import contextlib
import http.server
import os
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# no configuration of the machine or its user takes part, and every commit made twice is the same
_ENVIRONMENT = {
    "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_NAME": "A. Author",
    "GIT_AUTHOR_EMAIL": "author@example.com",
    "GIT_COMMITTER_NAME": "C. Committer",
    "GIT_COMMITTER_EMAIL": "committer@example.com",
    "LC_ALL": "C.UTF-8",
}
COMMIT_TIME = 1_700_000_000


class Repository:
    """A bare repository; commits are made from whole file lists, without a working tree."""

    def __init__(self, path: Path, *, config: Mapping[str, str] | None = None) -> None:
        self.path = path
        path.mkdir(parents=True)
        self.git("init", "--quiet", "--bare", "--initial-branch=main")
        for name, value in (config or {}).items():
            self.git("config", name, value)

    def git(self, *arguments: str, data: bytes = b"", date: int = COMMIT_TIME) -> str:
        """Run git in the repository and return what it printed."""
        environment = {**_ENVIRONMENT, "GIT_AUTHOR_DATE": f"{date} +0000", "GIT_COMMITTER_DATE": f"{date} +0000"}
        command = ["git", "-C", str(self.path), *arguments]
        done = subprocess.run(command, input=data, env=environment, capture_output=True, check=False)
        if done.returncode:
            raise AssertionError(f"{command}: {done.stderr.decode()}")
        return done.stdout.decode().strip()

    def blob(self, data: bytes) -> str:
        return self.git("hash-object", "-w", "--stdin", data=data)

    def tree(self, *entries: tuple[str, str, bytes]) -> str:
        """A tree object of (mode, object, name), written as given: names git would refuse included."""
        raw = b"".join(
            mode.lstrip("0").encode() + b" " + name + b"\0" + bytes.fromhex(oid) for mode, oid, name in entries
        )
        return self.git("hash-object", "-t", "tree", "-w", "--stdin", "--literally", data=raw)

    def commit_tree(self, tree: str, *, parent: str = "", ref: str = "refs/heads/main", date: int = COMMIT_TIME) -> str:
        parents = ("-p", parent) if parent else ()
        commit = self.git("commit-tree", tree, *parents, "-m", "a commit", date=date)
        self.git("update-ref", ref, commit)
        return commit

    def commit(
        self,
        files: Mapping[str, bytes | tuple[str, bytes]],
        *,
        parent: str = "",
        ref: str = "refs/heads/main",
        date: int = COMMIT_TIME,
    ) -> str:
        """A commit of `files`: path -> content, or path -> (mode, content)."""
        return self.commit_tree(self._tree_of(files), parent=parent, ref=ref, date=date)

    def _tree_of(self, files: Mapping[str, bytes | tuple[str, bytes]]) -> str:
        entries: list[tuple[str, str, bytes]] = []
        below: dict[str, dict[str, bytes | tuple[str, bytes]]] = {}
        for path, content in files.items():
            first, _, rest = path.partition("/")
            if rest:
                below.setdefault(first, {})[rest] = content
                continue
            mode, data = content if isinstance(content, tuple) else ("100644", content)
            entries.append((mode, self.blob(data), os.fsencode(first)))
        entries += [("40000", self._tree_of(inner), os.fsencode(name)) for name, inner in below.items()]
        # git orders a directory as if its name ended in a slash
        return self.tree(*sorted(entries, key=lambda entry: entry[2] + (b"/" if entry[0] == "40000" else b"")))


@dataclass(frozen=True)
class Seen:
    """One request as the server got it."""

    method: str
    path: str
    headers: Mapping[str, str]


@dataclass
class GitServer:
    """What the server does, changed by tests while it runs, and what it saw."""

    root: Path
    port: int = 0
    scheme: str = "http"
    # `user:password` that is asked for
    basic_auth: str = ""
    # path prefix -> Location prefix; the rest of the path and the query are kept
    redirects: dict[str, str] = field(default_factory=dict)
    # path prefix -> status
    statuses: dict[str, int] = field(default_factory=dict)
    # the answer to POST is cut after so many bytes
    cut_after: int | None = None
    seen: list[Seen] = field(default_factory=list)

    def url(self, name: str, host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.port}/{name}"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: GitServer

    def log_message(self, format: str, *args: Any) -> None:
        """Tests read `seen` instead."""

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.state.seen.append(Seen(self.command, self.path, dict(self.headers)))
        for prefix, target in self.state.redirects.items():
            if self.path.startswith(prefix):
                self._answer(301, [("Location", target + self.path[len(prefix) :])], b"")
                return
        for prefix, status in self.state.statuses.items():
            if self.path.startswith(prefix):
                self._answer(status, [], b"no")
                return
        wanted = "Basic " + base64.b64encode(self.state.basic_auth.encode()).decode()
        if self.state.basic_auth and self.headers.get("Authorization") != wanted:
            self._answer(401, [("WWW-Authenticate", 'Basic realm="git"')], b"")
            return
        self._backend(body)

    def _backend(self, body: bytes) -> None:
        path, _, query = self.path.partition("?")
        environment = {
            **_ENVIRONMENT,
            "GIT_PROJECT_ROOT": str(self.state.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            # the repositories belong to whoever runs the tests, which need not be whom git expects
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=environment, capture_output=True, check=False)
        head, _, data = done.stdout.partition(b"\r\n\r\n")
        fields = [tuple(line.split(": ", 1)) for line in head.decode().split("\r\n") if ": " in line]
        status = next((int(value.split()[0]) for name, value in fields if name == "Status"), 200)
        self._answer(status, [(name, value) for name, value in fields if name != "Status"], data)

    def _answer(self, status: int, fields: list[tuple[str, str]], data: bytes) -> None:
        self.send_response(status)
        for name, value in fields:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "POST" and self.state.cut_after is not None:
            self.wfile.write(data[: self.state.cut_after])
            self.close_connection = True
            return
        self.wfile.write(data)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is what some tests are about."""


@contextlib.contextmanager
def git_server(root: Path, *, tls: ssl.SSLContext | None = None) -> Iterator[GitServer]:
    """A git server for the repositories in `root`, on a free loopback port."""
    state = GitServer(root, scheme="https" if tls else "http")
    handler = type("Handler", (_Handler,), {"state": state})
    with _Server(("127.0.0.1", 0), handler) as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        state.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def silent_server() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]
