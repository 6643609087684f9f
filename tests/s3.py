"""A local S3 bucket, and the environment for its clients."""

import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

import boto3
from moto.server import ThreadedMotoServer

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
      address: host and port.
    """

    address: str

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
        return boto3.client("s3", endpoint_url=f"http://{self.address}")


@contextmanager
def local_s3():
    """Run the server, with credentials in the environment of this process and its children."""
    before = {name: os.environ.get(name) for name in KEYS}
    os.environ.update(KEYS)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        running = LocalS3(":".join(map(str, server.get_host_and_port())))
        # The server shares its state with others that this process has run before.
        urlopen(Request(f"http://{running.address}/moto-api/reset", method="POST")).close()
        running._client.create_bucket(Bucket=BUCKET)
        yield running
    finally:
        server.stop()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
