"""A local HTTP server whose answers, broken ones included, a test chooses path by path."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Answer:
    body: bytes
    status: int = 200
    announced: int | None = None
    """Content-Length, where it is not that of the body."""
    content_type: str = "application/octet-stream"


@dataclass
class Server:
    url: str
    answers: dict[str, Answer] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)


@contextmanager
def serving(answers: dict[str, Answer]) -> Iterator[Server]:
    """Serve `answers` on 127.0.0.1; what has none is a 404 with an XML body."""
    state = Server("", dict(answers))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append(self.path)
            missing = Answer(b"<?xml version='1.0'?><Error/>", 404)
            answer = state.answers.get(self.path, missing)
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.content_type)
            length = len(answer.body) if answer.announced is None else answer.announced
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        state.url = f"http://127.0.0.1:{server.server_address[1]}/store"
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()
