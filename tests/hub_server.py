"""A Hugging Face Hub on the loopback interface, for tests with the real client.

It speaks the part of the Hub's protocol that `huggingface_hub` uses to make repositories, upload folders (by git-LFS
or Xet) and download snapshots, and refuses with the Hub's own errors. It keeps everything in memory, Xet's chunks in
a temporary folder, and needs only the standard library (for Xet `hf_xet`, where that is installed).

    with serve() as hub:
        api = HfApi(endpoint=hub.url, token=WRITE_TOKEN)
        api.create_repo("alice/model", private=True)
        api.upload_folder(repo_id="alice/model", folder_path="model")
        assert hub.repos["alice/model"].private
        assert hub.files("alice/model")["config.json"] == b"{}"

`hub.fail_next(500)` makes the next request fail; `hub.requests` lists what was asked. Repositories of data sets and
spaces are named as in their addresses: `hub.repos["datasets/alice/data"]`.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import re
import shutil
import struct
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

Json = dict[str, Any]

WRITE_TOKEN, READ_TOKEN, OTHER_TOKEN = "hf_write", "hf_read", "hf_other"
LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".parquet", ".arrow", ".gguf", ".zip")
LFS_SIZE = 10 * 2**20
URL_PREFIX = {"model": "", "dataset": "datasets/", "space": "spaces/"}
KIND = {prefix: kind for kind, prefix in URL_PREFIX.items()}


class User(NamedTuple):
    """Whom a token stands for; `role` is write or read."""

    name: str
    role: str


class Request(NamedTuple):
    """A line of the log; `path` as it was sent, with its query."""

    method: str
    path: str
    status: int


@dataclass
class Reply:
    """JSON, or bytes as they are."""

    body: Any = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class Refusal(Exception):
    """An error reply, with the Hub's code for it where there is one."""

    def __init__(self, status: int, message: str, code: str = "", **headers: str) -> None:
        super().__init__(message)
        headers |= {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.reply = Reply({"error": message}, status, headers)


class Entry(NamedTuple):
    """A file of a commit: `oid` is git's name of the blob or LFS pointer, `sha256` is set for LFS files."""

    size: int
    oid: str
    sha256: str = ""

    @property
    def key(self) -> str:
        return self.sha256 or self.oid

    def lfs(self, name: str) -> Json:
        return {"lfs": {name: self.sha256, "size": self.size, "pointerSize": 134}} if self.sha256 else {}


class Commit(NamedTuple):
    """A full tree and its name."""

    id: str
    title: str
    date: str
    files: dict[str, Entry]

    def directories(self) -> set[str]:
        return {str(parent) for path in self.files for parent in Path(path).parents} - {"."}

    def listing(self, path: str) -> Json:
        if entry := self.files.get(path):
            return {"type": "file", "path": path, "size": entry.size, "oid": entry.oid} | entry.lfs("oid")
        return {"type": "directory", "path": path, "size": 0, "oid": git_oid(path.encode())}


class Repo:
    """Commits in the order they came, and the branches that name some of them."""

    def __init__(self, kind: str, id: str, private: bool) -> None:
        self.kind, self.id, self.private = kind, id, private
        self.owner, self.url_path = id.split("/")[0], URL_PREFIX[kind] + id
        self.commits: dict[str, Commit] = {}
        self.branches: dict[str, str] = {}
        self.commit("main", "initial commit", {})

    def at(self, revision: str) -> Commit:
        name = self.branches.get(revision, revision)
        if name not in self.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[name]

    def commit(self, branch: str, title: str, files: dict[str, Entry]) -> Commit:
        name = git_oid(f"{self.id} {len(self.commits)} {title} {sorted(files.items())}".encode())
        date = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        self.commits[name] = Commit(name, title, date, files)
        self.branches[branch] = name
        return self.commits[name]


class XetFile(NamedTuple):
    """Xet's name of a file, and the folder that has its chunks."""

    hash: str
    folder: Path


class XetStore:
    """Xet's content store as folders, by the `local://` scheme of `hf_xet`.

    A process locks the folder it opens. So every token names a folder of its own: an empty one to write, a copy of
    the one that has the file to read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def writable(self) -> str:
        return f"local://{tempfile.mkdtemp(prefix='write-', dir=self.root)}"

    def readable(self, sha256: str) -> str:
        folder = tempfile.mkdtemp(prefix="read-", dir=self.root)
        shutil.copytree(self.files()[sha256].folder, folder, dirs_exist_ok=True)
        return f"local://{folder}"

    def files(self) -> dict[str, XetFile]:
        """What was written, by sha256."""
        return {
            sha256: XetFile(xet_hash, folder)
            for folder in self.root.glob("write-*")
            for shard in folder.glob("xet/xorbs/shards/*.mdb")
            for sha256, xet_hash in files_of_shard(shard.read_bytes())
        }

    def read(self, sha256: str) -> bytes:
        import hf_xet

        access = {"endpoint": self.readable(sha256), "token": "any", "token_expiry_unix_secs": in_an_hour()}
        group = hf_xet.XetSession().new_download_stream_group(**access)
        return b"".join(group.download_stream(hf_xet.XetFileInfo(self.files()[sha256].hash)))


class Hub:
    """The state behind the routes, and what a test looks at and sets."""

    def __init__(self, xet: XetStore | None) -> None:
        self.xet, self.lock = xet, threading.RLock()
        self.url = self.storage_url = ""
        self.repos: dict[str, Repo] = {}
        self.contents: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.faults: list[tuple[str, Refusal]] = []
        self.tokens = {
            WRITE_TOKEN: User("alice", "write"),
            READ_TOKEN: User("alice", "read"),
            OTHER_TOKEN: User("bob", "write"),
        }

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """Path and content of each file of a repository."""
        return {path: self.contents[entry.key] for path, entry in self.repos[repo].at(revision).files.items()}

    def fail_next(self, status: int, times: int = 1, path: str = "", retry_after: int = 0) -> None:
        """Refuse the next `times` requests that have `path` in their path; by default whatever the client asks."""
        # The client reads a 401 with any other text as "no such repository".
        message = "Invalid credentials in Authorization header" if status == 401 else f"Refused with {status}"
        headers = {"Retry-After": str(retry_after)} if status == 429 else {}
        self.faults += [(path, Refusal(status, message, **headers))] * times

    def raise_fault(self, path: str) -> None:
        for index, (part, refusal) in enumerate(self.faults):
            if part in path:
                del self.faults[index]
                raise refusal

    def user(self, authorization: str) -> User | None:
        user = self.tokens.get(authorization.removeprefix("Bearer "))
        if authorization and user is None:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return user

    def holds(self, sha256: str) -> bool:
        """Whether this content has arrived; takes it out of Xet's store."""
        if self.xet and sha256 not in self.contents and sha256 in self.xet.files():
            self.contents[sha256] = self.xet.read(sha256)
        return sha256 in self.contents


class Call(NamedTuple):
    """A request on its way to a route; `values` are the named parts of its path."""

    hub: Hub
    method: str
    headers: dict[str, str]
    values: dict[str, str]
    query: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body or b"{}")

    @property
    def user(self) -> User | None:
        return self.hub.user(self.headers.get("authorization", ""))

    @property
    def repo(self) -> Repo:
        kind = self.values.get("kind") or KIND[self.values["prefix"]]
        return self.visible(URL_PREFIX[kind] + self.values["repo"])

    @property
    def commit(self) -> Commit:
        return self.repo.at(self.values.get("revision", "main"))

    def visible(self, url_path: str) -> Repo:
        user, repo = self.user, self.hub.repos.get(url_path)
        if repo is None or (repo.private and (user is None or user.name != repo.owner)):
            raise Refusal(404 if user else 401, "Repository not found", "RepoNotFound")
        return repo

    def require_user(self) -> User:
        if self.user is None:
            raise Refusal(401, "Invalid username or password.")
        return self.user

    def require_writer(self, owner: str) -> None:
        if self.require_user() != User(owner, "write"):
            raise Refusal(403, f"Forbidden: this token may not write to the namespace {owner}")

    def named_repo(self) -> tuple[str, str]:
        """Kind and id of the repository that the body names, in a namespace that the user may write to."""
        owner = self.json.get("organization") or self.require_user().name
        self.require_writer(owner)
        return self.json.get("type") or "model", f"{owner}/{self.json['name']}"


