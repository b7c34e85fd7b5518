"""Puts rows into the order of the stable schema. Pure."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (pyarrow-stubs leave the overloads of pyarrow.compute partly unknown)

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from trace_ray.extract.schema import DatasetSchema


def in_order(table: pa.Table, dataset: DatasetSchema) -> pa.Table:
    """Return the rows sorted as `dataset` says; rows that tie keep their order, NULL comes last."""
    keys = table.select(list(dataset.sort))
    if "trace_address" in dataset.sort:
        place = keys.schema.get_field_index("trace_address")
        keys = keys.set_column(place, "trace_address", _ranks(keys.column("trace_address")))
    places = pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in dataset.sort])
    if places.equals(pa.array(range(table.num_rows), places.type)):
        return table
    return table.take(places)


def _ranks(paths: "pa.ChunkedArray[Any]") -> "pa.Array[Any]":
    """Return a number for each path that sorts as the path does: `2` before `10`, a call before its children."""
    distinct = pc.unique(paths).to_pylist()
    ranked = sorted(distinct, key=lambda path: [int(step) for step in (path or "").split("_") if step])
    return pc.index_in(paths, value_set=pa.array(ranked, pa.string()))
