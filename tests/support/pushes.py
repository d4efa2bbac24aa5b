"""Deliveries as forges make them: signed over the raw bytes, sent over HTTP."""

from __future__ import annotations

import hashlib
import hmac
import json
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Hook:
    """Where a project's deliveries go, and the secret that signs them."""

    url: str
    secret: str

    def push(
        self, commit: str, *, ref: str = "refs/heads/main", delivery: str = "", secret: str = ""
    ) -> tuple[int, dict[str, Any]]:
        """A GitHub push of `commit`; gives the status and the answer."""
        head = {"id": commit, "message": "a commit", "added": [], "removed": [], "modified": ["Dockerfile"]}
        body = {
            "ref": ref,
            "before": "0" * 40,
            "after": commit,
            "created": False,
            "deleted": False,
            "forced": False,
            "commits": [head],
            "head_commit": head,
            "pusher": {"name": "somebody", "email": "somebody@example.com"},
            # nobody may clone from where a payload says
            "repository": {"full_name": "acme/demo", "clone_url": "https://elsewhere.invalid/demo.git"},
        }
        return self.deliver(json.dumps(body).encode(), delivery or str(uuid.uuid4()), secret or self.secret)

    def deliver(self, body: bytes, delivery: str, secret: str) -> tuple[int, dict[str, Any]]:
        signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        headers = {
            "Content-Type": "application/json",
            "X-GitHub-Event": "push",
            "X-GitHub-Delivery": delivery,
            "X-Hub-Signature-256": f"sha256={signature}",
        }
        request = urllib.request.Request(self.url, data=body, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())
