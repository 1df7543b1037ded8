"""Serve a folder on this machine alone: ``python tools/serve.py _build/html --port 8000``."""

import argparse
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def bind(folder: str, first: int, tries: int = 20) -> ThreadingHTTPServer:
    """A server on the first free port from ``first`` on; port 0 means any."""
    handler = partial(SimpleHTTPRequestHandler, directory=folder)
    for port in range(first, first + tries):
        try:
            return ThreadingHTTPServer(("127.0.0.1", port), handler)
        except OSError:
            print(f"Port {port} is taken.")
    sys.exit("No free port found: give another one with --port.")


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a folder on this machine alone.")
    parser.add_argument("folder")
    parser.add_argument("--port", type=int, default=8000, help="first port to try")
    options = parser.parse_args()
    if not (Path(options.folder) / "index.html").exists():
        sys.exit(f"{options.folder} holds no index.html: build the site first (make book).")
    server = bind(options.folder, options.port)
    print(f"The site is at http://127.0.0.1:{server.server_port}/  (Ctrl+C stops)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("\nStopped.")


if __name__ == "__main__":
    main()
