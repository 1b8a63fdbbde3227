"""A web server in a thread that serves a folder, counts what is fetched, and fails when it is told to."""

import threading
import time
from collections import Counter
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any


class FileServer:
    """Serves a folder at ``url`` as long as the ``with`` block lasts."""

    def __init__(self, folder: Path) -> None:
        self.fetched: Counter[str] = Counter()  # how often each file was asked for
        self.failures = 0  # how many of the next fetches are answered with an error
        self.cuts = 0  # how many of the next fetches end in the middle
        self.delay_s = 0.0  # how long a fetch takes
        owner = self

        class Handler(SimpleHTTPRequestHandler):
            def __init__(self, *args: Any) -> None:
                super().__init__(*args, directory=str(folder))

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                owner.fetched[self.path.strip("/")] += 1
                if owner.failures:
                    owner.failures -= 1
                    self.send_error(503)
                else:
                    super().do_GET()

            def copyfile(self, source: Any, target: Any) -> None:
                data = source.read()
                half = len(data) // 2
                target.write(data[:half])
                target.flush()
                time.sleep(owner.delay_s)
                if owner.cuts:
                    owner.cuts -= 1
                    self.close_connection = True
                else:
                    target.write(data[half:])

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "FileServer":
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
