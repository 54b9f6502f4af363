"""A server on 127.0.0.1 whose links are as links of the web are: some good, most of the rest dead in their own way."""

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image

KINDS = ("good", "missing", "forbidden", "hangs", "moved", "lost", "page", "cut", "huge", "empty")
HANG = 3.0  # seconds, longer than a downloader of the tests waits


def picture(number: int, side: int = 40) -> bytes:
    """A JPEG that no other number has."""
    image = Image.new("RGB", (side, side), (number * 37 % 256, number // 7 % 256, number * 5 % 256))
    image.paste((number * 91 % 256, 255 - number % 256, 80), (number % 20, 5, 30, 30))
    stream = io.BytesIO()
    image.save(stream, "JPEG")
    return stream.getvalue()


def bomb() -> bytes:
    """A JPEG whose header says 65,000 x 65,000 pixels."""
    data = bytearray(picture(0))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = (65_000).to_bytes(2, "big") * 2
    return bytes(data)


def body(kind: str, number: int) -> bytes:
    """What a link of ``kind`` that answers with 200 sends."""
    if kind in {"good", "moved"}:
        return picture(number)
    noise = Image.effect_noise((64, 64), 90).convert("RGB")
    stream = io.BytesIO()
    noise.save(stream, "JPEG")
    return {
        "page": b"<!DOCTYPE html><html><body>This picture is no longer here.</body></html>",
        "cut": stream.getvalue()[: len(stream.getvalue()) // 2],
        "huge": bomb(),
        "empty": b"",
    }[kind]


class _Handler(BaseHTTPRequestHandler):
    """``/KIND/NUMBER.jpg``."""

    def do_GET(self) -> None:
        kind, _, name = self.path.strip("/").partition("/")
        number = int(name.partition(".")[0])
        if kind == "hangs":
            time.sleep(HANG)
            return
        status = {"missing": 404, "forbidden": 403, "moved": 302, "lost": 302}.get(kind, 200)
        data = body(kind, number) if status == 200 else b""
        self.send_response(status)
        if status == 302:
            self.send_header("Location", f"/{'good' if kind == 'moved' else 'missing'}/{number}.jpg")
        self.send_header("Content-Type", "image/jpeg")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """A client that gave up is no error of the server's."""


@contextmanager
def link_server() -> Iterator[str]:
    """Serve; gives the address, without a slash at its end."""
    server = _Server(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
