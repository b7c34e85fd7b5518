"""Turns what Cryo 0.3.2 writes into the stable schema. Pure and strict: a column that is missing or unknown, a number
that does not fit, a NULL where none may be or bytes of a wrong length end in an error, never in a changed value.

Cryo's faults that are mended here: `contracts` has its two code hashes exchanged, a failed creation has 32 zero bytes
for its address, a legacy transaction may have no type, `traces` has its value only as text.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (pyarrow-stubs leave the overloads of pyarrow.compute partly unknown)

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from trace_ray.contracts import Receipts
from trace_ray.errors import PublicationTooLarge, SourceUnavailable, UnsupportedExtraction
from trace_ray.extract.order import in_order
from trace_ray.extract.schema import SCHEMAS, DatasetSchema

ACCEPTED: Final = {  # type in the stable schema -> types that Cryo may write for it
    pa.int32(): (pa.uint32(), pa.uint64()),
    pa.int64(): (pa.uint32(), pa.uint64(), pa.int64()),
    pa.binary(): (pa.large_binary(), pa.binary()),
    pa.string(): (pa.large_string(), pa.string()),
    pa.bool_(): (pa.bool_(),),
}
ADDRESSES: Final = frozenset({"address", "author", "erc20", "deployer", "factory", "action_from", "action_to"})
RECEIPT_COLUMNS: Final = ("gas_used", "success")
MAX_COLUMN_BYTES: Final = 2**31 - 1  # 32-bit offsets of a binary column

Column: TypeAlias = "pa.ChunkedArray[Any]"


def conform(table: pa.Table, name: str, *, chain_id: int, receipts: Receipts) -> pa.Table:
    """Return Cryo's rows of dataset `name` in the stable schema and order.

    Raises:
        UnsupportedExtraction: other columns or types than Cryo 0.3.2 writes, or a number that does not fit.
        SourceUnavailable: the provider's answers were incomplete, or of another chain.
        PublicationTooLarge: a column holds more bytes than one table can.
    """
    dataset = SCHEMAS[name]
    adapt = ADAPTATIONS.get(name)
    adapted = adapt(table) if adapt else table
    if name == "transactions" and receipts is Receipts.NONE:
        for column, kind in zip(RECEIPT_COLUMNS, (pa.int64(), pa.bool_()), strict=True):
            adapted = adapted.append_column(column, pa.nulls(adapted.num_rows, kind))
    _check_names(adapted, name, dataset)
    columns = [_column(adapted.column(field.name), field, name) for field in dataset.columns]
    conformed = pa.Table.from_arrays(columns, schema=dataset.columns)
    found = [value for value in pc.unique(conformed.column("chain_id")).to_pylist() if value != chain_id]
    if found:
        raise SourceUnavailable(
            f"the provider answered for chain {found[0]}, the job wants {chain_id}: mend the pool's URL"
        )
    return in_order(conformed, dataset)


def _check_names(table: pa.Table, name: str, dataset: DatasetSchema) -> None:
    missing = sorted(set(dataset.columns.names) - set(table.column_names))
    unknown = sorted(set(table.column_names) - set(dataset.columns.names))
    if missing or unknown or len(table.column_names) != len(dataset.columns):
        raise UnsupportedExtraction(
            f"Cryo wrote other columns of {name} than expected (missing: {', '.join(missing) or 'none'}; "
            f"unknown: {', '.join(unknown) or 'none'}): install cryo 0.3.2 or set TRACE_ENGINE=native"
        )


def _column(column: Column, field: "pa.Field[Any]", name: str) -> Column:
    if column.type != field.type and column.type not in ACCEPTED[field.type]:
        raise UnsupportedExtraction(
            f"Cryo wrote {name}.{field.name} as {column.type}, {field.type} is expected: "
            "install cryo 0.3.2 or set TRACE_ENGINE=native"
        )
    if not field.nullable and column.null_count:
        raise SourceUnavailable(
            f"{column.null_count} rows of {name} have no {field.name}: the provider's answers are incomplete, "
            "use another provider"
        )
    if column.nbytes > MAX_COLUMN_BYTES:
        raise PublicationTooLarge(f"{name}.{field.name} of one range exceeds 2 GiB: lower chunk_size")
    try:
        cast = column.cast(field.type)
    except pa.ArrowInvalid as error:
        raise UnsupportedExtraction(
            f"a value of {name}.{field.name} does not fit {field.type}: take {name} out of the job for this chain"
        ) from error
    _check_width(cast, field, name)
    return cast


def _check_width(column: Column, field: "pa.Field[Any]", name: str) -> None:
    width = _width(field.name)
    if width is None or field.type != pa.binary() or column.null_count == len(column):
        return
    if pc.unique(pc.binary_length(column.drop_null())).to_pylist() != [width]:
        raise SourceUnavailable(f"{name}.{field.name} does not hold {width} bytes in every row: use another provider")


def _width(name: str) -> int | None:
    """Return how many bytes each value of a binary column has, or None where it varies."""
    if name in ADDRESSES or name.endswith("_address"):
        return 20
    if name.endswith(("_hash", "_root", "_binary")) or name.startswith("topic"):
        return 32
    return {"logs_bloom": 256, "signature": 4}.get(name)


# --- what Cryo does otherwise -------------------------------------------------------------------------------------


def _replaced(table: pa.Table, name: str, column: "Column | pa.Array[Any]") -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, column)


def _require(table: pa.Table, name: str, *columns: str) -> None:
    missing = sorted(set(columns) - set(table.column_names))
    if missing:
        raise UnsupportedExtraction(f"Cryo wrote no {name}.{missing[0]}: install cryo 0.3.2 or set TRACE_ENGINE=native")


def _transactions(table: pa.Table) -> pa.Table:
    """A transaction without a type is a legacy one (EIP-2718): old nodes name no type for those."""
    _require(table, "transactions", "transaction_type")
    kinds = table.column("transaction_type")
    return _replaced(table, "transaction_type", pc.fill_null(kinds, pa.scalar(0, kinds.type)))


def _contracts(table: pa.Table) -> pa.Table:
    """Cryo's `code_hash` is the hash of the init code, and its `init_code_hash` the hash of the code."""
    exchanged = {"code_hash": "init_code_hash", "init_code_hash": "code_hash"}
    return table.rename_columns([exchanged.get(name, name) for name in table.column_names])


