"""Actors as their callers see them, without Ray: names of methods whose calls are awaited."""

from collections.abc import Awaitable
from typing import Any, Protocol


class RemoteMethod(Protocol):
    """A method of an actor as Ray hands it out."""

    def remote(self, *args: object) -> Awaitable[Any]: ...


class WorkerHandle(Protocol):
    """A worker as its callers see it; `CryoWorker` and `Evaluator` of `actors.remote` are the other side.

    Only a CryoWorker knows `head`, only an Evaluator `withdraw`.
    """

    @property
    def run(self) -> RemoteMethod: ...
    @property
    def held(self) -> RemoteMethod: ...
    @property
    def head(self) -> RemoteMethod: ...
    @property
    def withdraw(self) -> RemoteMethod: ...
    @property
    def version(self) -> RemoteMethod: ...


class DispatcherHandle(Protocol):
    """The Dispatcher actor as its callers see it; `actors.remote.Dispatcher` is the other side."""

    @property
    def nudge(self) -> RemoteMethod: ...
    @property
    def status(self) -> RemoteMethod: ...
    @property
    def stop(self) -> RemoteMethod: ...
    @property
    def version(self) -> RemoteMethod: ...
