"""The error tree, sorted by what the caller should do: try later, stop and tell, or drop.

A message is one sentence for the user and says what to do. It never holds a URL, a secret, a path of a foreign machine
or SQL text.
"""


class TraceError(Exception):
    """Anything that trace_ray raises on purpose."""


# --- try later ----------------------------------------------------------------------------------------------------


class TransientError(TraceError):
    """The same call may succeed later; the ledger counts it and tries again."""


class SourceUnavailable(TransientError):
    """An RPC provider did not answer, answered with an error, or answered nonsense."""


class MethodMissing(SourceUnavailable):
    """An RPC provider does not offer a method; another way to the same data, or another provider, may help."""


class SourceLied(TransientError):
    """An answer failed an acceptance check. Nothing was published; the provider may lag or lie."""


class EngineCrashed(TransientError):
    """The extraction child ended without a verdict."""


class DeadlineExceeded(TransientError):
    """Work was still running at its deadline and was killed."""


class InfraError(TransientError):
    """Our own side failed, not the range: it spends the budget of lost workers, never the range's attempts."""


class StoreUnavailable(InfraError):
    """The object store did not answer or refused a request that may succeed later."""


class DiskFull(InfraError):
    """The disk of the staging directory is full."""


class DatabaseUnavailable(TransientError):
    """Postgres cannot be reached. Exit code 3."""


class StackUnavailable(TransientError):
    """The local stack (Ray, the Dispatcher) cannot be reached. Exit code 3."""


# --- stop and tell ------------------------------------------------------------------------------------------------


class FatalError(TraceError):
    """Trying again cannot help; a person has to change something."""


class RefusedInput(FatalError):
    """What the user wrote is refused. `problems` holds one sentence per mistake, all of them at once. Exit code 2."""

    def __init__(self, problems: str | list[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class NotFound(RefusedInput):
    """A named job, dataset or snapshot does not exist. Exit code 2."""


class Unauthenticated(RefusedInput):
    """No token, or one that does not hold. The message says what is wrong with it, never what is in it. HTTP 401."""


class ObjectMissing(FatalError):
    """The object store has no object of this key."""


class UnsupportedExtraction(FatalError):
    """The engine or the node cannot produce this dataset."""


class PublicationTooLarge(FatalError):
    """A range is larger than the caps of SPEC section 5; the message advises a lower chunk_size."""


class LedgerConflict(FatalError):
    """A row that must match exactly does not: same identity, other content."""


class SchemaAhead(FatalError):
    """The database was migrated by a newer trace_ray."""


# --- drop ---------------------------------------------------------------------------------------------------------


class FencedError(TraceError):
    """The lease or the epoch is no longer ours: drop the result, write nothing."""
