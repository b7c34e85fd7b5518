"""Headers, transactions and withdrawals as consensus hashes them: checks on fields that no table keeps. Pure.

They say more than the receipts root does: that every field of a block and of its transactions is right, but for the
sender, which is recovered from the signature. A form that is not known here proves nothing.
Sources: yellow paper, EIP-2718, 2930, 1559, 4895, 4844, 4788, 7685, 7702.
"""

from collections.abc import Callable
from typing import Any, Final

from eth_hash.auto import keccak

from trace_ray.errors import SourceLied
from trace_ray.extract.rlp import Rlp, encode, number
from trace_ray.extract.roots import ordered_root

Json = dict[str, Any]  # an object of an answer: strangers wrote it, and every use of a field checks it

HEADER_HASH: Final = "header_hash"
TRANSACTIONS_ROOT: Final = "transactions_root"
WITHDRAWALS_ROOT: Final = "withdrawals_root"


def prove(block: Json, block_number: int, *, is_strict: bool) -> frozenset[str]:
    """Return the names of the checks that a block from `eth_getBlockByNumber` passed.

    A check is left out when the block is of an unknown form, or holds hashes instead of transactions.

    Args:
        is_strict: The chain follows Ethereum; on others a difference only means that the form is unknown.

    Raises:
        SourceLied: a known form does not give the hash that the block names.
    """
    passed: set[str] = set()
    for name, (expected, found) in _commitments(block).items():
        if expected == found:
            passed.add(name)
        elif is_strict:
            raise SourceLied(f"{name}: block {block_number} differs from what its header commits to")
    return frozenset(passed)


def _commitments(block: Json) -> dict[str, tuple[Any, Any]]:
    """Return by check what the block names and what its fields give; unknown forms are left out."""
    found: dict[str, tuple[Any, Any]] = {}
    if (header := _header(block)) is not None:
        found[HEADER_HASH] = (_raw(block["hash"]), keccak(header))
    transactions = block["transactions"]
    if not transactions or isinstance(transactions[0], dict):
        encoded = [transaction_bytes(one) for one in transactions]
        if (known := [one for one in encoded if one is not None]) == encoded:
            names = [_raw(block["transactionsRoot"]), *(_raw(one["hash"]) for one in transactions)]
            found[TRANSACTIONS_ROOT] = (names, [ordered_root(known), *map(keccak, known)])
    if block.get("withdrawalsRoot") is not None and block.get("withdrawals") is not None:
        withdrawals = [encode([_WITHDRAWAL[key](one[key]) for key in _WITHDRAWAL]) for one in block["withdrawals"]]
        found[WITHDRAWALS_ROOT] = (_raw(block["withdrawalsRoot"]), ordered_root(withdrawals))
    return found


# --- fields -------------------------------------------------------------------------------------------------------


def _raw(text: str) -> bytes:
    return bytes.fromhex(text[2:])


def _count(text: str) -> bytes:
    return number(int(text, 16))


def _raw_or_nothing(text: str | None) -> bytes:
    return _raw(text) if text else b""


def _raws(texts: list[str]) -> Rlp:
    return [_raw(text) for text in texts]


def _access_list(entries: list[Json]) -> Rlp:
    return [[_raw(entry["address"]), _raws(entry["storageKeys"])] for entry in entries]


def _authorizations(entries: list[Json]) -> Rlp:
    return [[_AUTHORIZATION[key](entry[key]) for key in _AUTHORIZATION] for entry in entries]


Field = Callable[[Any], Rlp]

_AUTHORIZATION: Final[dict[str, Field]] = {
    "chainId": _count,
    "address": _raw,
    "nonce": _count,
    "yParity": _count,
    "r": _count,
    "s": _count,
}
_WITHDRAWAL: Final[dict[str, Field]] = {"index": _count, "validatorIndex": _count, "address": _raw, "amount": _count}

# --- transactions -------------------------------------------------------------------------------------------------

_PRICED: Final[dict[str, Field]] = {"nonce": _count, "gasPrice": _count, "gas": _count}
_CAPPED: Final[dict[str, Field]] = {
    "nonce": _count,
    "maxPriorityFeePerGas": _count,
    "maxFeePerGas": _count,
    "gas": _count,
}
_TARGET: Final[dict[str, Field]] = {"to": _raw_or_nothing, "value": _count, "input": _raw}
_CHAIN: Final[dict[str, Field]] = {"chainId": _count}
_ACCESS: Final[dict[str, Field]] = {"accessList": _access_list}
_BLOBS: Final[dict[str, Field]] = {"maxFeePerBlobGas": _count, "blobVersionedHashes": _raws}
_CODE: Final[dict[str, Field]] = {"authorizationList": _authorizations}
_SIGNATURE: Final[dict[str, Field]] = {"v": _count, "r": _count, "s": _count}

# `v` is the parity in typed transactions; nodes give it under both names
_FORMS: Final = {
    0: _PRICED | _TARGET | _SIGNATURE,
    1: _CHAIN | _PRICED | _TARGET | _ACCESS | _SIGNATURE,
    2: _CHAIN | _CAPPED | _TARGET | _ACCESS | _SIGNATURE,
    3: _CHAIN | _CAPPED | _TARGET | _ACCESS | _BLOBS | _SIGNATURE,
    4: _CHAIN | _CAPPED | _TARGET | _ACCESS | _CODE | _SIGNATURE,
}


def transaction_bytes(transaction: Json) -> bytes | None:
    """Return what is hashed to the transaction's hash, or None when the form is unknown or a field is missing."""
    kind = int(transaction.get("type") or "0x0", 16)
    form = _FORMS.get(kind)
    if form is None or not form.keys() <= transaction.keys():
        return None
    return number(kind) + encode([field(transaction[name]) for name, field in form.items()])


# --- headers ------------------------------------------------------------------------------------------------------

_HEADER: Final[dict[str, Field]] = {
    "parentHash": _raw,
    "sha3Uncles": _raw,
    "miner": _raw,
    "stateRoot": _raw,
    "transactionsRoot": _raw,
    "receiptsRoot": _raw,
    "logsBloom": _raw,
    "difficulty": _count,
    "number": _count,
    "gasLimit": _count,
    "gasUsed": _count,
    "timestamp": _count,
    "extraData": _raw,
    "mixHash": _raw,
    "nonce": _raw,
}
_ADDED: Final[dict[str, Field]] = {  # by the forks since London, each behind the one before
    "baseFeePerGas": _count,
    "withdrawalsRoot": _raw,
    "blobGasUsed": _count,
    "excessBlobGas": _count,
    "parentBeaconBlockRoot": _raw,
    "requestsHash": _raw,
}
_BESIDE: Final = frozenset({"hash", "size", "totalDifficulty", "uncles", "transactions", "withdrawals"})


def _header(block: Json) -> bytes | None:
    """Return what is hashed to the block's hash, or None: fields are missing, or a later fork has added some."""
    present = {name for name, value in block.items() if value is not None}
    added = [name for name in _ADDED if name in present]
    if not _HEADER.keys() <= present or added != list(_ADDED)[: len(added)]:
        return None
    if present - _HEADER.keys() - set(added) - _BESIDE:
        return None
    return encode([field(block[name]) for name, field in (_HEADER | _ADDED).items() if name in present])
