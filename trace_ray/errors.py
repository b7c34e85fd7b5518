"""The error tree, sorted by what the caller should do: try later, stop and tell, or drop.

A message is one sentence for the user and says what to do. It never holds a URL, a secret, a path of a foreign machine
or SQL text.
"""

from enum import StrEnum
from typing import Final


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


class KeysUnavailable(TransientError):
    """The keys that tokens are checked with cannot be fetched."""


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


class TokenFault(StrEnum):
    """Why a token is refused. Safe to tell: it says nothing about keys, users or datasets."""

    MALFORMED = "malformed"
    UNKNOWN_KEY = "unknown_key"
    SIGNATURE = "signature"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    ISSUER = "issuer"
    AUDIENCE = "audience"
    CLAIM = "claim"
    UNKNOWN_USER = "unknown_user"
    ENDED = "ended"
    GRANT_CHANGED = "grant_changed"


TOKEN_FAULTS: Final = {
    TokenFault.MALFORMED: "it is not a token of trace_ray: copy it whole",
    TokenFault.UNKNOWN_KEY: "its key is not known here: get a new one",
    TokenFault.SIGNATURE: "its signature is wrong: copy it whole, or get a new one",
    TokenFault.EXPIRED: "it has expired: get a new one",
    TokenFault.NOT_YET_VALID: "it is not valid yet: check the clocks",
    TokenFault.ISSUER: "somebody else issued it: get one from this installation",
    TokenFault.AUDIENCE: "it is for another purpose: people and tasks have tokens of their own",
    TokenFault.CLAIM: "it lacks a claim, or one is wrong: get a new one",
    TokenFault.UNKNOWN_USER: "its user may not ask here: let an operator add or enable the user",
    TokenFault.ENDED: "its attempt does not run any more: stop asking",
    TokenFault.GRANT_CHANGED: "what it grants has changed: get a new one",
}


class Unauthenticated(RefusedInput):
    """No token, or one that does not hold. The message says what is wrong with it, never what is in it. HTTP 401."""


class TokenRefused(Unauthenticated):
    """A token does not hold, and why."""

    def __init__(self, reason: TokenFault) -> None:
        self.reason = reason
        super().__init__(f"the token is refused: {TOKEN_FAULTS[reason]}")


class BundleFault(StrEnum):
    """Why a bundle is rejected (docs/reference/bundles.md). In the order in which it is checked."""

    SIZE = "size"
    SHA_MISMATCH = "sha_mismatch"
    ENVELOPE = "envelope"
    SIG_UNTRUSTED_KEY = "sig_untrusted_key"
    SIG_EXPIRED = "sig_expired"
    SIG_REVOKED = "sig_revoked"
    SIG_INVALID = "sig_invalid"
    SUBJECT_MISMATCH = "subject_mismatch"
    MANIFEST_FIELDS = "manifest_fields"
    SIG_LANGUAGE = "sig_language"
    ZIP_POLYGLOT = "zip_polyglot"
    ZIP_MALFORMED = "zip_malformed"
    ZIP_ENCRYPTED = "zip_encrypted"
    ZIP_PATH = "zip_path"
    ZIP_SPECIAL = "zip_special"
    ZIP_BOMB = "zip_bomb"
    ZIP_DUP = "zip_dup"
    ZIP_CASE_COLLISION = "zip_case_collision"
    ZIP_OVERLAP = "zip_overlap"
    ZIP_MANIFEST_MISMATCH = "zip_manifest_mismatch"
    FILE_SHA_MISMATCH = "file_sha_mismatch"
    REVOKED = "revoked"
    UNREADABLE = "unreadable"


class BundleRejected(RefusedInput):
    """A bundle breaks a rule, and which one. Nothing of it runs, and trying again cannot help."""

    def __init__(self, code: BundleFault, message: str) -> None:
        self.code = code
        self._message = message
        super().__init__(f"the bundle is rejected ({code}): {message}")

    def __reduce__(self) -> tuple[type["BundleRejected"], tuple[BundleFault, str]]:
        return type(self), (self.code, self._message)  # it may end a call of an actor


class ObjectMissing(FatalError):
    """The object store has no object of this key."""


class UnsupportedExtraction(FatalError):
    """The engine or the node cannot produce this dataset."""


class PublicationTooLarge(FatalError):
    """A range is larger than the caps of SPEC section 5; the message advises a lower chunk_size."""


class DestinationRefused(FatalError):
    """Deliveries must not go to this place: its URL or one of its addresses is not public, or not safe."""


class LedgerConflict(FatalError):
    """A row that must match exactly does not: same identity, other content."""


class SchemaAhead(FatalError):
    """The database was migrated by a newer trace_ray."""


# --- drop ---------------------------------------------------------------------------------------------------------


class FencedError(TraceError):
    """The lease or the epoch is no longer ours: drop the result, write nothing."""
