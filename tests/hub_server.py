"""A Hub on the loopback: the few endpoints that are used, spoken to by huggingface_hub's own client.

Real where it matters to a client: commits and branches, LFS files behind a redirect, ETags, private and gated repos,
optimistic locking, and on demand the ways in which a server fails.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml


LFS = (".safetensors", ".png", ".jpg")


@dataclass
class HostedRepo:
    """Commits of one repo: the files of each, and which one a branch points to."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False
    downloads: int = 0

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Add or replace files; returns the new commit."""
        parent = self.branches.get(branch, "")
        whole = {**self.commits.get(parent, {}), **files}
        text = parent + repr(sorted((name, hashlib.sha1(content).hexdigest()) for name, content in whole.items()))
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.commits[sha] = whole
        self.branches[branch] = sha
        return sha

    def resolve(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)

    def tags(self) -> list[str]:
        card = self.commits[self.branches["main"]].get("README.md", b"").decode()
        match = re.match(r"---\n(.*?)\n---", card, re.DOTALL)
        data = yaml.safe_load(match[1]) if match else {}
        return [*data.get("tags", []), *([f"license:{data['license']}"] if "license" in data else [])]


@dataclass
class Request:
    """One that the server saw."""

    method: str
    path: str
    token: str | None


@dataclass
class Failure:
    """Answer the next requests whose ``METHOD /path`` matches with an error, or ``cut`` their body off."""

    pattern: str
    status: int = 500
    code: str = "Injected"
    cut: bool = False
    times: int = 10**9


class HubServer:
    """``with HubServer() as hub: hub.add("me/model", {"config.json": b"..."})``."""

    def __init__(self) -> None:
        self.repos: dict[str, HostedRepo] = {}
        self.blobs: dict[str, bytes] = {}  # LFS content by sha256
        self.requests: list[Request] = []
        self.failures: list[Failure] = []
        self.write_token = "hf_write_secret"  # opens everything
        self.read_token = "hf_read_secret"  # opens private and gated repos for reading
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.hub = self  # type: ignore[attr-defined]
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def add(self, repo_id: str, files: dict[str, bytes], branch: str = "main", **options: Any) -> str:
        """Commit files to a repo, made if need be; returns the commit."""
        repo = self.repos.setdefault(repo_id, HostedRepo(**options))
        for name, content in files.items():
            if name.endswith(LFS):
                self.blobs[hashlib.sha256(content).hexdigest()] = content
        return repo.commit(files, branch)

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a repo."""
        repo = self.repos[repo_id]
        return repo.commits[repo.branches[revision]]

    def fail(self, pattern: str, **how: Any) -> None:
        """Fail requests from now on, see ``Failure``."""
        self.failures.append(Failure(pattern, **how))

    def seen(self, pattern: str) -> list[Request]:
        """Requests whose ``METHOD /path`` matches."""
        return [r for r in self.requests if re.search(pattern, f"{r.method} {r.path}")]


