"""The names that `query.macros` adds to every question, reviewed by hand like the engine's own. Pure.

Only these may be called; what their bodies call under names of its own (`_keccak256`) stays out of the gate's list.
"""

from typing import Final

OURS: Final = frozenset(
    {
        "address_to_topic", "blob_to_hex", "decode_event", "decode_input", "ether_to_wei", "event_topic",
        "format_units", "function_selector", "hex_to_blob", "i256_sum", "i256_to_double", "i256_to_hugeint",
        "i256_to_string", "keccak256", "parse_units", "to_checksum_address", "to_i256", "to_u256", "topic_to_address",
        "u256_sum", "u256_to_double", "u256_to_hugeint", "u256_to_string", "wei_to_ether", "wei_to_gwei",
    }
)  # fmt: skip
