"""Variables as far as a Dockerfile alone tells: what a base image sets is not known before it is fetched.

`scope.StageScope` is what a build uses. This is for looking ahead: it goes on where a value is missing, and says which.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from executor.dockerfile.instructions import ArgDefinition, KeyValue
from executor.dockerfile.scope import DEFAULT_PATH, ENVIRONMENT_LIMIT_CHARACTERS
from executor.dockerfile.words import Expander, Quotes
from executor.errors import DockerfileError, Location


class WatchedValues(Mapping[str, str]):
    """Values that remember which names were asked for: found, and not found, each in order."""

    def __init__(self, values: Mapping[str, str], hidden: Iterable[str] = ()) -> None:
        self._values = values
        self._hidden = frozenset(hidden)
        self.matched: dict[str, None] = {}
        self.unmatched: dict[str, None] = {}

    def __getitem__(self, name: str) -> str:
        if name in self._values and name not in self._hidden:
            self.matched[name] = None
            return self._values[name]
        self.unmatched[name] = None
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._values if name not in self._hidden)

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True, slots=True)
class Expansion:
    """What a word expands to; a variable that only the base image tells stays in `text` as it was written.

    `undefined` are the names in it that certainly nothing has set or declared, `unknown` those whose value only the
    base image tells.
    """

    text: str
    undefined: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


class KnownVariables:
    """The variables of one stage, changed by each ARG and ENV; `environment` is None for a base image not looked at."""

    def __init__(
        self,
        environment: Iterable[str] | None,
        global_values: Mapping[str, str],
        build_args: Mapping[str, str],
        escape: str = "\\",
    ) -> None:
        self._global_values = global_values
        self._build_args = build_args
        self._escape = escape
        self._values: dict[str, str] = {}
        self._size = 0
        self._uncertain: set[str] = set()
        self.declared: set[str] = set()
        self.complete = environment is not None
        for item in environment or ():
            name, _, value = item.partition("=")
            self._set(name, value, Location("", 1), certain=True)
        if "PATH" not in self._values:
            self._set("PATH", DEFAULT_PATH, Location("", 1), certain=self.complete)

    def child(self) -> KnownVariables:
        """The same variables for a stage that goes on from this one."""
        child = KnownVariables((), self._global_values, self._build_args, self._escape)
        child._values = dict(self._values)
        child._size = self._size
        child._uncertain = set(self._uncertain)
        child.declared = set(self.declared)
        child.complete = self.complete
        return child

    @property
    def names(self) -> Collection[str]:
        """Every name that has a value, in the order of their appearance; none is ever taken away."""
        return self._values.keys()

    def expand(self, word: str, location: Location, *, quotes: Quotes = "remove", escape: str = "") -> Expansion:
        """The word, expanded as far as can be; `DockerfileError` when it cannot be whatever the base image sets."""
        text, watched, unknown = self._expand(word, location, Expander(escape or self._escape, quotes=quotes))
        if unknown:
            partly = Expander(escape or self._escape, quotes=quotes, keep_unset=True)
            text = partly.expand(word, WatchedValues(self._values, self._uncertain), location)
        undefined = tuple(name for name in watched.unmatched if name not in self.declared) if self.complete else ()
        return Expansion(text, undefined, unknown)

    def expand_words(self, word: str, location: Location) -> tuple[list[str], tuple[str, ...]]:
        """The words that EXPOSE makes of one of its own, and the names of unknown value in it."""
        watched = WatchedValues(self._values)
        try:
            words = Expander(self._escape).expand_words(word, watched, location)
        except DockerfileError:
            if not self._unknown(watched):
                raise
            words = [word]
        return words, self._unknown(watched)

    def _expand(self, word: str, location: Location, expander: Expander) -> tuple[str, WatchedValues, tuple[str, ...]]:
        watched = WatchedValues(self._values)
        try:
            text = expander.expand(word, watched, location)
        except DockerfileError:
            # `${X:?}`, say, where the base image may set X
            if not self._unknown(watched):
                raise
            text = word
        return text, watched, self._unknown(watched)

    def _unknown(self, watched: WatchedValues) -> tuple[str, ...]:
        found = [name for name in watched.matched if name in self._uncertain]
        return tuple(found if self.complete else [*found, *watched.unmatched])

    def declare(self, definition: ArgDefinition, location: Location) -> tuple[str | None, Expansion | None]:
        """What an ARG does: `--build-arg`, else the default, else the global value.

        The value that it gives, None where it gives none, and the expansion of the default where that was used.
        """
        name = definition.name
        value: str | None = None
        expansion: Expansion | None = None
        if name in self._build_args:
            value = self._build_args[name]
        elif definition.default is not None:
            expansion = self.expand(definition.default, location)
            value = expansion.text
        else:
            value = self._global_values.get(name)
        if value is not None:
            self._set(name, value, location, certain=expansion is None or not expansion.unknown)
        self.declared.add(name)
        return value, expansion

    def assign(self, pairs: Iterable[KeyValue], location: Location) -> list[tuple[Expansion, Expansion]]:
        """What an ENV does; keys and values are all expanded before any is set."""
        found = [(self.expand(pair.key, location), self.expand(pair.value, location)) for pair in pairs]
        for key, value in found:
            self._set(key.text, value.text, location, certain=not (key.unknown or value.unknown))
        return found

    def _set(self, name: str, value: str, location: Location, *, certain: bool) -> None:
        self._size += len(name) + len(value) + 2
        if name in self._values:
            self._size -= len(name) + len(self._values[name]) + 2
        if self._size > ENVIRONMENT_LIMIT_CHARACTERS:
            raise DockerfileError(
                f"the variables take more than {ENVIRONMENT_LIMIT_CHARACTERS} characters together",
                code="dockerfile-too-large",
                location=location,
            )
        self._values[name] = value
        (self._uncertain.discard if certain else self._uncertain.add)(name)