class Answers(BaseHTTPRequestHandler):
    """What every endpoint needs: a request read, an answer sent, and a repo looked up."""

    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> HubServer:
        return self.server.hub  # type: ignore[attr-defined]

    def log_message(self, *args: object) -> None:
        pass

    def send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", headers.get("Content_Length", str(len(body))))
        self.end_headers()
        if self.command != "HEAD":
            half = self.cut and len(body) > 1
            self.wfile.write(body[: len(body) // 2] if half else body)
            if half:
                self.close_connection = True

    def send_json(self, data: Any, status: int = 200) -> None:
        self.send(status, json.dumps(data).encode(), Content_Type="application/json")

    def error(self, status: int, code: str, **headers: str) -> None:
        self.send(status, b"", X_Error_Code=code, X_Error_Message=code, **headers)

    def handle_any(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = self.read_chunks()
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.token, self.cut = token, False
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.hub.requests.append(Request(self.command, path, token))
        for failure in self.hub.failures:
            if failure.times > 0 and re.search(failure.pattern, f"{self.command} {path}"):
                failure.times -= 1
                self.cut = failure.cut
                if not failure.cut:
                    return self.error(failure.status, failure.code)
        for pattern, method in ROUTES:
            if match := re.fullmatch(pattern, f"{self.command} {path}"):
                return method(self, *match.groups(), **{"query": parse_qs(url.query)})
        self.error(404, "NoSuchRoute")

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def read_chunks(self) -> bytes:
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def repo(self, repo_id: str) -> HostedRepo | None:
        """The repo, or None after the right error: a private one does not exist for strangers."""
        repo = self.hub.repos.get(repo_id)
        member = self.token in (self.hub.read_token, self.hub.write_token)
        if repo is None or (repo.private and not member):
            return self.error(401 if self.token is None else 404, "RepoNotFound")
        if repo.gated and not member:
            return self.error(403, "GatedRepo")
        return repo

    def revision(self, repo_id: str, revision: str) -> tuple[HostedRepo, str] | None:
        repo = self.repo(repo_id)
        if repo is None:
            return None
        sha = repo.resolve(revision)
        if sha is None:
            return self.error(404, "RevisionNotFound")
        return repo, sha


class Reading(Answers):
    """Files, folders and facts of repos."""

    def resolve_file(self, repo_id: str, revision: str, name: str, query: Any) -> None:
        found = self.revision(repo_id, revision)
        if found is None:
            return
        repo, sha = found
        content = repo.commits[sha].get(name)
        if content is None:
            return self.error(404, "EntryNotFound", X_Repo_Commit=sha)
        if not name.endswith(LFS):
            etag = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            return self.send(200, content, X_Repo_Commit=sha, ETag=f'"{etag}"')
        oid = hashlib.sha256(content).hexdigest()
        self.send(
            302,
            b"",
            X_Repo_Commit=sha,
            X_Linked_Etag=f'"{oid}"',
            X_Linked_Size=str(len(content)),
            Location=f"http://localhost:{self.server.server_address[1]}/cdn/{oid}",  # another host, as in reality
        )

    def cdn(self, oid: str, query: Any) -> None:
        content = self.hub.blobs[oid]
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if span is None:
            return self.send(200, content, ETag=f'"{oid}"')
        first = int(span[1])
        last = int(span[2] or len(content) - 1)
        part = f"bytes {first}-{last}/{len(content)}"
        self.send(206, content[first : last + 1], ETag=f'"{oid}"', Content_Range=part)

    def tree(self, repo_id: str, revision: str, folder: str | None, query: Any) -> None:
        found = self.revision(repo_id, revision)
        if found is None:
            return
        repo, sha = found
        prefix = f"{folder}/" if folder else ""
        entries: dict[str, Any] = {}
        for name, content in repo.commits[sha].items():
            if name.startswith(prefix):
                head, slash, _ = name[len(prefix) :].partition("/")
                oid = hashlib.sha1(content).hexdigest()
                kind = "directory" if slash else "file"
                entries[head] = {"type": kind, "path": prefix + head, "size": len(content), "oid": oid}
        if not entries:
            return self.error(404, "EntryNotFound")
        self.send_json(list(entries.values()))

    def info(self, repo_id: str, revision: str | None, query: Any) -> None:
        found = self.revision(repo_id, revision or "main")
        if found is not None:
            self.send_json(self.describe(repo_id, found[1]))

    def describe(self, repo_id: str, sha: str) -> dict[str, Any]:
        repo = self.hub.repos[repo_id]
        return {
            "id": repo_id,
            "sha": sha,
            "private": repo.private,
            "gated": repo.gated,
            "downloads": repo.downloads,
            "likes": 0,
            "tags": repo.tags(),
            "lastModified": "2026-11-20T10:00:00.000Z",
            "siblings": [{"rfilename": name} for name in repo.commits[sha]],
        }

    def models(self, query: dict[str, list[str]]) -> None:
        wanted = set(query.get("filter", []))
        found = [
            self.describe(repo_id, repo.branches["main"])
            for repo_id, repo in self.hub.repos.items()
            if not repo.private and wanted <= set(repo.tags())
        ]
        found.sort(key=lambda model: -model["downloads"])
        self.send_json(found[: int(query.get("limit", ["1000"])[0])])


class Writing(Answers):
    """New repos, branches and commits, for who has the token for it."""

    def may_write(self) -> bool:
        if self.token == self.hub.write_token:
            return True
        self.error(401 if self.token is None else 403, "Forbidden")
        return False

    def create(self, query: Any) -> None:
        if not self.may_write():
            return
        data = json.loads(self.body)
        repo_id = f"{data.get('organization') or 'me'}/{data['name']}"
        if repo_id in self.hub.repos:
            return self.send_json({"error": "exists", "url": f"{self.hub.url}/{repo_id}"}, 409)
        private = bool(data.get("private")) or data.get("visibility") == "private"
        self.hub.add(repo_id, {".gitattributes": b"*.safetensors filter=lfs\n"}, private=private)
        self.send_json({"url": f"{self.hub.url}/{repo_id}"})

    def create_branch(self, repo_id: str, branch: str, query: Any) -> None:
        if not self.may_write():
            return
        found = self.revision(repo_id, json.loads(self.body or b"{}").get("startingPoint") or "main")
        if found is not None:
            repo, sha = found
            if branch in repo.branches:
                return self.error(409, "BranchExists")
            repo.branches[branch] = sha
            self.send_json({})

    def validate(self, query: Any) -> None:
        self.send_json({"errors": [], "warnings": []})

    def preupload(self, repo_id: str, revision: str, query: Any) -> None:
        if self.may_write() and self.revision(repo_id, revision):
            names = [file["path"] for file in json.loads(self.body)["files"]]
            modes = {name: "lfs" if name.endswith(LFS) else "regular" for name in names}
            files = [{"path": n, "uploadMode": mode, "shouldIgnore": False} for n, mode in modes.items()]
            self.send_json({"files": files})

    def lfs_batch(self, repo_id: str, query: Any) -> None:
        if not self.may_write():
            return
        objects = []
        for item in json.loads(self.body)["objects"]:
            if item["oid"] not in self.hub.blobs:
                upload = {"href": f"{self.hub.url}/lfs/{item['oid']}", "header": {}}
                item["actions"] = {"upload": upload}
            objects.append(item)
        self.send_json({"transfer": "basic", "objects": objects})

    def lfs_upload(self, oid: str, query: Any) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.error(400, "WrongDigest")
        self.hub.blobs[oid] = self.body
        self.send(200)

    def make_commit(self, repo_id: str, branch: str, query: Any) -> None:
        if not self.may_write():
            return
        found = self.revision(repo_id, branch)
        if found is None:
            return
        repo, sha = found
        lines = [json.loads(line) for line in self.body.splitlines()]
        if lines[0]["value"].get("parentCommit") not in (None, sha):
            return self.error(412, "PreconditionFailed")
        files = {}
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
        if "create_pr" in query:
            branch = "refs/pr/1"
            repo.branches[branch] = sha
        new = repo.commit(files, branch)
        self.send_json(
            {
                "commitUrl": f"{self.hub.url}/{repo_id}/commit/{new}",
                "commitOid": new,
                "pullRequestUrl": f"{self.hub.url}/{repo_id}/discussions/1" if "create_pr" in query else None,
            }
        )


class Handler(Reading, Writing):
    """All endpoints."""


REPO, REVISION = r"([^/]+/[^/]+)", r"(refs/pr/\d+|[^/]+)"
ROUTES = [
    (rf"(?:GET|HEAD) /{REPO}/resolve/{REVISION}/(.+)", Handler.resolve_file),
    (r"(?:GET|HEAD) /cdn/(\w+)", Handler.cdn),
    (rf"GET /api/models/{REPO}/tree/{REVISION}(?:/(.+))?", Handler.tree),
    (rf"GET /api/models/{REPO}(?:/revision/{REVISION})?", Handler.info),
    (r"GET /api/models", Handler.models),
    (r"POST /api/repos/create", Handler.create),
    (rf"POST /api/models/{REPO}/branch/([^/]+)", Handler.create_branch),
    (r"POST /api/validate-yaml", Handler.validate),
    (rf"POST /api/models/{REPO}/preupload/{REVISION}", Handler.preupload),
    (rf"POST /{REPO}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    (r"PUT /lfs/(\w+)", Handler.lfs_upload),
    (rf"POST /api/models/{REPO}/commit/{REVISION}", Handler.make_commit),
]  # fmt: skip
