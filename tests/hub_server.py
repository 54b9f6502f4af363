"""A stand-in for the Hugging Face Hub on 127.0.0.1: as much of its API as a push asks for."""

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN, USER = "hf_of_the_test", "somebody"


@dataclass
class Hub:
    """What the server holds: ``files`` by repository, and what was asked of it."""

    url: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    visibility: dict[str, str] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """Serve until the context ends; repositories of others than ``USER`` may be read, not written."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def answer(self, value: object, status: int = 200, error: str = "") -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            if error:
                self.send_header("X-Error-Code", error)
            self.end_headers()
            self.wfile.write(data)

        def begin(self) -> bool:
            hub.asked.append(f"{self.command} {self.path}")
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self.answer({"error": "Invalid username or password."}, 401)
                return False
            return True

        def do_GET(self) -> None:
            if not self.begin():
                return
            if self.path.startswith("/api/whoami"):
                self.answer({"type": "user", "name": USER, "orgs": []})
                return
            name = re.fullmatch(r"/api/models/([^/?]+/[^/?]+)(\?.*)?", self.path)
            if name and name[1] in hub.files:
                self.answer({"id": name[1], "modelId": name[1], "private": True, "tags": [], "siblings": []})
            else:
                self.answer({"error": "Repository not found"}, 404, "RepoNotFound")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            if not self.begin():
                return
            if self.path == "/api/repos/create":
                asked = json.loads(body)
                owner = asked.get("organization") or USER
                if owner != USER:
                    self.answer({"error": "You don't have the rights to create a model here"}, 403)
                    return
                name = f"{owner}/{asked['name']}"
                hub.files[name], hub.visibility[name] = {}, asked.get("visibility", "public")
                self.answer({"url": f"{hub.url}/{name}"})
                return
            if self.path == "/api/validate-yaml":  # of the card
                self.answer({"errors": [], "warnings": []})
                return
            found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main(\?.*)?", self.path)
            if found is None:
                self.answer({"error": "not known here"}, 404)
            elif not found[1].startswith(f"{USER}/"):
                self.answer({"error": "Forbidden"}, 403)
            elif found[2] == "preupload":
                asked = json.loads(body)["files"]
                files = [
                    {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in asked
                ]
                self.answer({"files": files})
            else:
                self.commit(found[1], body)

        def commit(self, name: str, body: bytes) -> None:
            for line in body.splitlines():
                one = json.loads(line)
                if one["key"] == "header":
                    hub.commits.append(one["value"]["summary"])
                elif one["key"] == "file":
                    hub.files[name][one["value"]["path"]] = base64.b64decode(one["value"]["content"])
            commit = "c" * 40
            self.answer(
                {"success": True, "commitOid": commit, "commitUrl": f"{hub.url}/{name}/commit/{commit}"}
            )

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
