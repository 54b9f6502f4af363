"""A stand-in for the Hugging Face Hub on 127.0.0.1: serves folders as the data sets of an owner."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _oid(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server: "_Server"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.server.asked.append(f"{self.command} {path}")
        parts = path.split("/")
        if parts[:2] == ["api", "datasets"]:
            self._say(self._about("/".join(parts[2:4]), parts[4:]))
        elif parts[0] == "datasets" and parts[3:4] == ["resolve"]:
            self._send("/".join(parts[1:3]), "/".join(parts[5:]), body=body)
        else:
            self._say(None)

    def _about(self, name: str, rest: list[str]) -> object:
        folder = self.server.data_sets.get(name)
        if folder is None:
            return None
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        names = [str(file.relative_to(folder)) for file in files]
        if rest[:1] in ([], ["revision"]):
            siblings = [{"rfilename": one} for one in names]
            return {"id": name, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}
        if rest[0] in {"tree", "paths-info"}:
            entries = [
                {"type": "file", "path": one, "size": file.stat().st_size, "oid": _oid(file)}
                for one, file in zip(names, files, strict=True)
            ]
            below = "/".join(rest[2:])
            folders = sorted({one.rpartition("/")[0] for one in names} - {""})
            entries += [{"type": "directory", "path": one, "oid": "0" * 40} for one in folders]
            return [one for one in entries if str(one["path"]).startswith(f"{below}/" if below else "")]
        return None

    def _say(self, value: object) -> None:
        text = json.dumps({"error": "not found"} if value is None else value).encode()
        self.send_response(404 if value is None else 200)
        if value is None:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def _send(self, name: str, inside: str, *, body: bool) -> None:
        file = self.server.data_sets.get(name, Path("/nowhere")) / inside
        if not file.is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = file.read_bytes()
        self.send_response(200)
        self.send_header("ETag", f'"{_oid(file)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, data_sets: dict[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.data_sets, self.asked = data_sets, list[str]()


@contextmanager
def hub_server(data_sets: dict[str, Path]) -> Iterator[tuple[str, list[str]]]:
    """Serve; gives the address and the list of what is asked."""
    server = _Server(data_sets)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
