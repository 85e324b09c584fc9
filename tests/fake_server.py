"""A server without a model, for the tests of benchmarks: `fake_server.py --port N [--gap S] ...`.

--gap: seconds between its tokens.  --short: tokens that it leaves out.  --refuse: it answers 400.
Every token's text is one letter; the last event has none, and the usage comes after it.  Flags that
it does not know are ignored, as are all fields but max_tokens.
"""

import argparse
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int, default=0)
parser.add_argument("--gap", type=float, default=0.002)
parser.add_argument("--short", type=int, default=0)
parser.add_argument("--refuse", action="store_true")
parser.add_argument("--version", action="store_true")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.close_connection = True
        if args.refuse:
            self.send_response(400)
            self.end_headers()
            self.wfile.write(b"I refuse")
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        n_tokens = asked["max_tokens"] - args.short
        for _ in range(n_tokens):
            time.sleep(args.gap)
            self.event([{"text": "x", "finish_reason": None}])
        self.event([{"text": "", "finish_reason": "length"}])
        self.event([], usage={"completion_tokens": n_tokens})
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")

    def event(self, choices, **more):
        data = b"data: " + json.dumps({"choices": choices, **more}).encode() + b"\n\n"
        half = len(data) // 2  # an event may come in two pieces
        self.chunk(data[:half])
        self.chunk(data[half:])

    def chunk(self, data):
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def log_message(self, *_):
        pass


args, _ = parser.parse_known_args()
if args.version:
    sys.stdout.write("version: fake 1\n")
else:
    ThreadingHTTPServer(("127.0.0.1", args.port), Handler).serve_forever()
