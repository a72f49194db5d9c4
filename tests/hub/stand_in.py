"""A stand-in of the Hugging Face hub on this machine: repositories, commits, LFS, and its refusals.

It speaks what huggingface_hub speaks: creating a repository or a branch, validating a card, the
three steps of a commit (preupload, LFS objects, commit), and reading a revision, its tree and its
files, in ranges too.
"""

import base64
import hashlib
import json
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml
from huggingface_hub import constants

TOKEN = "hf_of_the_owner"


class Refused(Exception):
    """An answer other than 200: status, the hub's code for it, and its message."""


@dataclass
class Repository:
    private: bool = False
    gated: bool = False
    commits: dict = field(default_factory=dict)  # files by path, by commit
    refs: dict = field(default_factory=lambda: {"main": None})
    messages: list = field(default_factory=list)

    def commit(self, ref, files, message=""):
        content = {**self.commits.get(self.refs.get(ref), {}), **files}
        seed = json.dumps([ref, message, len(self.commits)]).encode()
        sha = hashlib.sha1(seed + b"".join(content.values())).hexdigest()
        self.commits[sha], self.refs[ref] = content, sha
        self.messages.append(message)
        return sha

    def files(self, revision):
        sha = self.refs.get(revision, revision)
        if sha not in self.commits:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha, self.commits[sha]


@dataclass
class StandIn:
    """What the server holds and what it was asked for."""

    url: str = ""
    repositories: dict = field(default_factory=dict)
    objects: dict = field(default_factory=dict)  # LFS, by SHA-256
    asked: list = field(default_factory=list)  # "METHOD path"
    ranges: list = field(default_factory=list)  # of the downloads, None for a whole file
    cuts: Counter = field(default_factory=Counter)  # how often a file's answer breaks off halfway
    fails: dict = field(default_factory=dict)  # a status, by a part of the path


