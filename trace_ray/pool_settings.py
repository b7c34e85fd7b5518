"""Reads the pools of RPC providers from variables, which `config` passes in."""

import re
from dataclasses import dataclass, field
from typing import Final

from trace_ray import variables
from trace_ray.variables import Reader

POOL_VARIABLE: Final = re.compile(r"TRACE_RPC_POOL_([A-Z0-9_]+)_(URLS|URL|RPS)")
POOL_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class RpcPool:
    """Providers that answer for one chain. The URLs may hold keys: they are never printed."""

    urls: tuple[str, ...] = field(repr=False)
    requests_per_s: float | None = None


def rpc_pools(reader: Reader) -> dict[str, RpcPool]:
    """Return the pools by name; what is wrong with one goes into `reader.problems`, without its URLs."""
    parts: dict[str, set[str]] = {}
    for variable in sorted(reader.environ):
        if match := POOL_VARIABLE.fullmatch(variable):
            parts.setdefault(match[1], set()).add(match[2])
    pools = {name.lower(): _rpc_pool(reader, name, kinds) for name, kinds in parts.items()}
    return {name: pool for name, pool in pools.items() if pool is not None}


def _rpc_pool(reader: Reader, name: str, kinds: set[str]) -> RpcPool | None:
    prefix = f"TRACE_RPC_POOL_{name}"
    if not POOL_NAME.fullmatch(name.lower()):
        reader.problems.append(
            f"{prefix}_{min(kinds)} names no pool: begin its name with a letter, at most 64 characters"
        )
        return None
    if {"URLS", "URL"} <= kinds:
        reader.problems.append(f"{prefix}_URLS and {prefix}_URL are both set: keep the first, it takes several URLs")
        return None
    setting = f"rpc_pools.{name.lower()}"
    rate = reader.optional(setting, f"{prefix}_RPS", variables.number(0.01, 1_000_000))
    if kinds == {"RPS"}:
        reader.problems.append(f"{prefix}_RPS is set for a pool without providers: set {prefix}_URLS")
        return None
    parse = variables.rpc_url if "URL" in kinds else variables.rpc_urls
    urls = reader.optional(setting, f"{prefix}_{'URL' if 'URL' in kinds else 'URLS'}", parse)
    return RpcPool(urls, rate) if urls else None
