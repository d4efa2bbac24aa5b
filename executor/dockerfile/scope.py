"""Which variables an instruction sees: ARG and ENV in their scopes (BuildKit `dockerfile2llb/convert.go`).

`GlobalScope` is what FROM lines see; `StageScope` what the instructions of one stage see. Both are values: whatever
adds a variable gives another scope.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from executor.dockerfile.instructions import Arg, Env
from executor.dockerfile.words import Expander
from executor.errors import DockerfileError, Location
from executor.oci import OciError, Platform

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# execve takes 6 MiB of arguments and environment at the very most (three quarters of _STK_LIM)
ENVIRONMENT_LIMIT_CHARACTERS = 4 * 1024 * 1024

PROXY_NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
PLATFORM_NAMES = tuple(
    f"{side}{part}" for side in ("BUILD", "TARGET") for part in ("PLATFORM", "OS", "OSVERSION", "ARCH", "VARIANT")
)


def platform_args(platform: Platform, build_platform: Platform, target: str) -> dict[str, str]:
    """The predefined arguments that tell platforms and target; visible to FROM, elsewhere after an ARG."""
    found: dict[str, str] = {}
    for side, value in (("BUILD", build_platform), ("TARGET", platform)):
        found |= {
            f"{side}PLATFORM": str(value),
            f"{side}OS": value.os,
            f"{side}OSVERSION": "",
            f"{side}ARCH": value.architecture,
            f"{side}VARIANT": value.variant,
        }
    return {**found, "TARGETSTAGE": target or "default"}


def is_predefined(name: str) -> bool:
    """Whether a build argument means something without being declared by ARG."""
    return (
        name.upper() in PROXY_NAMES
        or name in PLATFORM_NAMES
        or name in {"TARGETSTAGE", "SOURCE_DATE_EPOCH"}
        or name.startswith("BUILDKIT_")
    )


def is_plain_text(text: str) -> bool:
    """Whether `text` can be a variable's: no NUL, which ends strings in the kernel, and no half of a character."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


@dataclass(frozen=True, slots=True)
class GlobalScope:
    """The arguments before the first FROM; `values` are what a stage's `ARG NAME` takes over."""

    values: Mapping[str, str]
    expander: Expander

    @classmethod
    def resolve(
        cls, args: Iterable[Arg], build_args: Mapping[str, str], predefined: Mapping[str, str], expander: Expander
    ) -> GlobalScope:
        """Defaults are expanded with the arguments before them; `--build-arg` wins over everything."""
        values = {name: build_args.get(name, value) for name, value in predefined.items()}
        for arg in args:
            for definition in arg.definitions:
                if definition.name in build_args:
                    values[definition.name] = build_args[definition.name]
                elif definition.default is not None:
                    values[definition.name] = expander.expand(definition.default, values, arg.location)
                _check_size(values, arg.location)
        return cls(values, expander)

    def expand(self, word: str, location: Location) -> str:
        return self.expander.expand(word, self.values, location)


@dataclass(frozen=True, slots=True)
class StageScope:
    """The variables of one stage up to one instruction.

    `env` is the image config's environment, `variables` what expansions and RUN see: `env` and the values of ARGs,
    whichever came last. `args` are the declared names in order, as the history of a RUN lists them.
    """

    env: Mapping[str, str]
    variables: Mapping[str, str]
    args: tuple[str, ...] = ()
    global_values: Mapping[str, str] = field(default_factory=dict)
    build_args: Mapping[str, str] = field(default_factory=dict)
    expander: Expander = field(default_factory=Expander)

    @classmethod
    def begin(cls, env: Iterable[str], global_scope: GlobalScope, build_args: Mapping[str, str]) -> StageScope:
        """The scope behind a FROM of an image with this `Config.Env`; PATH is added where the image has none."""
        values: dict[str, str] = {}
        for item in env:
            if not is_plain_text(item):
                raise OciError("config.Env: expected UTF-8 without NUL characters")
            name, _, value = item.partition("=")
            values[name] = value
        values.setdefault("PATH", DEFAULT_PATH)
        return cls(values, values, (), global_scope.values, dict(build_args), global_scope.expander)

    def expand(self, word: str, location: Location | None = None) -> str:
        return self.expander.expand(word, self.variables, location)

    def expand_words(self, word: str, location: Location | None = None) -> list[str]:
        return self.expander.expand_words(word, self.variables, location)

    def declare(self, arg: Arg) -> tuple[StageScope, tuple[tuple[str, str | None], ...]]:
        """The scope behind an ARG: `--build-arg`, else the default, else the global value, else unset.

        With it come the values that this very line gives, None where it gives none: what a variable has from before
        is not among them.
        """
        variables = dict(self.variables)
        given: list[tuple[str, str | None]] = []
        for definition in arg.definitions:
            value = self.build_args.get(definition.name)
            if value is None and definition.default is not None:
                value = self.expander.expand(definition.default, variables, arg.location)
            elif value is None:
                value = self.global_values.get(definition.name)
            if value is not None:
                variables[definition.name] = value
            given.append((definition.name, value))
        _check_size(variables, arg.location)
        args = tuple(dict.fromkeys((*self.args, *(name for name, _ in given))))
        return replace(self, variables=variables, args=args), tuple(given)

    def assign(self, env: Env) -> tuple[StageScope, tuple[tuple[str, str], ...]]:
        """The scope behind an ENV, and its expanded pairs; all of them see the values from before the line."""
        pairs = self.expand_pairs(((pair.key, pair.value) for pair in env.pairs), env.location)
        for name, _ in pairs:
            if not name or "=" in name:
                raise DockerfileError(f"ENV: expected the name of a variable, found {name!r}", location=env.location)
        variables = {**self.variables, **dict(pairs)}
        _check_size(variables, env.location)
        return replace(self, variables=variables, env={**self.env, **dict(pairs)}), pairs

    def expand_pairs(self, pairs: Iterable[tuple[str, str]], location: Location) -> tuple[tuple[str, str], ...]:
        """Keys and values of ENV or LABEL, expanded from one and the same state."""
        return tuple((self.expand(key, location), self.expand(value, location)) for key, value in pairs)

    def config_env(self) -> list[str]:
        """`Config.Env`: replaced in place, else appended."""
        return [f"{name}={value}" for name, value in self.env.items()]

    def arg_values(self) -> tuple[tuple[str, str | None], ...]:
        """The declared arguments, each once, with the values they have now; None where unset."""
        return tuple((name, self.variables.get(name)) for name in self.args)

    def run_environment(self, proxies: Mapping[str, str]) -> dict[str, str]:
        """What a RUN sees. `proxies` and proxy build arguments are set in both cases, but never override."""
        found = dict(self.variables)
        given = {name.upper(): value for source in (proxies, self.build_args) for name, value in source.items()}
        for name in PROXY_NAMES:
            if given.get(name):
                found.setdefault(name, given[name])
                found.setdefault(name.lower(), given[name])
        return found


def _check_size(values: Mapping[str, str], location: Location) -> None:
    if sum(len(name) + len(value) + 2 for name, value in values.items()) > ENVIRONMENT_LIMIT_CHARACTERS:
        raise DockerfileError(
            f"the variables take more than {ENVIRONMENT_LIMIT_CHARACTERS} characters together",
            code="dockerfile-too-large",
            location=location,
        )