@contextmanager
def serving():
    """A stand-in that answers until the end of the `with`."""
    hub = StandIn()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub of its own for each test, with an empty cache; the client is logged in as the owner."""
    with serving() as stand_in:
        # The client has read its variables when it was imported; conftest.py forbids the network.
        files = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", stand_in.url + files)
        monkeypatch.setattr(constants, "ENDPOINT", stand_in.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1_000)  # real weights are many chunks
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        yield stand_in


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: StandIn

    def log_message(self, *_):
        """Say nothing."""

    def do_GET(self):
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def _serve(self):
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        split = urlsplit(self.path)
        self.where, self.query = split.path, parse_qs(split.query)
        self.hub.asked.append(f"{self.command} {self.where}")
        try:
            for part, status in self.hub.fails.items():
                if part in self.where:
                    raise Refused(status, "", "as the test wants it")
            self._answer([unquote(part) for part in self.where.strip("/").split("/")])
        except Refused as refused:
            status, code, message = refused.args
            headers = {"X-Error-Code": code} if code else {}
            self._send({"error": message}, status, headers | {"X-Error-Message": message})

    def _answer(self, parts):
        match parts:
            case ["api", "repos", "create"]:
                self._create(json.loads(self.body))
            case ["api", "validate-yaml"]:
                self._validate(json.loads(self.body)["content"])
            case ["api", "models", owner, name, *rest]:
                self._repository(f"{owner}/{name}", rest)
            case ["objects", oid] if self.command == "PUT":
                if hashlib.sha256(self.body).hexdigest() != oid:
                    raise Refused(400, "", "these bytes have another SHA-256")
                self.hub.objects[oid] = self.body
                self._send({})
            case ["verify", _]:
                known = self.hub.objects[json.loads(self.body)["oid"]]
                assert len(known) == json.loads(self.body)["size"]
                self._send({})
            case [_, _, "info", "lfs", "objects", "batch"]:
                self._batch(json.loads(self.body)["objects"])
            case [owner, name, "resolve", revision, *path]:
                repository = self._find(f"{owner}/{name}")
                self._file(*repository.files(revision), "/".join(path))
            case _:
                raise Refused(404, "", f"the stand-in does not know {self.command} {self.where}")

    def _find(self, name, writing=False):
        bearer = self.headers.get("Authorization")
        if bearer and bearer != f"Bearer {TOKEN}":
            raise Refused(401, "", "Invalid credentials in Authorization header")
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and not bearer):
            # As the hub does: who is not logged in is not told whether there is such a thing.
            raise Refused(404 if bearer else 401, "RepoNotFound", "Repository not found")
        if repository.gated:
            raise Refused(403, "GatedRepo", "Access is restricted")
        if writing and (not bearer or name.startswith("others/")):
            raise Refused(403, "", "You have no right to write here")
        return repository

    def _create(self, asked):
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Refused(401, "", "Invalid username or password.")
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] == "others":
            raise Refused(403, "", "You don't have the rights to create a model there")
        if name in self.hub.repositories:
            self._send({"url": f"{self.hub.url}/{name}", "error": "exists"}, 409)
            return
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.repositories[name] = repository = Repository(private)
        repository.commit("main", {".gitattributes": b""}, "initial commit")
        self._send({"url": f"{self.hub.url}/{name}"})

    def _validate(self, content):
        head = content.split("---")[1]
        front = yaml.safe_load(head)
        errors = []
        if front.get("license") == "none-such":
            errors.append({"message": '"license" must be one of [apache-2.0, mit, other]'})
        if errors:
            self._send({"errors": errors, "warnings": []}, 400)
        else:
            self._send({"errors": [], "warnings": []})

    def _repository(self, name, rest):
        repository = self._find(name, writing=self.command == "POST")
        match rest:
            case []:
                self._send(self._info(name, repository, "main"))
            case ["revision", revision]:
                self._send(self._info(name, repository, revision))
            case ["tree", revision]:
                _, files = repository.files(revision)
                self._send([self._listed(path, data) for path, data in files.items()])
            case ["branch", branch]:
                if branch in repository.refs:
                    raise Refused(409, "", "there is such a branch")
                repository.refs[branch] = repository.refs["main"]
                self._send({})
            case ["preupload", revision]:
                repository.files(revision)
                files = json.loads(self.body)["files"]
                self._send({"files": [_upload_mode(each) for each in files]})
            case ["commit", revision]:
                self._commit(name, repository, revision)

    def _info(self, name, repository, revision):
        sha, files = repository.files(revision)
        siblings = [{"rfilename": path} for path in files]
        return {"id": name, "sha": sha, "private": repository.private, "siblings": siblings}

    def _listed(self, path, data):
        listed = {"type": "file", "path": path, "size": len(data), "oid": _blob(data)}
        if path.endswith(".safetensors"):
            oid = hashlib.sha256(data).hexdigest()
            listed["lfs"] = {"oid": oid, "size": len(data), "pointerSize": 130}
        return listed

    def _batch(self, objects):
        def actions(oid):
            header = {"header": {}}
            return {
                "upload": {"href": f"{self.hub.url}/objects/{oid}", **header},
                "verify": {"href": f"{self.hub.url}/verify/{oid}", **header},
            }

        self._send({"objects": [{**each, "actions": actions(each["oid"])} for each in objects]})

    def _commit(self, name, repository, revision):
        header, *changes = [json.loads(line) for line in self.body.splitlines()]
        files = {}
        for change in changes:
            value = change["value"]
            if change["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            else:
                files[value["path"]] = base64.b64decode(value["content"])
        answer = {}
        if "create_pr" in self.query:
            repository.refs["refs/pr/1"] = repository.files(revision)[0]
            revision = "refs/pr/1"
            answer["pullRequestUrl"] = f"{self.hub.url}/{name}/discussions/1"
        sha = repository.commit(revision, files, header["value"]["summary"])
        commit = {"commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "commitOid": sha}
        self._send(commit | answer)

    def _file(self, sha, files, path):
        if path not in files:
            raise Refused(404, "EntryNotFound", "Entry not found")
        data, first, status = files[path], 0, 200
        if given := self.headers.get("Range"):
            first, status = int(given.removeprefix("bytes=").rstrip("-")), 206
        self.send_response(status)
        self.send_header("X-Repo-Commit", sha)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - first))
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        self.hub.ranges.append(given)
        if self.hub.cuts[path] > 0:
            self.hub.cuts[path] -= 1
            self.wfile.write(data[first : first + (len(data) - first) // 2])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(data[first:])

    def _send(self, content, status=200, headers=None):
        data = json.dumps(content).encode()
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _upload_mode(file):
    mode = "lfs" if file["path"].endswith(".safetensors") else "regular"
    return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None}


def _blob(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
