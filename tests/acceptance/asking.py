"""Clients that ask over HTTP without a pause, and what became of each question."""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

PATIENCE_S = 120.0


@dataclass
class Crowd:
    """Who asks, and how each question ended: its status, or the name of what broke instead of an answer."""

    url: str
    token: str = field(repr=False)
    ends: list[int | str] = field(default_factory=list[int | str])
    answers: list[httpx.Response] = field(default_factory=list[httpx.Response])

    def ask(self, client: httpx.Client, sql: str, *, again: bool) -> None:
        """Ask once. Without `again` the connection is given up afterwards."""
        headers = {"Authorization": f"Bearer {self.token}"} | ({} if again else {"Connection": "close"})
        try:
            answer = client.post(f"{self.url}/v1/query", json={"sql": sql}, headers=headers)
        except httpx.TransportError as error:
            self.ends.append(type(error).__name__)
        else:
            self.answers.append(answer)
            self.ends.append(answer.status_code)


@contextmanager
def asking(url: str, token: str, sql: str, *, clients: int) -> Generator[Crowd]:
    """Let clients ask until the block ends, then wait for their last answers. Every second one keeps its connection."""
    crowd, stop = Crowd(url, token), threading.Event()

    def ask(*, again: bool) -> None:
        with httpx.Client(timeout=PATIENCE_S) as client:
            while not stop.is_set():
                crowd.ask(client, sql, again=again)

    threads = [threading.Thread(target=ask, kwargs={"again": bool(place % 2)}) for place in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield crowd
    finally:
        stop.set()
        for thread in threads:
            thread.join()
