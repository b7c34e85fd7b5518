"""The lock of a data directory: whoever starts or stops a stack is alone."""

import fcntl
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone(data_dir: Path) -> Generator[None]:
    """Hold the lock: two `up` at once do the work of one. It ends with its process, however that ends."""
    data_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
    with (data_dir / "stack.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