def _native_transfers(table: pa.Table) -> pa.Table:
    _require(table, "native_transfers", "to_address")
    to = table.column("to_address")
    is_none = pc.equal(to, pa.scalar(bytes(32), to.type))
    return _replaced(table, "to_address", pc.if_else(is_none, pa.scalar(None, to.type), to))


def _traces(table: pa.Table) -> pa.Table:
    _require(table, "traces", "action_value")
    values = table.column("action_value")
    table = table.drop_columns(["action_value"])
    table = table.append_column("action_value_string", values)
    return table.append_column("action_value_binary", _u256_binary(values))


def _geth_calls(table: pa.Table) -> pa.Table:
    """Gas is an ordinary number here; paths are joined by `_` as in traces."""
    _require(table, "geth_calls", "gas_string", "gas_used_string", "gas_binary", "gas_used_binary", "trace_address")
    for name in ("gas", "gas_used"):
        try:
            gas = table.column(f"{name}_string").cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise UnsupportedExtraction(
                f"a value of geth_calls.{name} does not fit int64: take geth_calls out of the job for this chain"
            ) from error
        table = table.drop_columns([f"{name}_string", f"{name}_binary"]).append_column(name, gas)
    return _replaced(table, "trace_address", pc.replace_substring(table.column("trace_address"), " ", "_"))


def _u256_binary(decimals: Column) -> "pa.Array[Any]":
    try:
        values = [None if text is None else int(text).to_bytes(32, "big") for text in decimals.to_pylist()]
    except (OverflowError, ValueError) as error:
        raise SourceUnavailable("a trace's value is no 256-bit number: use another provider") from error
    return pa.array(values, pa.binary())


ADAPTATIONS: Final[dict[str, Callable[[pa.Table], pa.Table]]] = {
    "transactions": _transactions,
    "contracts": _contracts,
    "native_transfers": _native_transfers,
    "traces": _traces,
    "geth_calls": _geth_calls,
}
