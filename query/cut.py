"""How many rows fit into so many bytes. Pure; the engine's process and the service count alike."""

import pyarrow as pa


def fitting(rows: pa.RecordBatch | pa.Table, room: int) -> int:
    """Return how many leading rows fit into `room` bytes."""
    if rows.nbytes <= room:
        return rows.num_rows
    low, high = 0, rows.num_rows
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if rows.slice(0, middle).nbytes <= room else (low, middle - 1)
    return low