class Route(NamedTuple):
    """A line of a routing table."""

    methods: str
    pattern: re.Pattern[str]
    answer: Callable[[Call], Reply]


HUB_ROUTES: list[Route] = []
STORAGE_ROUTES: list[Route] = []
PLACEHOLDERS = {
    "{kind}": "(?P<kind>model|dataset|space)",
    "{prefix}": "(?P<prefix>datasets/|spaces/|)",
    "{repo}": "(?P<repo>[^/]+/[^/]+?)",
    "{revision}": "(?P<revision>[^/]+)",
    "{path}": "(?P<path>.+)",
    "{sha256}": "(?P<sha256>[0-9a-f]{64})",
}


def route(methods: str, template: str, writes: bool = False, table: list[Route] = HUB_ROUTES) -> Callable:
    """Enter a function in a routing table; `writes` asks for a token that may write to the repository."""
    pattern = re.compile(re.sub(r"\{\w+\}", lambda match: PLACEHOLDERS[match[0]], template))

    def enter(answer: Callable[[Call], Reply]) -> Callable[[Call], Reply]:
        def guarded(call: Call) -> Reply:
            call.require_writer(call.repo.owner)
            return answer(call)

        table.append(Route(methods, pattern, guarded if writes else answer))
        return answer

    return enter


