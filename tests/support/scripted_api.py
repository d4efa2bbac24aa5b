"""An HTTP server with scripted answers, which keeps the requests that it got."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Answer:
    """One answer; of `lines`, each is sent as a chunk of its own, and `cut` breaks the connection after them."""

    body: object = None
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    lines: tuple[bytes, ...] | None = None
    cut: bool = False


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: Mapping[str, str]
    body: Any


def problem(status: int, code: str, detail: str, **members: object) -> Answer:
    body = {"type": "about:blank", "title": "-", "status": status, "detail": detail, "code": code, **members}
    return Answer(body, status=status, content_type="application/problem+json")


class ScriptedApi:
    """Answers per `METHOD path`, in order; the last one is given again and again."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[Request] = []
        self._answers: dict[str, deque[Answer]] = {}

    def answer(self, request: str, *answers: Answer) -> None:
        self._answers[request] = deque(answers)

    def take(self, method: str, path: str) -> Answer:
        answers = self._answers.get(f"{method} {path}")
        if not answers:
            return problem(404, "not-found", f"nothing at {method} {path}")
        return answers.popleft() if len(answers) > 1 else answers[0]


@contextlib.contextmanager
def serve_script() -> Iterator[ScriptedApi]:
    """A scripted server on a free loopback port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            api.requests.append(Request(self.command, self.path, dict(self.headers), body))
            self.send(api.take(self.command, self.path))

        do_GET = do_POST = do_DELETE = handle_any

        def send(self, answer: Answer) -> None:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", answer.content_type)
            if answer.lines is None:
                content = b"" if answer.body is None else json.dumps(answer.body).encode()
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                return
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for line in answer.lines:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            if answer.cut:
                self.close_connection = True
            else:
                self.wfile.write(b"0\r\n\r\n")

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    api = ScriptedApi(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
