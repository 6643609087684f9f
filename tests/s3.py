"""A local S3 bucket, reliable or not, and the environment for its clients."""

import os
import socket
import struct
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import Request, urlopen

import boto3
from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

BUCKET = "bucket"
KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
}


@dataclass(frozen=True)
class LocalS3:
    """A local S3 server with one bucket.

    Attributes:
      address: host and port for the product.
      reliable_address: host and port for the test itself, where no request fails.
      faults: kinds of the failures so far, one for each failed request.
      denied: ends of the names of objects to which the product has no access.
    """

    address: str
    reliable_address: str
    faults: list[str] = field(default_factory=list)
    denied: set[str] = field(default_factory=set)

    @property
    def environment(self):
        """Variables by which boto3, which Beam uses, finds it."""
        return {**KEYS, "AWS_ENDPOINT_URL": f"http://{self.address}"}

    def url(self, name):
        """Return the URL of a file in the bucket for pyarrow."""
        address = self.address.replace(":", "%3A")
        return f"s3://{BUCKET}/{name}?endpoint_override={address}&scheme=http"

    def upload(self, folder, name):
        """Copy all files of a folder into the bucket, below a name, and return their URL."""
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                key = f"{name}/{path.relative_to(folder).as_posix()}"
                self._client.upload_file(str(path), BUCKET, key)
        return f"s3://{BUCKET}/{name}"

    def files(self, name):
        """Return the contents of all objects below a name, by relative path."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=BUCKET, Prefix=f"{name}/"
        )
        keys = [each["Key"] for page in pages for each in page.get("Contents", [])]
        return {
            key.removeprefix(f"{name}/"): self._client.get_object(Bucket=BUCKET, Key=key)[
                "Body"
            ].read()
            for key in keys
            if not key.endswith("/")  # pyarrow's folder markers
        }

    @property
    def _client(self):
        return boto3.client("s3", endpoint_url=f"http://{self.reliable_address}")


class Flaky:
    """A WSGI application that fails one request in `every`, in turn in each of these ways.

    `busy`: status 503 in place of an answer; `lost`: the request is carried out, but answered by
    status 500; `reset`: the connection is reset in place of an answer; `cut`: it ends after half
    of the answer, or is reset if the answer is empty.
    """

    KINDS = ("busy", "lost", "reset", "cut")

    def __init__(self, app, every, faults):
        self._app, self._every, self._faults = app, every, faults
        self._lock, self._count = threading.Lock(), 0

    def __call__(self, environ, start_response):
        with self._lock:
            self._count += 1
            if self._count % self._every:
                kind = ""
            else:
                kind = self.KINDS[len(self._faults) % len(self.KINDS)]
                self._faults.append(kind)
        if not kind:
            return self._app(environ, start_response)
        if kind in ("busy", "reset"):
            # Or the client would see a reset while it sends.
            sent = environ["wsgi.input"]
            sent.read(*() if environ.get("wsgi.input_terminated") else (_length(environ),))
            status, headers, content = "503 Slow Down", [], b""
        else:
            started = []
            answer = self._app(environ, lambda *given: started.append(given))
            content = b"".join(answer)
            status, headers = started[0][:2]
        if kind in ("busy", "lost"):
            status = status if kind == "busy" else "500 Internal Server Error"
            start_response(status, [("Content-Length", "0")])
            return [b""]
        if content:
            kept = [each for each in headers if each[0].lower() != "content-length"]
            start_response(status, [*kept, ("Content-Length", str(len(content)))])
            return [content[: len(content) // 2]]
        connection = environ["werkzeug.socket"]
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # Without it, the server would wait for another request before it closes the connection.
        connection.shutdown(socket.SHUT_RD)
        raise ConnectionResetError


def _length(environ):
    return int(environ.get("CONTENT_LENGTH") or 0)


def _denying(app, denied):
    """Return a WSGI application that refuses access to the objects whose names end so."""

    def answer(environ, start_response):
        if not environ["PATH_INFO"].endswith(tuple(denied)):
            return app(environ, start_response)
        content = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(content)))]
        start_response("403 Forbidden", headers)
        return [content]

    return answer


@contextmanager
def _serving(app):
    """Run a WSGI application on loopback and yield its host and port."""
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def local_s3(fail_every=0):
    """Run the server, with credentials in the environment of this process and its children.

    Only one at a time: all share the state of this process, which is cleared at the start.

    Args:
      fail_every: every how many requests of the product one fails, as `Flaky` says; 0 for none.
    """
    before = {name: os.environ.get(name) for name in KEYS}
    os.environ.update(KEYS)
    app, faults, denied = DomainDispatcherApplication(create_backend_app), [], set()
    flaky = _denying(Flaky(app, fail_every, faults) if fail_every else app, denied)
    try:
        with _serving(app) as reliable, _serving(flaky) as address:
            running = LocalS3(address, reliable, faults, denied)
            urlopen(Request(f"http://{reliable}/moto-api/reset", method="POST")).close()
            running._client.create_bucket(Bucket=BUCKET)
            yield running
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