@route("GET", "/api/whoami-v2")
def whoami(call: Call) -> Reply:
    name, role = call.require_user()
    token = {"type": "access_token", "accessToken": {"displayName": "test", "role": role}}
    return Reply({"type": "user", "id": name, "name": name, "fullname": name, "orgs": [], "auth": token})


@route("POST", "/api/repos/create")
def create_repo(call: Call) -> Reply:
    private = call.json.get("visibility") == "private" or call.json.get("private", False)
    repo = Repo(*call.named_repo(), private)
    answer = {"url": f"{call.hub.url}/{repo.url_path}", "name": repo.id, "id": repo.id}
    if repo.url_path in call.hub.repos:
        return Reply(answer | {"error": f"You already created this {repo.kind} repo"}, 409)
    call.hub.repos[repo.url_path] = repo
    return Reply(answer)


@route("DELETE", "/api/repos/delete")
def delete_repo(call: Call) -> Reply:
    kind, id = call.named_repo()
    del call.hub.repos[call.visible(URL_PREFIX[kind] + id).url_path]
    return Reply({})


@route("GET", "/api/{kind}s/{repo}")
@route("GET", "/api/{kind}s/{repo}/revision/{revision}")
def repo_info(call: Call) -> Reply:
    repo, commit = call.repo, call.commit
    siblings = [
        {"rfilename": path, "size": entry.size, "blobId": entry.oid} | entry.lfs("sha256")
        for path, entry in sorted(commit.files.items())
    ]
    names = {"_id": repo.id, "id": repo.id, "author": repo.owner, "sha": commit.id, "lastModified": commit.date}
    return Reply(names | {"private": repo.private, "gated": False, "tags": [], "siblings": siblings})


@route("GET", "/api/{kind}s/{repo}/refs")
def list_references(call: Call) -> Reply:
    branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": id} for n, id in call.repo.branches.items()]
    return Reply({"branches": branches, "tags": [], "converts": [], "pullRequests": []})


