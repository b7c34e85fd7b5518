"""One replay server for all tests of a module, since starting one takes half a second."""

import json
from collections import Counter
from typing import Final

import httpx

from tests.conftest import Replay

HTTP: Final = httpx.Client(trust_env=False)  # building a client takes longer than the calls of a test


class OneReplay:
    """A server without faults, whose counts begin at zero for each test that takes it."""

    def __init__(self, server: Replay) -> None:
        self.url = server.url
        self.faults()
        self._before = Counter(self._counts())

    def faults(self, **faults: object) -> None:
        """Fail from now on as told; without arguments all is well again."""
        answer = HTTP.post(f"{self.url}/faults", content=json.dumps(faults))
        assert answer.status_code == 200, answer.text

    def stats(self) -> dict[str, int]:
        """How often each method was called in this test."""
        return dict(Counter(self._counts()) - self._before)

    def _counts(self) -> dict[str, int]:
        return HTTP.get(f"{self.url}/stats").json()["counts"]
