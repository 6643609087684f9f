"""A local Google Cloud Storage bucket, and the environment for Google's libraries."""

import gc
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

BUCKET = "bucket"
# A user's credentials. The Python client uses the token that never expires, the C++ client
# requests one.
CREDENTIALS = {
    "type": "authorized_user",
    "client_id": "tests",
    "client_secret": "none",
    "refresh_token": "none",
    "quota_project_id": "p",
    "token": "token",
    "expiry": "2999-01-01T00:00:00Z",
}


@dataclass(frozen=True)
class Cloud:
    """A bucket with the URL `gs://bucket`.

    Attributes:
      environment: variables for processes that use the bucket.
      endpoint: URL of the server.
    """

    environment: dict[str, str]
    endpoint: str

    def url(self, name: str) -> str:
        """Return the URL of a file in the bucket for pyarrow."""
        address = self.endpoint.removeprefix("http://").replace(":", "%3A")
        return f"gs://anonymous@{BUCKET}/{name}?scheme=http&endpoint_override={address}"

    @property
    def _bucket(self) -> storage.Bucket:
        return storage.Client(
            project="p",
            credentials=AnonymousCredentials(),
            client_options={"api_endpoint": self.endpoint},
        ).bucket(BUCKET)

    def upload(self, folder: Path, name: str) -> str:
        """Copy a folder into the bucket and return its URL there."""
        bucket = self._bucket
        for path in folder.rglob("*"):
            if path.is_file():
                key = f"{name}/{path.relative_to(folder).as_posix()}"
                bucket.blob(key).upload_from_filename(str(path))
        return f"gs://{BUCKET}/{name}"

    def files(self, name: str) -> dict[str, bytes]:
        """Return the contents of a folder in the bucket, by relative path."""
        found = self._bucket.list_blobs(prefix=f"{name}/")
        return {blob.name.removeprefix(f"{name}/"): blob.download_as_bytes() for blob in found}


class Answering(BaseHTTPRequestHandler):
    """A handler of HTTP requests that responds in JSON."""

    def answer(self, value: object, status: int = 200) -> None:
        """Send a response."""
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def body(self) -> bytes:
        """Return the body of the request."""
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def log_message(self, format: str, *arguments: object) -> None:
        """Log nothing."""


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    """Run a server on loopback and yield its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


_SERVE = f"""
import json, logging, sys, threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from gcp_storage_emulator.server import create_server

class Tokens(BaseHTTPRequestHandler):
    def do_POST(self):
        token = {{"access_token": "token", "expires_in": 3600, "token_type": "Bearer"}}
        content = json.dumps({{**token, "id_token": "none"}}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass

logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)  # it warns about each response
with (
    HTTPServer(("127.0.0.1", 0), Tokens) as tokens,
    create_server("127.0.0.1", 0, in_memory=True, default_bucket="{BUCKET}") as server,
):
    threading.Thread(target=tokens.serve_forever, daemon=True).start()
    print(server._api._httpd.server_address[1], tokens.server_address[1], flush=True)
    sys.stdin.read()
"""


@contextmanager
def _emulator() -> Iterator[tuple[int, int]]:
    """Run Google Cloud Storage and its token service on loopback; yield their ports.

    They run in a separate process, which exits with this one: pyarrow opens a file there without
    letting other Python threads run.
    """
    with subprocess.Popen(
        [sys.executable, "-c", _SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            storage_port, token_port = map(int, process.stdout.readline().split())
            yield storage_port, token_port
        finally:
            process.stdin.close()


@contextmanager
def local_cloud(folder: Path) -> Iterator[Cloud]:
    """Yield an empty bucket.

    Args:
      folder: for the credentials. Without credentials, Beam would search for them for half a minute
        in each process.
    """
    with _emulator() as (port, token_port):
        endpoint = f"http://127.0.0.1:{port}"
        credentials = folder / "credentials.json"
        credentials.write_text(
            json.dumps({**CREDENTIALS, "token_uri": f"http://127.0.0.1:{token_port}"})
        )
        environment = {
            "STORAGE_EMULATOR_HOST": endpoint,  # read by Google's Python client, that is by Beam
            "CLOUD_STORAGE_EMULATOR_ENDPOINT": endpoint,  # read by Google's C++ client, by pyarrow
            "GOOGLE_APPLICATION_CREDENTIALS": str(credentials),
            "GOOGLE_CLOUD_PROJECT": "p",
            "NO_GCE_CHECK": "true",
            "NO_PROXY": "localhost,127.0.0.1",
            "no_proxy": "localhost,127.0.0.1",
        }
        try:
            yield Cloud(environment, endpoint)
        finally:
            # A failed upload is retried when its file is collected; do that while the server runs.
            gc.collect()