@route("GET", "/api/{kind}s/{repo}/tree/{revision}")
@route("GET", "/api/{kind}s/{repo}/tree/{revision}/{path}")
def list_tree(call: Call) -> Reply:
    commit, prefix = call.commit, f"{call.values['path']}/" if "path" in call.values else ""
    below = [path for path in sorted({*commit.files, *commit.directories()}) if path.startswith(prefix)]
    if prefix and not below:
        raise Refusal(404, f"{prefix} does not exist", "EntryNotFound")
    deep = call.query.get("recursive", "").lower() in ("1", "true")
    return Reply([commit.listing(path) for path in below if deep or "/" not in path.removeprefix(prefix)])


@route("POST", "/api/{kind}s/{repo}/paths-info/{revision}")
def paths_info(call: Call) -> Reply:
    commit, asked = call.commit, parse_qs(call.body.decode()).get("paths", [])
    known = {*commit.files, *commit.directories()}
    return Reply([commit.listing(path) for path in asked if path in known])


@route("GET HEAD", "/{prefix}{repo}/resolve/{revision}/{path}")
def resolve(call: Call) -> Reply:
    commit, path = call.commit, call.values["path"]
    headers = {"X-Repo-Commit": commit.id}
    if path not in commit.files:
        raise Refusal(404, "Entry not found", "EntryNotFound", **headers)
    entry = commit.files[path]
    if entry.sha256:
        return Reply(b"", 302, headers | lfs_headers(call, entry) | xet_headers(call, entry))
    return send_content(call, entry.oid, headers)


def lfs_headers(call: Call, entry: Entry) -> dict[str, str]:
    # The client follows a redirect within one origin and never sees these headers, hence a second origin.
    etag = f'"{entry.sha256}"'
    location = f"{call.hub.storage_url}/{entry.sha256}"
    return {"Location": location, "X-Linked-Size": str(entry.size), "X-Linked-Etag": etag, "ETag": etag}


def xet_headers(call: Call, entry: Entry) -> dict[str, str]:
    stored = call.hub.xet and call.hub.xet.files().get(entry.sha256)
    if not stored:
        return {}
    repo = f"{call.hub.url}/api/{call.repo.kind}s/{call.repo.id}"
    token_url = f"{repo}/xet-read-token/{call.commit.id}?file={entry.sha256}"
    return {"X-Xet-Hash": stored.hash, "Link": f'<{token_url}>; rel="xet-auth"'}


def send_content(call: Call, key: str, headers: dict[str, str]) -> Reply:
    content = call.hub.contents[key]
    headers = headers | {"ETag": f'"{key}"', "Accept-Ranges": "bytes"}
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", call.headers.get("range", ""))
    if not wanted or call.method == "HEAD":
        return Reply(content, 200, headers)
    start, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
    if start > last:
        raise Refusal(416, "Range not satisfiable", **{"Content-Range": f"bytes */{len(content)}"})
    return Reply(content[start : last + 1], 206, headers | {"Content-Range": f"bytes {start}-{last}/{len(content)}"})


@route("POST", "/api/validate-yaml")
def validate_card(call: Call) -> Reply:
    return Reply({"errors": [], "warnings": []})


@route("POST", "/api/{kind}s/{repo}/preupload/{revision}", writes=True)
def preupload(call: Call) -> Reply:
    def plan(path: str, size: int) -> Json:
        mode = "lfs" if size >= LFS_SIZE or path.endswith(LFS_SUFFIXES) else "regular"
        known = commit.files.get(path)
        return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": known and known.key}

    commit = call.commit
    return Reply({"files": [plan(f["path"], f["size"]) for f in call.json["files"]], "commitOid": commit.id})


