"""A model hub on loopback: a real HTTP server that speaks what huggingface_hub asks, and logs every request."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha1, sha256

from aiohttp import web


@dataclass
class Repository:
    """Files by commit; `branches` name commits. `status` and `code` refuse everything, as the Hub would."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    status: int = 200
    code: str = ""

    def push(self, files: dict[str, bytes], branch: str = "main") -> str:
        """A new commit on the branch; returns its id."""
        commit = sha1(repr((sorted(files.items()), len(self.commits))).encode()).hexdigest()
        self.commits[commit] = files
        self.branches[branch] = commit
        return commit


@dataclass
class HubServer:
    """`log` holds "METHOD path" of every request, `bytes_sent` what files cost."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    bytes_sent: int = 0
    announced_bytes: dict[str, int] = field(default_factory=dict)

    def repository(self, name: str) -> Repository:
        return self.repositories.setdefault(name, Repository())

    def fetched(self) -> set[str]:
        """Names of the files whose content was sent."""
        return {line.partition("/resolve/")[2].partition("/")[2] for line in self.log if line.startswith("GET ")}


@asynccontextmanager
async def hub_server() -> AsyncIterator[HubServer]:
    hub = HubServer()

    def refused(status: int, code: str) -> web.Response:
        return web.Response(status=status, headers={"X-Error-Code": code, "X-Error-Message": code})

    def find(request: web.Request) -> tuple[str, dict[str, bytes]] | web.Response:
        hub.log.append(f"{request.method} {request.path}")
        info = request.match_info
        repository = hub.repositories.get(f"{info['org']}/{info['name']}")
        if repository is None:
            return refused(404, "RepoNotFound")
        if repository.status != 200:
            return refused(repository.status, repository.code)
        commit = repository.branches.get(info["revision"], info["revision"])
        if commit not in repository.commits:
            return refused(404, "RevisionNotFound")
        return commit, repository.commits[commit]

    async def resolve(request: web.Request) -> web.Response:
        found = find(request)
        if isinstance(found, web.Response):
            return found
        commit, files = found
        path = request.match_info["path"]
        if path not in files:
            response = refused(404, "EntryNotFound")
            response.headers["X-Repo-Commit"] = commit
            return response
        data = files[path]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{sha256(data).hexdigest()}"'}
        if request.method == "HEAD":
            headers["Content-Length"] = str(hub.announced_bytes.get(path, len(data)))
            return web.Response(headers=headers)
        hub.bytes_sent += len(data)
        return web.Response(body=data, headers=headers)

    async def tree(request: web.Request) -> web.Response:
        found = find(request)
        if isinstance(found, web.Response):
            return found
        folder = request.match_info["path"].rstrip("/") + "/"
        rows = [
            {"type": "file", "path": path, "size": len(data), "oid": sha1(data).hexdigest()}
            for path, data in found[1].items()
            if path.startswith(folder)
        ]
        return web.json_response(rows) if rows else refused(404, "EntryNotFound")

    app = web.Application()
    app.router.add_route("*", "/{org}/{name}/resolve/{revision}/{path:.+}", resolve)
    app.router.add_get("/api/models/{org}/{name}/tree/{revision}/{path:.+}", tree)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    hub.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield hub
    finally:
        await runner.cleanup()
