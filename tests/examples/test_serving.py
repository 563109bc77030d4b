"""`benchmarks/serving.py` against a server that is too busy."""

import http.server
import pathlib
import threading

import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "benchmarks" / "serving.py"


class Busy(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_error(503, "Full")

    def log_message(self, *args):
        pass


def test_an_error_ends_the_measurement(load_script):
    """Otherwise the table would have fewer clients than it says."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Busy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(SystemExit, match="503"):
            load_script(SCRIPT).measure(server.server_port, 2, 0.2)
    finally:
        server.shutdown()
        server.server_close()
