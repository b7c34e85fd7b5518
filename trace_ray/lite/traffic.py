"""What happens on the devnet: the transactions of each block. Pure: the same arguments give the same transactions.

Every kind of thing that an indexer meets is in it: all transaction types (0 to 4), token transfers and approvals,
mints, internal calls with value, logs without topics, logs of delegated accounts, reverts, calls out of gas, creations
at the top, inside a call and failed, and empty blocks. The first blocks show one of each; then chance decides.

Blob transactions come signed and without their blobs, as they stand in blocks. With blobs, anvil 1.7.1 puts them into
its transactions root, which no reader can then recompute (foundry-rs/foundry issue 15132). Their sender is to be
impersonated: then the node does not ask for the blobs.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Final

from eth_hash.auto import keccak
from eth_keys.datatypes import PrivateKey

from trace_ray.extract.rlp import Rlp, encode, number
from trace_ray.lite import abi

Fields = dict[str, object]
Transaction = Fields | str  # what eth_sendTransaction takes, or signed bytes for eth_sendRawTransaction
Maker = Callable[[random.Random], Transaction]

CHAIN_ID: Final = 31337
SETUP_BLOCKS: Final = 3
EMPTY_EVERY: Final = 50  # blocks; real chains have empty blocks, and readers stumble over them
RECIPIENTS: Final = 50  # few, as the node hashes every account and every slot for every block
SPENDERS: Final = 5  # as on real chains, where exchanges hold most allowances; each pair takes a slot
AUTHORITIES: Final = 4
BLOBS_PER_BLOCK: Final = 6  # Prague's target (EIP-7691): the blob fee stays at its minimum, no transaction waits
COMMITMENT_BYTES: Final = 48

GWEI: Final = 10**9
MAX_FEE: Final = 6 * GWEI
MAX_BLOB_FEE: Final = GWEI
SUPPLY: Final = 10**30
SHARE: Final = 10**27
ALLOWANCE: Final = 10**26
UNLIMITED: Final = 2**abi.WORD_BITS - 1

TYPES: Final = (2, 0, 2, 1, 2, 0, 2, 2, 0, 2)  # in turn, where the kind leaves the choice
ACCESS_LIST_GAS: Final = 2_400 + 1_900  # one address, one slot (EIP-2930)
TRANSFER_GAS: Final = 21_000
NOTE_GAS: Final = 30_000  # 64 bytes of calldata cost up to 23,560 (EIP-7623)
CALL_GAS: Final = 200_000
HEAVY_GAS: Final = 900_000
TOO_LITTLE_GAS: Final = 25_000  # enough to enter a token transfer, not to finish it
REVERTING_INIT_CODE: Final = "0x60006000fd"
APPROVE: Final = "approve(address,uint256)"
TOTAL_SUPPLY_SLOT: Final = 2
COINBASE: Final = abi.named_address("trace_ray devnet coinbase")
NOBODY: Final = "0x" + "00" * 20  # delegating to it takes a delegation back (EIP-7702)


# --- signers ------------------------------------------------------------------------------------------------------


class Signer:
    """An account outside the node. Its key is public knowledge, like all keys of a devnet."""

    def __init__(self, name: str) -> None:
        self._key = PrivateKey(keccak(f"trace_ray devnet {name}".encode()))
        self.address: Final = "0x" + self._key.public_key.to_canonical_address().hex()

    def authorize(self, code: str, *, nonce: int) -> dict[str, str]:
        """Return a signed item of an authorization list (EIP-7702): this account takes over the code of another."""
        parity, r, s = self._sign(0x05, [number(CHAIN_ID), abi.raw_address(code), number(nonce)])
        signature = {"yParity": hex(parity), "r": hex(r), "s": hex(s)}
        return {"chainId": hex(CHAIN_ID), "address": code, "nonce": hex(nonce), **signature}

    def carry_blobs(self, to: str, versioned_hashes: Sequence[bytes], *, nonce: int, tip: int) -> str:
        """Return a signed blob transaction as blocks hold it (EIP-4844), that is without its blobs."""
        fields: list[Rlp] = [
            *map(number, (CHAIN_ID, nonce, tip, MAX_FEE, TRANSFER_GAS)),
            abi.raw_address(to),
            *(number(0), b"", []),  # value, data, access list
            *(number(MAX_BLOB_FEE), versioned_hashes),
        ]
        signature = self._sign(0x03, fields)
        return "0x03" + encode([*fields, *map(number, signature)]).hex()

    def _sign(self, kind: int, fields: Sequence[Rlp]) -> tuple[int, int, int]:
        signature = self._key.sign_msg_hash(keccak(number(kind) + encode(fields)))
        return signature.v, signature.r, signature.s


# --- traffic ------------------------------------------------------------------------------------------------------


class Traffic:
    """The transactions of one chain, in order. Keeps the nonces: what it hands out must be mined, in that order."""

    def __init__(self, accounts: Sequence[str]) -> None:
        self._accounts = [account.lower() for account in accounts]
        self._recipients = [abi.named_address(f"trace_ray devnet recipient {i}") for i in range(RECIPIENTS)]
        self._spenders = self._recipients[:SPENDERS]
        self._authorities = [Signer(f"authority {i}") for i in range(AUTHORITIES)]
        self.blob_sender: Final = Signer("blob sender")
        self._nonces: dict[str, int] = dict.fromkeys(self.senders, 0)
        self._token = self._nft = self._multi = NOBODY
        self._made = self._delegated = self._blobs_left = 0
        weights: Mapping[Maker, int] = {
            self._pay: 270,
            self._pay_with_note: 50,
            self._send_tokens: 350,
            self._approve: 80,
            self._move_tokens: 70,
            self._mint_nft: 15,
            self._fan_out: 60,
            self._revert: 35,
            self._run_out_of_gas: 25,
            self._create: 2,  # what is created stays, and lengthens every later block
            self._create_inside: 2,
            self._fail_to_create: 5,
            self._carry_blobs: 15,
            self._delegate: 10,
        }
        self._makers, self._weights = list(weights), list(weights.values())

    @property
    def senders(self) -> list[str]:
        """Return every account whose nonce counts here."""
        return [*self._accounts, *(signer.address for signer in (*self._authorities, self.blob_sender))]

    def resume(self, nonces: Mapping[str, int]) -> None:
        """Go on from the nonces of the chain: somebody else may have sent transactions meanwhile."""
        self._nonces = dict(nonces)

    def setup(self) -> list[Sequence[Transaction]]:
        """Return the blocks that come first: creations, then tokens for every account, then allowances."""
        token, first = abi.contract("Tok"), self._accounts[0]
        self._token, self._nft, self._multi = (
            abi.created_address(first, self._nonces[first] + offset) for offset in range(3)
        )
        creations = [
            self._send(first, None, token.creation(abi.number(SUPPLY)), gas=HEAVY_GAS),
            self._send(first, None, abi.contract("Nft").creation(), gas=HEAVY_GAS),
            self._send(first, None, abi.contract("Multi").creation(), gas=HEAVY_GAS),
            self._send(first, self.blob_sender.address, value=10**24, gas=TRANSFER_GAS),
        ]
        mints = [
            self._send(first, self._token, token.call("mint(address,uint256)", abi.address(account), abi.number(SHARE)))
            for account in self._accounts
        ]
        spenders = [*self._accounts[1:], self._accounts[0]]
        allowances = [
            self._send(owner, self._token, token.call(APPROVE, abi.address(spender), abi.number(ALLOWANCE)))
            for owner, spender in zip(self._accounts, spenders, strict=True)
        ]
        return [creations, mints, allowances]

    def block(self, rng: random.Random, *, height: int, transactions: int) -> list[Transaction]:
        """Return the transactions of block `height`; every fiftieth is empty."""
        if height % EMPTY_EVERY == 0:
            return []
        self._blobs_left = BLOBS_PER_BLOCK
        return [self._next(rng) for _ in range(transactions)]

    def _next(self, rng: random.Random) -> Transaction:
        self._made += 1
        if self._made <= len(self._makers):  # one of each, so that a short chain has them all
            return self._makers[self._made - 1](rng)
        return rng.choices(self._makers, self._weights)[0](rng)

    # --- kinds ----------------------------------------------------------------------------------------------------

    def _pay(self, rng: random.Random) -> Transaction:
        value = rng.randrange(1, 10**18)
        return self._send(self._sender(rng), self._recipient(rng), value=value, gas=TRANSFER_GAS)

    def _pay_with_note(self, rng: random.Random) -> Transaction:
        note = "0x" + rng.randbytes(rng.randrange(1, 65)).hex()
        return self._send(self._sender(rng), self._recipient(rng), note, value=rng.randrange(1000), gas=NOTE_GAS)

    def _send_tokens(self, rng: random.Random) -> Transaction:
        return self._send(self._sender(rng), self._token, self._token_transfer(rng))

    def _run_out_of_gas(self, rng: random.Random) -> Transaction:
        return self._send(self._sender(rng), self._token, self._token_transfer(rng), gas=TOO_LITTLE_GAS)

    def _approve(self, rng: random.Random) -> Transaction:
        amount = rng.choice((UNLIMITED, rng.randrange(10**20)))
        data = abi.contract("Tok").call(APPROVE, abi.address(rng.choice(self._spenders)), abi.number(amount))
        return self._send(self._sender(rng), self._token, data)

    def _move_tokens(self, rng: random.Random) -> Transaction:
        spender = rng.randrange(len(self._accounts))
        owner = self._accounts[spender - 1]  # who gave the allowance in the set-up
        words = [abi.address(owner), abi.address(self._recipient(rng)), abi.number(rng.randrange(1, 10**16))]
        data = abi.contract("Tok").call("transferFrom(address,address,uint256)", *words)
        return self._send(self._accounts[spender], self._token, data)

    def _mint_nft(self, rng: random.Random) -> Transaction:
        data = abi.contract("Nft").call("mint(address)", abi.address(self._recipient(rng)))
        return self._send(self._sender(rng), self._nft, data)

    def _fan_out(self, rng: random.Random) -> Transaction:
        return self._send(self._sender(rng), self._multi, self._fan_data(rng), value=3_000, gas=HEAVY_GAS)

    def _revert(self, rng: random.Random) -> Transaction:
        return self._send(self._sender(rng), self._multi, abi.contract("Multi").call("boom()"))

    def _create(self, rng: random.Random) -> Transaction:
        return self._send(self._sender(rng), None, abi.contract("Nft").creation(), gas=HEAVY_GAS)

    def _create_inside(self, rng: random.Random) -> Transaction:
        return self._send(self._sender(rng), self._multi, abi.contract("Multi").call("spawn()"), gas=HEAVY_GAS)

    def _fail_to_create(self, rng: random.Random) -> Transaction:
        return self._send(self._sender(rng), None, REVERTING_INIT_CODE)

    def _carry_blobs(self, rng: random.Random) -> Transaction:
        blobs = rng.randrange(1, 4)
        if blobs > self._blobs_left:
            return self._pay(rng)
        self._blobs_left -= blobs
        commitments = [rng.randbytes(COMMITMENT_BYTES) for _ in range(blobs)]
        hashes = [b"\x01" + sha256(commitment).digest()[1:] for commitment in commitments]
        nonce = self._use_nonce(self.blob_sender.address)
        return self.blob_sender.carry_blobs(self._recipient(rng), hashes, nonce=nonce, tip=GWEI)

    def _delegate(self, rng: random.Random) -> Transaction:
        """Delegate an account to the code of Multi and call it: its logs come from an account, not from a contract."""
        authority = rng.choice(self._authorities)
        self._delegated += 1
        code = NOBODY if self._delegated % 4 == 0 else self._multi
        item = authority.authorize(code, nonce=self._use_nonce(authority.address))
        sender, data = self._sender(rng), self._fan_data(rng)
        sent = self._send(sender, authority.address, data, value=3_000, gas=HEAVY_GAS, transaction_type=4)
        return sent | {"authorizationList": [item]}

    # --- parts ----------------------------------------------------------------------------------------------------

    def _sender(self, rng: random.Random) -> str:
        return rng.choice(self._accounts)

    def _recipient(self, rng: random.Random) -> str:
        return rng.choice(self._recipients)

    def _token_transfer(self, rng: random.Random) -> str:
        words = [abi.address(self._recipient(rng)), abi.number(rng.randrange(1, 10**20))]
        return abi.contract("Tok").call("transfer(address,uint256)", *words)

    def _fan_data(self, rng: random.Random) -> str:
        receivers = rng.sample(self._recipients, 3)
        head = [abi.address(self._token), abi.number(3 * 32), abi.number(rng.randrange(1, 100))]
        return abi.contract("Multi").call("fan(address,address[],uint256)", *head, abi.addresses(receivers))

    def _use_nonce(self, account: str) -> int:
        nonce = self._nonces[account]
        self._nonces[account] = nonce + 1
        return nonce

    def _send(
        self,
        sender: str,
        to: str | None,
        data: str | None = None,
        *,
        value: int = 0,
        gas: int = CALL_GAS,
        transaction_type: int | None = None,
    ) -> Fields:
        nonce = self._use_nonce(sender)
        kind = TYPES[(self._made + nonce) % len(TYPES)] if transaction_type is None else transaction_type
        sent: Fields = {"from": sender, "nonce": hex(nonce), "value": hex(value), "type": hex(kind)}
        sent["gas"] = hex(gas + ACCESS_LIST_GAS if kind == 1 else gas)
        tip = GWEI + nonce % 7 * GWEI // 4
        if kind in {0, 1}:
            sent["gasPrice"] = hex(MAX_FEE - tip)
        else:
            sent |= {"maxFeePerGas": hex(MAX_FEE), "maxPriorityFeePerGas": hex(tip)}
        if kind == 1:
            slot = "0x" + abi.number(TOTAL_SUPPLY_SLOT)
            sent["accessList"] = [{"address": self._token, "storageKeys": [slot]}]
        if to is not None:
            sent["to"] = to
        if data is not None:
            sent["data"] = data
        return sent