@route("POST", "/{prefix}{repo}.git/info/lfs/objects/batch", writes=True)
def lfs_batch(call: Call) -> Reply:
    def plan(wanted: Json) -> Json:
        upload = {"href": f"{call.hub.storage_url}/{wanted['oid']}"}
        actions = {"upload": upload, "verify": {"href": f"{call.hub.url}/lfs/verify"}}
        return wanted if call.hub.holds(wanted["oid"]) else wanted | {"actions": actions}

    return Reply({"transfer": "basic", "objects": [plan(wanted) for wanted in call.json["objects"]]})


@route("POST", "/lfs/verify")
def lfs_verify(call: Call) -> Reply:
    content = call.hub.contents.get(call.json["oid"])
    if content is None or len(content) != call.json["size"]:
        raise Refusal(404, "This LFS object is missing or of another size")
    return Reply({})


@route("GET", "/api/{kind}s/{repo}/xet-write-token/{revision}", writes=True)
def xet_write_token(call: Call) -> Reply:
    if call.hub.xet is None:
        raise Refusal(404, "Xet is switched off on this server")
    return xet_token(call.hub.xet.writable())


@route("GET", "/api/{kind}s/{repo}/xet-read-token/{revision}")
def xet_read_token(call: Call) -> Reply:
    sha256 = call.query.get("file", "")
    committed = {entry.sha256 for entry in call.commit.files.values()}
    if call.hub.xet is None or sha256 not in committed & call.hub.xet.files().keys():
        raise Refusal(404, "This revision has no such file in Xet")
    return xet_token(call.hub.xet.readable(sha256))


def xet_token(url: str) -> Reply:
    expiry = in_an_hour()
    headers = {"X-Xet-Cas-Url": url, "X-Xet-Access-Token": "any", "X-Xet-Token-Expiration": str(expiry)}
    return Reply({"casUrl": url, "accessToken": "any", "exp": expiry}, headers=headers)


@route("POST", "/api/{kind}s/{repo}/commit/{revision}", writes=True)
def create_commit(call: Call) -> Reply:
    header, *operations = (json.loads(line) for line in call.body.splitlines() if line)
    parent = header["value"].get("parentCommit")
    if parent and parent != call.commit.id:
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    files = dict(call.commit.files)
    for operation in operations:
        OPERATIONS[operation["key"]](call.hub, files, operation["value"])
    commit = call.repo.commit(call.values["revision"], header["value"]["summary"], files)
    url = f"{call.hub.url}/{call.repo.url_path}/commit/{commit.id}"
    return Reply({"success": True, "commitOid": commit.id, "commitUrl": url, "pullRequestUrl": None})


def add_regular(hub: Hub, files: dict[str, Entry], value: Json) -> None:
    content = base64.b64decode(value["content"])
    files[value["path"]] = entry = Entry(len(content), git_oid(content))
    hub.contents[entry.oid] = content


def add_lfs(hub: Hub, files: dict[str, Entry], value: Json) -> None:
    sha256 = value["oid"]
    if not hub.holds(sha256):
        raise Refusal(400, f"LFS pointer of {value['path']} points to a file that does not exist")
    size = len(hub.contents[sha256])
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
    files[value["path"]] = Entry(size, git_oid(pointer.encode()), sha256)


def delete_file(hub: Hub, files: dict[str, Entry], value: Json) -> None:
    if files.pop(value["path"], None) is None:
        raise Refusal(404, f"{value['path']} does not exist", "EntryNotFound")


def delete_folder(hub: Hub, files: dict[str, Entry], value: Json) -> None:
    for path in [path for path in files if path.startswith(value["path"].rstrip("/") + "/")]:
        del files[path]


OPERATIONS = {"file": add_regular, "lfsFile": add_lfs, "deletedFile": delete_file, "deletedFolder": delete_folder}


@route("PUT", "/{sha256}", table=STORAGE_ROUTES)
def store(call: Call) -> Reply:
    if hashlib.sha256(call.body).hexdigest() != call.values["sha256"]:
        raise Refusal(400, "The content does not have the announced sha256")
    call.hub.contents[call.values["sha256"]] = call.body
    return Reply()


