"""What attempts offer to the registry, a batch at a time: what the ledger knows of them, and their registration.

Serves `tasks.complete`, which decides. Everything is written in bulk, so it is passed as packed arrays.
"""

from collections.abc import Sequence
from typing import Final

import orjson

from state import arrays
from state.db import Connection, ask, statements
from state.judge import Known, Place, coherent
from state.neighbours import Neighbours, spans
from trace_ray.contracts import BlockRange, Certificate, Epoch, Publication

SQL: Final = statements("tasks")

Judged = tuple[Known, Place]


def judge(
    conn: Connection, epoch: Epoch, publications: Sequence[Publication]
) -> tuple[list[bool], list[Judged | None]]:
    """Return which publications are coherent and what the ledger knows of their attempts, both in order.

    None where there is no such task. In a pipeline the first is found out while the server looks the second up.
    """
    parameters = {
        "tasks": arrays.uuids(publication.attempt.task_id for publication in publications),
        "attempts": arrays.ints([publication.attempt.attempt for publication in publications]),
        "epoch": epoch,
    }
    extents = ((publication.dataset_uuid, publication.blocks) for publication in publications)
    tasks = ask(conn, SQL["judge"], parameters)
    versions = ask(conn, SQL["neighbours"], spans(extents))
    sound = [coherent(publication) for publication in publications]
    judged: list[Judged | None] = [None] * len(publications)
    published = Neighbours.of_rows(versions.fetchall())
    for row in tasks.fetchall():
        position, state, attempt, lease_token, attempt_token, generation, dataset, start, end, *rest = row
        blocks = BlockRange(start, end)
        around = published.around(dataset, blocks)
        chain_id, key, config_hash = rest
        place = Place(
            generation, dataset, blocks, chain_id, key, config_hash,
            around.before_hash, around.after_hash, around.covered_generation,
        )  # fmt: skip
        judged[position - 1] = Known(state, attempt, lease_token, attempt_token), place
    return sound, judged


def register(conn: Connection, epoch: Epoch, accepted: Sequence[Publication]) -> None:
    """Finish attempts that were judged in this transaction, and register what they offer."""
    proofs = [publication.certificate for publication in accepted]
    versions = arrays.uuids(publication.dataset_version for publication in accepted)
    parameters = {
        "tasks": arrays.uuids(publication.attempt.task_id for publication in accepted),
        "attempts": arrays.ints([publication.attempt.attempt for publication in accepted]),
        "tokens": arrays.uuids(publication.attempt.lease_token for publication in accepted),
        "epoch": epoch,
        "versions": versions,
        "rows": arrays.bigints([publication.rows for publication in accepted]),
        "digests": arrays.texts(publication.digest for publication in accepted),
        "parents": arrays.blobs(proof.parent_hash for proof in proofs),
        "ends": arrays.blobs(proof.end_hash for proof in proofs),
        "certificates": arrays.documents(orjson.dumps(document(proof)) for proof in proofs),
        "seconds": arrays.documents(orjson.dumps(dict(publication.seconds)) for publication in accepted),
    }
    conn.execute(SQL["complete"], parameters)
    _add_files(conn, accepted)
    if any(publication.generation for publication in accepted):
        conn.execute(SQL["replace"], {"versions": versions})


def _add_files(conn: Connection, accepted: Sequence[Publication]) -> None:
    placed = [
        (publication.dataset_version, position)
        for publication in accepted
        for position, _ in enumerate(publication.files)
    ]
    files = [file for publication in accepted for file in publication.files]
    parameters = {
        "versions": arrays.uuids(version for version, _ in placed),
        "positions": arrays.ints([position for _, position in placed]),
        "keys": arrays.texts(file.key for file in files),
        "bytes": arrays.bigints([file.bytes for file in files]),
        "rows": arrays.bigints([file.rows for file in files]),
        "digests": arrays.texts(file.digest for file in files),
        "mins": arrays.bigints([file.min_block for file in files]),
        "maxs": arrays.bigints([file.max_block for file in files]),
    }
    conn.execute(SQL["add_files"], parameters)


def document(certificate: Certificate) -> dict[str, object]:
    """The certificate without its two hashes, which have columns of their own."""
    return {
        "level": certificate.level,
        "checks": certificate.checks,
        "receipts": certificate.receipts,
        "engine": certificate.engine,
        "engine_version": certificate.engine_version,
        "engine_digest": certificate.engine_digest,
        "engine_arguments": certificate.engine_arguments,
        "provider": certificate.provider,
    }
