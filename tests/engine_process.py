"""A stand-in for `vllm serve`: a real server process that starts, talks, fails and ends as its flags say.

Run as `python engine_process.py serve CHECKPOINT [FLAGS] --host H --port P --served-model-name NAME`, which is how
its-proxy starts vLLM. Children that it begins carry its environment, so tests find them all by one variable.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)"


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="vllm serve", allow_abbrev=False)
    parser.add_argument("serve", choices=["serve"])
    parser.add_argument("checkpoint")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--say", action="append", default=[], help="written at once, escapes and all")
    parser.add_argument("--flood", type=int, default=0, help="writes that many characters without an end of line")
    parser.add_argument("--start-s", type=float, default=0.0, help="/health answers after this long")
    parser.add_argument("--wait-for", type=Path, help="/health answers when this file is there")
    parser.add_argument("--exit-code", type=int, help="ends at once")
    parser.add_argument("--reply-s", type=float, default=0.0, help="how long a chat completion takes")
    parser.add_argument("--stubborn", action="store_true", help="ignores SIGTERM")
    parser.add_argument("--children", action="store_true", help="begins three that ignore SIGTERM, wherever they hide")
    return parser.parse_args()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    arguments: argparse.Namespace
    began = time.monotonic()

    def log_message(self, format: str, *words: object) -> None:
        print(f"INFO:     {self.client_address[0]} - {format % words}", flush=True)

    def do_GET(self) -> None:
        if self.path == "/health":
            self.answer(200 if self.is_up() else 503, {})
        elif self.is_allowed():
            self.answer(200, {"object": "list", "data": [{"id": self.arguments.served_model_name, "object": "model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.is_allowed():
            return
        if body["model"] != self.arguments.served_model_name:
            return self.answer(404, {"error": {"message": "no such model"}})
        if body.get("max_tokens") != 1:
            time.sleep(self.arguments.reply_s)
        message = {"role": "assistant", "content": "\\boxed{7}"}
        tokens = [ord(character) for message in body["messages"] for character in str(message["content"])]
        self.answer(200, {
            "id": "c", "object": "chat.completion", "created": 1, "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}, "prompt_token_ids": tokens,
        })  # fmt: skip

    def is_up(self) -> bool:
        file = self.arguments.wait_for
        return time.monotonic() - self.began >= self.arguments.start_s and (file is None or file.exists())

    def is_allowed(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {os.environ['VLLM_API_KEY']}":
            return True
        self.answer(401, {"error": "Unauthorized"})
        return False

    def answer(self, status: int, document: object) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def begin_children() -> None:
    """One beside this process, one in a session of its own, and an orphan."""
    child = [sys.executable, "-c", STUBBORN]
    subprocess.Popen(child)
    subprocess.Popen(child, start_new_session=True)
    subprocess.run(["sh", "-c", '"$@" & exit 0', "sh", *child], check=True)


class Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone is none: whoever asks whether it has started may be ended meanwhile."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def main() -> int:
    arguments = read_arguments()
    print("arguments:", json.dumps(sys.argv[1:]), flush=True)
    if arguments.stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if arguments.children:
        begin_children()
        print("children begun", flush=True)
    for words in arguments.say:
        os.write(1, words.encode().decode("unicode_escape").encode())
    sys.stdout.write("x" * arguments.flood)
    sys.stdout.flush()
    if arguments.exit_code is not None:
        return arguments.exit_code
    Handler.arguments = arguments
    server = Server((arguments.host, arguments.port), Handler)
    if not arguments.stubborn:
        signal.signal(signal.SIGTERM, lambda *caught: threading.Thread(target=server.shutdown).start())
    server.serve_forever(poll_interval=0.05)
    return 0


if __name__ == "__main__":
    sys.exit(main())