@route("GET HEAD", "/{sha256}", table=STORAGE_ROUTES)
def fetch(call: Call) -> Reply:
    if call.values["sha256"] not in call.hub.contents:
        raise Refusal(404, "No such object")
    return send_content(call, call.values["sha256"], {})


def in_an_hour() -> int:
    return int(time.time()) + 3600


def git_oid(content: bytes) -> str:
    """The name git gives a blob."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def files_of_shard(shard: bytes) -> Iterator[tuple[str, str]]:
    """Sha256 and Xet hash of each file of a shard: https://huggingface.co/docs/xet/en/shard."""
    record, end, verified, described = 48, b"\xff" * 32, 1 << 31, 1 << 30
    offset = record
    while (file_hash := shard[offset : offset + 32]) != end:
        flags, segments = struct.unpack_from("<II", shard, offset + 32)
        offset += record * (1 + segments * (2 if flags & verified else 1))
        if flags & described:
            yield hash_text(shard[offset : offset + 32]), hash_text(file_hash)
            offset += record


def hash_text(raw: bytes) -> str:
    """Xet writes a hash as four little-endian words."""
    return struct.pack(">4Q", *struct.unpack("<4Q", raw)).hex()


class Server(ThreadingHTTPServer):
    """One origin: a routing table over the shared state."""

    daemon_threads = True

    def __init__(self, hub: Hub, routes: list[Route]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.hub, self.routes, self.url = hub, routes, f"http://127.0.0.1:{self.server_port}"

    def start(self) -> str:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self.url


class Handler(BaseHTTPRequestHandler):
    """Reads a request, finds its route, writes the reply and the log."""

    server: Server
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together; apart, the second waits 40 ms for a delayed acknowledgement

    def handle_request(self) -> None:
        body = self.read_body()
        with self.server.hub.lock:
            reply = self.reply(body)
            self.server.hub.requests.append(Request(self.command, self.path, reply.status))
        self.write(reply)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request

    def reply(self, body: bytes) -> Reply:
        try:
            self.server.hub.raise_fault(self.path)
            return self.dispatch(body)
        except Refusal as refusal:
            return refusal.reply
        except Exception as error:
            traceback.print_exc()
            return Refusal(500, repr(error)).reply

    def dispatch(self, body: bytes) -> Reply:
        url = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        for route in self.server.routes:
            match = route.pattern.fullmatch(url.path)
            if match and self.command in route.methods.split():
                values = {name: unquote(value) for name, value in match.groupdict().items()}
                return route.answer(Call(self.server.hub, self.command, headers, values, query, body))
        raise Refusal(404, "Sorry, we can't find the page you are looking for.")

    def read_body(self) -> bytes:
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            return b"".join(self.read_chunks())
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def read_chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def write(self, reply: Reply) -> None:
        is_bytes = isinstance(reply.body, bytes)
        body = reply.body if is_bytes else json.dumps(reply.body).encode()
        content_type = "application/octet-stream" if is_bytes else "application/json"
        self.send_response(reply.status)
        for name, value in ({"Content-Type": content_type, "Content-Length": len(body)} | reply.headers).items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the log is `Hub.requests`."""


@contextmanager
def serve(xet: bool = True) -> Iterator[Hub]:
    """Run a Hub until the block ends. Xet is off where `hf_xet` is missing."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="hub-", ignore_cleanup_errors=True))
        hub = Hub(XetStore(Path(folder)) if xet and importlib.util.find_spec("hf_xet") else None)
        hub.url, hub.storage_url = (start(hub, routes, stack) for routes in (HUB_ROUTES, STORAGE_ROUTES))
        yield hub


def start(hub: Hub, routes: list[Route], stack: ExitStack) -> str:
    server = stack.enter_context(Server(hub, routes))
    stack.callback(server.shutdown)
    return server.start()
