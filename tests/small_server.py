"""A small real server in a process of its own, which behaves as it is told: `python small_server.py BEHAVIOUR …`.

It takes --host and --port at the end, as vLLM's does, and starts a child that a kill of the server alone would leave.
"""

import json
import os
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

KEY = "s3cret"


class Handler(BaseHTTPRequestHandler):
    behaviour = "healthy"

    def do_GET(self) -> None:
        if self.behaviour == "hang":
            time.sleep(600)
        names = {"two_models": ["a", "b"]}.get(self.behaviour, ["m"])
        self.answer({"/v1/models": {"data": [{"id": name} for name in names]}, "/version": {"version": "9"}})

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.behaviour == "locked" and self.headers.get("Authorization") != f"Bearer {KEY}":
            self.answer({}, 401)
        elif self.behaviour == "slow":
            time.sleep(600)
        elif self.behaviour == "dies_when_asked":
            os._exit(3)
        elif self.behaviour == "repeats_the_prompt":
            self.answer({self.path: {"error": asked}}, 400)
        elif self.behaviour == "other_form":
            self.answer({self.path: {"choices": []}})
        elif self.behaviour == "no_tokenize":
            self.answer({}, 404)
        else:
            self.answer({"/tokenize": {"tokens": [1, 2, 3]}})

    def answer(self, found: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(found.get(self.path, {})).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def main(behaviour: str, pids: str) -> None:
    Handler.behaviour = behaviour
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(pids).write_text(f"{os.getpid()} {child.pid}")
    if behaviour == "dies":
        sys.stderr.write("no such model\n")
        sys.exit(3)
    ThreadingHTTPServer((sys.argv[-3], int(sys.argv[-1])), Handler).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
