"""An S3-compatible server with one empty bucket, for a run that is not a pytest session."""

import contextlib
import secrets
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import httpx
import s3fs

from tests.conftest import free_port, wait_until

BUCKET = "chaos"


@dataclass(frozen=True)
class S3:
    endpoint: str
    access_key: str
    secret_key: str
    bucket: str = BUCKET


@contextlib.contextmanager
def s3_server(directory: Path) -> Generator[S3]:
    """Serve a directory as a bucket until the block ends."""
    directory.mkdir()
    server = S3(f"http://127.0.0.1:{free_port()}", "trace" + secrets.token_hex(4), secrets.token_hex(16))
    command = [str(Path(sys.executable).parent / "rclone"), "serve", "s3", str(directory)]
    keys = ["--auth-key", f"{server.access_key},{server.secret_key}"]
    with directory.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *keys, "--addr", server.endpoint.removeprefix("http://")], stdout=log, stderr=log
        )

    def answers() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(server.endpoint).status_code < 500
        return False

    try:
        wait_until(answers, what="the S3 server")
        s3fs.S3FileSystem(
            key=server.access_key, secret=server.secret_key, endpoint_url=server.endpoint, skip_instance_cache=True
        ).mkdir(server.bucket)
        yield server
    finally:
        process.terminate()
        process.wait(10)
