"""Registered projects: what a push is checked against, and what a build of it is made from. Secrets are sealed."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from executor.errors import PushwrightError, UsageError
from executor.spec import Credential
from tasks import project_rules as rules
from tasks.connection import Client, redis_errors
from tasks.errors import RecordDamagedError
from tasks.lifecycle import config_digest
from tasks.project_rules import ProjectInvalidError, UrlPolicy
from tasks.vault import Vault, VaultError

__all__ = [
    "Project",
    "ProjectExistsError",
    "ProjectInvalidError",
    "ProjectUnknownError",
    "Projects",
    "UnreadableProject",
    "UrlPolicy",
    "new_project",
]

PROJECT_VERSION = "1"
GENERATED = "generated"
SECRET_BYTES = 32
_NAMES = "pw:projects"
_PLAIN = ("name", "url", "branch", "dockerfile", "context", "image")
# one step, so that of two registrations of a name one is refused; times are Redis's own, as in build records
_ADD = """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
local time = redis.call('TIME')
local created = string.format('%d', time[1] * 1000 + math.floor(time[2] / 1000))
redis.call('HSET', KEYS[1], 'created', created, unpack(ARGV))
redis.call('ZADD', KEYS[2], 0, ARGV[2])
return tonumber(created)
"""


class ProjectExistsError(UsageError):
    """A project of this name is registered already."""

    code = "project-exists"


class ProjectUnknownError(UsageError):
    """No project of this name is registered."""

    code = "project-unknown"


@dataclass(frozen=True, slots=True)
class Project:
    """A registered repository with its configuration; made by `new_project` or read from Redis, so always checked.

    `image` is `registry/repository`, or "" for the server's default.
    """

    name: str
    url: str
    branch: str = "main"
    dockerfile: str = "Dockerfile"
    context: str = ""
    image: str = ""
    git_credential: Credential | None = None
    registries: Mapping[str, Credential] = field(default_factory=dict)
    webhook_secrets: tuple[str, ...] = field(default=(), repr=False)
    created: int = 0

    @property
    def ref(self) -> str:
        """The full ref whose pushes are built."""
        return f"refs/heads/{self.branch}"

    @property
    def config(self) -> Mapping[str, Any]:
        """What an image depends on besides the commit; no credential and no branch changes what is built."""
        return {"url": self.url, "dockerfile": self.dockerfile, "context": self.context}

    @property
    def config_digest(self) -> str:
        """SHA-256 over `config`."""
        return config_digest(self.config)

    def repository(self, registry: str) -> str:
        """Where its images go: the own image, else the name below `registry` ("": the embedded one, without host)."""
        return self.image or (f"{registry}/{self.name}" if registry else self.name)

    def to_json(self) -> dict[str, Any]:
        """What people and programs are shown: no secret, only what there is of them."""
        return {
            **{name: getattr(self, name) for name in _PLAIN},
            "git_credential": self.git_credential.username if self.git_credential else None,
            "registries": sorted(self.registries),
            "webhook_secrets": len(self.webhook_secrets),
            "config_digest": self.config_digest,
            "created": self.created,
            "problem": None,
        }


@dataclass(frozen=True, slots=True)
class UnreadableProject:
    """What is left to show of a project whose record does not read, most often because its key was lost."""

    name: str
    record: Mapping[str, str] = field(repr=False)
    error: PushwrightError

    def to_json(self) -> dict[str, Any]:
        """The members of a project, empty where only its secrets could tell, and what is wrong with it."""
        created = self.record.get("created", "")
        return {
            **{name: self.record.get(name, "") for name in _PLAIN},
            "name": self.name,
            "git_credential": None,
            "registries": [],
            "webhook_secrets": 0,
            "config_digest": "",
            "created": int(created) if created.isdecimal() else 0,
            "problem": {"code": self.error.code, "message": self.error.message, "hint": self.error.hint},
        }


def new_project(value: Mapping[str, Any], policy: UrlPolicy) -> tuple[Project, str]:
    """A project from what the API was sent, each field checked; and its webhook secret when that was generated."""
    known = {*_PLAIN, "git_credential", "registries", "secret"}
    if unknown := sorted(set(value) - known):
        raise ProjectInvalidError(str(unknown[0])[:40], f"unknown; known are {', '.join(sorted(known))}")
    name = rules.check_name(value.get("name"))
    given = value.get("git_credential")
    credential = None if given is None else rules.check_credential("git_credential", given)
    wanted = value.get("secret", GENERATED)
    generated = secrets.token_urlsafe(SECRET_BYTES) if wanted == GENERATED else ""
    project = Project(
        name=name,
        url=rules.check_url(value.get("url"), policy, has_credential=credential is not None),
        branch=rules.check_project_branch(value.get("branch", "main")),
        dockerfile=rules.check_dockerfile(value.get("dockerfile", "Dockerfile")),
        context=rules.check_path("context", value.get("context", "")),
        image=rules.check_image(value.get("image", ""), name),
        git_credential=credential,
        registries=rules.check_registries(value.get("registries", {})),
        webhook_secrets=(generated or rules.check_secret(wanted),),
    )
    return project, generated


class Projects:
    """The projects of one Redis."""

    def __init__(self, redis: Client, vault: Vault) -> None:
        self._redis = redis
        self._vault = vault
        self._add = redis.register_script(_ADD)
        self._decoy = vault.seal(json.dumps([secrets.token_urlsafe(SECRET_BYTES)]), "decoy")

    def add(self, project: Project) -> Project:
        """Registers a new project; `ProjectExistsError` when the name is taken."""
        fields = {"name": project.name, "v": PROJECT_VERSION}
        fields |= {name: getattr(project, name) for name in _PLAIN if name != "name"}
        fields |= self._sealed(project)
        with redis_errors():
            arguments = [text for pair in fields.items() for text in pair]
            created = self._add(keys=[_key(project.name), _NAMES], args=arguments)
        if not created:
            raise ProjectExistsError(f"a project {project.name!r} is registered already")
        return replace(project, created=int(created))

    def get(self, name: str) -> Project:
        """The project, its secrets opened; `ProjectUnknownError` when there is none."""
        return self._project(name, self._record(name))

    def describe(self, name: str) -> Project | UnreadableProject:
        """The project as far as it reads, to be shown and not to be built."""
        return self._described(name, self._record(name))

    def list(self) -> list[Project | UnreadableProject]:
        """All projects, by name; one that does not read hides none of the others."""
        with redis_errors():
            names = self._redis.zrange(_NAMES, 0, -1)
            pipeline = self._redis.pipeline(transaction=False)
            for name in names:
                pipeline.hgetall(_key(name))
            records = pipeline.execute()
        # a project removed between the two questions is just not there
        return [self._described(name, record) for name, record in zip(names, records, strict=True) if record]

    def remove(self, name: str) -> None:
        """Forgets a project with its secrets; builds and images stay."""
        if not rules.NAME_PATTERN.fullmatch(name):
            raise _unknown(name)
        with redis_errors():
            pipeline = self._redis.pipeline(transaction=True)
            removed, _ = pipeline.delete(_key(name)).zrem(_NAMES, name).execute()
        if not removed:
            raise _unknown(name)

    def is_registered(self, name: str) -> bool:
        """Whether there is such a project; opens no secret."""
        if not rules.NAME_PATTERN.fullmatch(name):
            return False
        with redis_errors():
            return bool(self._redis.exists(_key(name)))

    def hook_secrets(self, name: str) -> tuple[bytes, ...]:
        """What a delivery to this project may be signed with.

        For a name that is not registered this is a secret nobody knows, had with the same work, so that neither the
        answer nor its time tells which names exist.
        """
        sealed = None
        if rules.NAME_PATTERN.fullmatch(name):
            with redis_errors():
                sealed = self._redis.hget(_key(name), "webhook_secrets")
        context = _context(name, "webhook_secrets") if sealed else "decoy"
        return tuple(text.encode() for text in json.loads(self._vault.open(sealed or self._decoy, context)))

    def _record(self, name: str) -> Mapping[str, str]:
        if not rules.NAME_PATTERN.fullmatch(name):
            raise _unknown(name)
        with redis_errors():
            record = self._redis.hgetall(_key(name))
        if not record:
            raise _unknown(name)
        return record

    def _sealed(self, project: Project) -> dict[str, str]:
        credential = project.git_credential
        values: dict[str, Any] = {
            "git_credential": asdict(credential) if credential else None,
            "registries": {host: asdict(item) for host, item in project.registries.items()},
            "webhook_secrets": list(project.webhook_secrets),
        }
        return {
            name: self._vault.seal(json.dumps(value), _context(project.name, name)) for name, value in values.items()
        }

    def _opened(self, name: str, record: Mapping[str, str], what: str) -> Any:
        return json.loads(self._vault.open(record[what], _context(name, what)))

    def _described(self, name: str, record: Mapping[str, str]) -> Project | UnreadableProject:
        try:
            return self._project(name, record)
        except (VaultError, RecordDamagedError) as error:
            return UnreadableProject(name, record, error)

    def _project(self, name: str, record: Mapping[str, str]) -> Project:
        if record.get("v") != PROJECT_VERSION:
            raise RecordDamagedError(
                f"project {name}: expected a record of version {PROJECT_VERSION}, found {record.get('v')!r}",
                hint="a newer Pushwright has written it; use that version",
            )
        try:
            credential = self._opened(name, record, "git_credential")
            registries = self._opened(name, record, "registries")
            return Project(
                **{item: record[item] for item in _PLAIN},
                git_credential=Credential(**credential) if credential else None,
                registries={host: Credential(**item) for host, item in registries.items()},
                webhook_secrets=tuple(self._opened(name, record, "webhook_secrets")),
                created=int(record["created"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RecordDamagedError(f"project {name}: the record does not read: {type(error).__name__}") from error


def _key(name: str) -> str:
    return f"pw:project:{name}"


def _context(name: str, what: str) -> str:
    return f"project:{name}:{what}"


def _unknown(name: str) -> ProjectUnknownError:
    return ProjectUnknownError(
        f"project {name[:80]!r} is not registered", hint="register it: pushwright project add NAME --url URL"
    )
