"""The order of places to pull from."""

from __future__ import annotations

import pytest

from executor.errors import UsageError
from executor.reference import Reference
from executor.registry.mirrors import MirrorRules, push_endpoint
from executor.spec import RegistryOptions


def _order(options: RegistryOptions, text: str) -> list[str]:
    return [place.name for place in MirrorRules(options).pull_endpoints(Reference.parse(text))]


def test_without_mirrors_there_is_the_registry() -> None:
    assert _order(RegistryOptions(), "debian") == ["docker.io/library/debian"]


def test_mirrors_are_of_docker_hub_alone() -> None:
    options = RegistryOptions(mirrors=("mirror.gcr.io", "m.example.com:5000/proxy/hub"))
    assert _order(options, "debian") == [
        "mirror.gcr.io/library/debian",
        "m.example.com:5000/proxy/hub/library/debian",
        "docker.io/library/debian",
    ]
    assert _order(options, "ghcr.io/o/app") == ["ghcr.io/o/app"]


def test_maps_come_before_mirrors() -> None:
    options = RegistryOptions(maps={"index.docker.io": ("a.io",), "ghcr.io": ("b.io/x",)}, mirrors=("c.io",))
    assert _order(options, "u/app") == ["a.io/u/app", "c.io/u/app", "docker.io/u/app"]
    assert _order(options, "ghcr.io/o/app") == ["b.io/x/o/app", "ghcr.io/o/app"]


def test_without_falling_back_the_registry_is_left_out_where_there_are_others() -> None:
    options = RegistryOptions(mirrors=("a.io",), skip_default_fallback=True)
    assert _order(options, "debian") == ["a.io/library/debian"]
    assert _order(options, "ghcr.io/o/app") == ["ghcr.io/o/app"]


def test_a_registry_that_is_its_own_mirror_is_asked_once() -> None:
    assert _order(RegistryOptions(maps={"a.io": ("a.io", "a.io/")}), "a.io/x") == ["a.io/x"]


def test_pushing_ignores_mirrors() -> None:
    assert push_endpoint(Reference.parse("debian")).name == "docker.io/library/debian"


@pytest.mark.parametrize("text", ["https://a.io", "a.io/UPPER", "a.io/../x", "", "a b", "a.io//x", "a.io/x?y"])
def test_mirrors_that_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        MirrorRules(RegistryOptions(mirrors=(text,)))
