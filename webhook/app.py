"""The Flask application: views, the guard before them, errors after them."""

from __future__ import annotations

from flask import Flask, Response
from flask.typing import ResponseReturnValue

from tasks.connection import redis_errors
from tasks.settings import Settings
from webhook import access, api, hooks, registry
from webhook.problems import handle_errors
from webhook.services import EXTENSION, Announce, open_services, services

DEFAULT_STREAMS = 8


def create_app(settings: Settings, *, announce: Announce | None = None, streams: int = DEFAULT_STREAMS) -> Flask:
    """The application of these settings; `announce` replaces sending the ids of builds to the workers.

    `streams` is how many followed logs it serves at a time; it must be less than the server's threads.
    """
    app = Flask("webhook", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = hooks.BODY_LIMIT_BYTES
    app.json.sort_keys = False  # type: ignore[attr-defined]
    # "a//b" is not another spelling of "a/b" to a registry
    app.url_map.merge_slashes = False
    app.extensions[EXTENSION] = open_services(settings, announce=announce, streams=streams)
    handle_errors(app)
    access.guard(app, access.read_token(settings))
    for blueprint in (hooks.blueprint, api.blueprint, registry.blueprint):
        app.register_blueprint(blueprint)
    app.add_url_rule("/healthz", "healthz", healthz)
    app.add_url_rule("/readyz", "readyz", readyz)
    app.after_request(harden)
    return app


def healthz() -> ResponseReturnValue:
    """Whether this process answers."""
    return {"status": "ok"}


def readyz() -> ResponseReturnValue:
    """Whether it can do its work, which needs Redis."""
    with redis_errors():
        services().redis.ping()
    return {"status": "ok"}


def harden(response: Response) -> Response:
    """Nothing here is a page: no browser shall guess a type, run a script, or keep what it was shown."""
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
    response.headers.setdefault("Cache-Control", "no-store")
    return response
