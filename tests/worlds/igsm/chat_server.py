"""A server on this machine that speaks the chat-completions protocol, and misbehaves as it is told."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class ChatServer(ThreadingHTTPServer):
    """Answers every prompt with `answer(prompt)`, after the faults in `faults`, one a request.

    A fault is a status, a pair of status and headers, or one of "silence" (no answer in time), "hang up" (no answer
    at all), "nonsense" (no JSON), "other" (JSON that is no completion), "empty" (no text in the message).
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, answer, faults=(), silence=1.0):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.faults, self.silence = answer, list(faults), silence
        self.requests = []
        self.lock = threading.Lock()

    @property
    def base_url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def handle_error(self, *_):
        """A client that hangs up is none of our business."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append({"path": self.path, "headers": dict(self.headers), "body": body})
            fault = self.server.faults.pop(0) if self.server.faults else None
        if self.path != "/v1/chat/completions":
            return self.reply(404, {"error": {"message": f"no such path: {self.path}"}})
        if isinstance(fault, int | tuple):
            status, headers = fault if isinstance(fault, tuple) else (fault, {})
            key = self.headers.get("Authorization", "no key")
            return self.reply(status, {"error": {"message": f"out of order, you sent {key}"}}, headers)
        if fault == "silence":
            time.sleep(self.server.silence)
        if fault in ("silence", "hang up"):
            self.close_connection = True
            return None
        if fault == "nonsense":
            return self.reply(200, "<html>Welcome</html>")
        if fault == "other":
            return self.reply(200, {"object": "list", "data": []})
        text = None if fault == "empty" else self.server.answer(body["messages"][-1]["content"])
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        made = {"id": "chatcmpl-1", "object": "chat.completion", "created": 0, "model": body["model"]}
        return self.reply(200, {**made, "choices": [choice], "usage": usage})

    def reply(self, status, document, headers=()):
        body = (document if isinstance(document, str) else json.dumps(document)).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **dict(headers),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Silence."""
