"""A request to a registry with our authorization on it, and the one answer to its challenge."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from executor.registry.auth import Authorizer
from executor.registry.hosts import Origin
from executor.registry.mirrors import Endpoint
from executor.registry.transport import Request, Response, Transport


def pull_scopes(endpoint: Endpoint) -> tuple[str, ...]:
    """The scope of reading (distribution's token specification, "Resource Scope")."""
    return (f"repository:{endpoint.repository}:pull",)


def push_scopes(endpoint: Endpoint) -> tuple[str, ...]:
    """The scope of writing."""
    return (f"repository:{endpoint.repository}:pull,push",)


def delete_scopes(endpoint: Endpoint) -> tuple[str, ...]:
    """The scope of deleting."""
    return (f"repository:{endpoint.repository}:delete",)


class Exchange:
    """Sends requests to endpoints; `Authorization` is put on those only that go to the endpoint's own origin."""

    def __init__(self, transport: Transport, authorizer: Authorizer) -> None:
        self._transport = transport
        self._authorizer = authorizer

    def url(self, endpoint: Endpoint, path: str) -> str:
        """The URL of `path` in the endpoint's repository (distribution-spec, "Endpoints")."""
        return f"{self._transport.rules.origin(endpoint.registry)}/v2/{endpoint.repository}/{path}"

    def moved(self, request: Request, location: str) -> str:
        """The URL that a `Location` in the answer to `request` names, checked as a redirect is."""
        return self._transport.moved(request, location).url

    def send(self, endpoint: Endpoint, request: Request, scopes: tuple[str, ...]) -> Response:
        """The answer, whatever its status but 401, which is answered once and then raised."""
        origin = self._transport.rules.origin(endpoint.registry)
        own = Origin.of_url(request.url) == origin
        response = self._transport.send(
            _authorized(request, self._authorizer.header(endpoint, scopes) if own else None)
        )
        if response.status != 401:
            return response
        with response:
            error = response.refusal()
            # a challenge from where we were redirected to is not this registry's to make
            asked_by_registry = own and Origin.of_url(response.url) == origin
            value = self._authorizer.answer(endpoint, scopes, response) if asked_by_registry else None
        if value is None:
            raise error
        response = self._transport.send(_authorized(request, value))
        if response.status != 401:
            return response
        with response:
            raise response.refusal(anonymous=not self._authorizer.has_credential(endpoint))

    def expect(
        self, endpoint: Endpoint, request: Request, scopes: tuple[str, ...], statuses: Collection[int]
    ) -> Response:
        """The answer, which has one of `statuses`; any other is raised."""
        response = self.send(endpoint, request, scopes)
        if response.status in statuses:
            return response
        with response:
            raise response.refusal()


def _authorized(request: Request, value: str | None) -> Request:
    return request if value is None else replace(request, headers={**request.headers, "Authorization": value})
