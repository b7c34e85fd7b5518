"""Job files: the exact sentence of each refusal."""

from pathlib import Path

import pytest

from tests.job_files import GOOD, changed, problems, with_mode, write
from trace_ray import config
from trace_ray.catalog import CATALOG

KEY = "9f8e7d6c5b4a39281706f5e4d3c2b1a0"
POOL = "write the name of a pool, and set its URL in TRACE_RPC_POOL_<NAME>_URLS"
KEYED = f"a URL with a key is in the text (not shown): {POOL}"
NAME = "write lower-case letters, digits and _, beginning with a letter, at most {} characters"
OFFERED = ", ".join(name for name, entry in CATALOG.items() if entry.refusal is None)
CHAIN_IDS = "write a whole number from 1 to 9223372036854775771"
BLOCKS = "write a whole number from 0 to 9007199254740991"


STREAMS = "s{}: {{cryo_dataset_name: blocks, rpc_pool: a, chunk_size: 1, max_inflight: 1}}"
SECOND = "  b: {cryo_dataset_name: blocks, rpc_pool: a, chunk_size: 1, max_inflight: 1, publish_as: devnet_blocks}"
STREAM = "write a mapping with cryo_dataset_name, rpc_pool, chunk_size and max_inflight"
CHUNKS = "write a whole number from 1 to 100000"
TEXT = "write key: value lines with kind, name, chain_id, mode and streams"
NO_YAML = "the text is not YAML"

# --- refusals -----------------------------------------------------------------------------------------------------

REFUSALS: list[tuple[str, str, str]] = [
    # keys
    (
        "chain_id: 31337",
        "chainid: 31337\nchain_id: 1",
        "3: chainid: 'chainid' is not a key of a job file: write chain_id",
    ),
    (
        "  to_block: 2000",
        "  to_block: 2000\n  tail_lag: 3",
        "9: mode.tail_lag: 'tail_lag' is not a key of mode fixed_target: write one of kind, from_block, to_block",
    ),
    (
        "    chunk_size: 200",
        "    chunk_size: 200\n    chunksize: 3",
        "14: streams.blocks.chunksize: 'chunksize' is not a key of a stream: write chunk_size",
    ),
    ("name: devnet", "name: devnet\nname: two", "3: name: the key is on line 2 already: remove one of the two"),
    ("    chunk_size: 200", "", f"10: streams.blocks.chunk_size: the key is missing: {CHUNKS}"),
    ("kind: chain_sync", "", "2: kind: the key is missing: write chain_sync"),
    ("  kind: fixed_target", "", "5: mode.kind: the key is missing: write fixed_target or follow_head"),
    # secrets and URLs
    ("name: devnet", "name: devnet\napi_key: hunter2", f"3: api_key: a secret has no place in a job file: {POOL}"),
    ("name: devnet", "name: devnet\nPassword: x1", f"3: Password: a secret has no place in a job file: {POOL}"),
    (
        "    rpc_pool: standard",
        f"    rpc_pool: https://rpc.example/v3/{KEY}",
        f"12: streams.blocks.rpc_pool: a URL is refused (not shown, it may hold a key): {POOL}",
    ),
    (
        "    rpc_pool: standard",
        "    rpc_pool: localhost:8545",
        f"12: streams.blocks.rpc_pool: a URL is refused (not shown, it may hold a key): {POOL}",
    ),
    (
        "    rpc_pool: standard",
        f"    rpc_pool: f{KEY}",
        f"12: streams.blocks.rpc_pool: the value looks like a secret (not shown): {POOL}",
    ),
    ("name: devnet", f"name: devnet\n# https://rpc.example/v3/{KEY}", f"3: (comment): {KEYED}"),
    ("name: devnet", "name: devnet # http://me:pw@rpc.example", f"2: (comment): {KEYED}"),
    ("name: devnet", f"name: devnet\n{KEY}: 1", f"3: (hidden): the key looks like a secret (not shown): {POOL}"),
    (
        "name: devnet",
        "name: devnet\nhttp://rpc.example: 1",
        f"3: (hidden): a URL is refused (not shown, it may hold a key): {POOL}",
    ),
    # names
    ("name: devnet", "name: Dev-Net", f"2: name: 'Dev-Net' is not a name: {NAME.format(64)}"),
    ("name: devnet", "name: 7", f"2: name: 7 is not a name: {NAME.format(64)}"),
    ("name: devnet", "name: " + "a" * 65, f"2: name: '{'a' * 60}...' is not a name: {NAME.format(64)}"),
    ("name: devnet", "name:", "2: name: the value is empty: write one, or remove the key"),
    ("chain_name: devnet", "chain_name: 1st", f"4: chain_name: '1st' is not a name: {NAME.format(63)}"),
    ("chain_name: devnet", 'chain_name: ""', f"4: chain_name: '' is not a name: {NAME.format(63)}"),
    (
        "    rpc_pool: standard",
        "    rpc_pool: Standard",
        f"12: streams.blocks.rpc_pool: 'Standard' is not a name: write the name of a pool: {NAME.format(64)[6:]}",
    ),
    (
        "  blocks:",
        "  Blocks:",
        "10: streams.Blocks: 'Blocks' is not a name: write lower-case letters, digits and _, at most 64 characters",
    ),
    (
        "    max_inflight: 8",
        "    max_inflight: 8\n    publish_as: 1x",
        f"15: streams.blocks.publish_as: '1x' is not a name: {NAME.format(128)}",
    ),
    (
        "    max_inflight: 8",
        "    max_inflight: 8\n    publish_as: dataset",
        "15: streams.blocks.publish_as: 'dataset' is a word of the query service: write another name",
    ),
    (
        "    max_inflight: 8",
        "    max_inflight: 8\n" + SECOND,
        "15: streams.b.publish_as: 'devnet_blocks' is the published name of stream 'blocks' too: "
        "write another publish_as",
    ),
    # kinds and words
    ("kind: chain_sync", "kind: chain-sync", "1: kind: 'chain-sync' is not known here: write chain_sync"),
    (
        "  kind: fixed_target",
        "  kind: fixed",
        "6: mode.kind: 'fixed' is not known here: write fixed_target or follow_head",
    ),
    (
        "name: devnet",
        "name: devnet\nreceipts: op",
        "3: receipts: 'op' is not known here: write ethereum, nonstandard or none",
    ),
    ("name: devnet", "name: devnet\nenabled: yes", "3: enabled: 'yes' is not true or false: write true"),
    ("name: devnet", "name: devnet\nenabled: 0", "3: enabled: 0 is not true or false: write true or false"),
    # numbers
    ("chain_id: 31337", "chain_id: 0", f"3: chain_id: 0 is out of bounds: {CHAIN_IDS}"),
    ("chain_id: 31337", "chain_id: 0x7a69", "3: chain_id: '0x7a69' is not a whole number: write 31337"),
    ("chain_id: 31337", "chain_id: 0b9", f"3: chain_id: '0b9' is not a whole number: {CHAIN_IDS}"),
    ("chain_id: 31337", "chain_id: true", f"3: chain_id: true is not a whole number: {CHAIN_IDS}"),
    ("chain_id: 31337", "chain_id: '31337'", "3: chain_id: '31337' is not a whole number: write 31337"),
    ("chain_id: 31337", "chain_id: devnet", f"3: chain_id: 'devnet' is not a whole number: {CHAIN_IDS}"),
    ("  from_block: 0", "  from_block: -1", f"7: mode.from_block: -1 is out of bounds: {BLOCKS}"),
    ("  from_block: 0", "  from_block: 1.5", f"7: mode.from_block: 1.5 is not a whole number: {BLOCKS}"),
    ("  from_block: 0", "  from_block: latest", f"7: mode.from_block: 'latest' is not a whole number: {BLOCKS}"),
    ("  to_block: 2000", "  to_block: 1_000", "8: mode.to_block: '1_000' is not a whole number: write 1000"),
    ("  to_block: 2000", "  to_block: 1e6", "8: mode.to_block: '1e6' is not a whole number: write 1000000"),
    ("  to_block: 2000", "  to_block: 20M", "8: mode.to_block: '20M' is not a whole number: write 20000000"),
    ("  to_block: 2000", "  to_block: 0100", "8: mode.to_block: '0100' is not a whole number: write 100"),
    (
        "  to_block: 2000",
        "  to_block: 0",
        "8: mode.to_block: 0 leaves nothing to sync: write a block above from_block (0)",
    ),
    ("  to_block: 2000", f"  to_block: {2**53}", f"8: mode.to_block: {2**53} is out of bounds: {BLOCKS}"),
    (
        "    chunk_size: 200",
        "    chunk_size: 0",
        f"13: streams.blocks.chunk_size: 0 is out of bounds: {CHUNKS}",
    ),
    (
        "    chunk_size: 200",
        "    chunk_size: 100001",
        f"13: streams.blocks.chunk_size: 100001 is out of bounds: {CHUNKS}",
    ),
    (
        "    max_inflight: 8",
        "    max_inflight: 10001",
        "14: streams.blocks.max_inflight: 10001 is out of bounds: write a whole number from 1 to 10000",
    ),
    # datasets
    (
        "    cryo_dataset_name: blocks",
        "    cryo_dataset_name: block",
        "11: streams.blocks.cryo_dataset_name: 'block' is not a Cryo dataset: write blocks",
    ),
    (
        "    cryo_dataset_name: blocks",
        "    cryo_dataset_name: zzz",
        f"11: streams.blocks.cryo_dataset_name: 'zzz' is not a Cryo dataset: write one of {OFFERED}",
    ),
    *(
        (
            "    cryo_dataset_name: blocks",
            f"    cryo_dataset_name: {name}",
            f"11: streams.blocks.cryo_dataset_name: '{name}' is refused ({entry.refusal}): write one of {OFFERED}",
        )
        for name, entry in CATALOG.items()
        if entry.refusal is not None
    ),
    # YAML
    ("name: devnet", "name: &a devnet", "2: name: an anchor (&) is refused: write the value at each place"),
    ("name: devnet", "name: *a", "2: name: an alias (*) is refused: write the value itself"),
    ("name: devnet", "name: !!str devnet", "2: name: a tag (!) is refused: write the plain value"),
    ("name: devnet", "name: devnet\n? [a]\n: 1", "3: 'line 3': a key must be text: write `key: value`"),
    ("name: devnet", "name: devnet\n*a : 1", "3: 'line 3': a key must be text: write `key: value`"),
    ("name: devnet", "name: [devnet]", f"2: name: a list is not a name: {NAME.format(64)}"),
    (
        "    max_inflight: 8",
        "    max_inflight: 8\n  b: 3",
        f"15: streams.b: 3 does not belong here: {STREAM}",
    ),
    (
        "    max_inflight: 8",
        "    max_inflight: 8\n---\nkind: x",
        "15: (file): the file holds several documents: write one job per file",
    ),
]


@pytest.mark.parametrize(("line", "new", "sentence"), REFUSALS, ids=[sentence[:60] for *_, sentence in REFUSALS])
def test_mistake_is_told_with_its_line_its_value_and_what_to_write(
    tmp_path: Path, line: str, new: str, sentence: str
) -> None:
    assert problems(write(tmp_path, changed(line, new))) == [f"job.yaml:{sentence}"]


@pytest.mark.parametrize(
    ("mode", "sentence"),
    [
        (
            "{kind: follow_head, from_block: 0, tail_lag: -1}",
            "mode.tail_lag: -1 is out of bounds: write a whole number from 0 to 100000",
        ),
        (
            "{kind: follow_head, from_block: 0, head_poll_interval_seconds: 0.1}",
            "mode.head_poll_interval_seconds: 0.1 is out of bounds: write a number from 0.25 to 3600",
        ),
        (
            "{kind: follow_head, from_block: 0, max_head_age_seconds: 12}",
            "mode.max_head_age_seconds: 12 makes each head too old: write more than head_poll_interval_seconds (12)",
        ),
        (
            "{kind: follow_head, from_block: 0, max_head_age_seconds: 5m}",
            "mode.max_head_age_seconds: '5m' is not a number: write a number from 1 to 86400",
        ),
        (
            "{kind: follow_head, from_block: 0, to_block: 5}",
            "mode.to_block: 'to_block' is not a key of mode follow_head: write from_block",
        ),
    ],
)
def test_mistake_in_a_following_mode_is_told(tmp_path: Path, mode: str, sentence: str) -> None:
    text = with_mode(mode)
    assert problems(write(tmp_path, text)) == [f"job.yaml:5: {sentence}"]


def test_all_mistakes_are_told_at_once_in_the_order_of_their_lines(tmp_path: Path) -> None:
    text = changed("kind: chain_sync", "kind: x")
    text = changed("    chunk_size: 200", "    chunk_size: 0", text)
    text = changed("  to_block: 2000", "  to_block: 0", text)
    text = changed("chain_id: 31337", f"chain_id: https://rpc.example/{KEY}\nchain_id: 2", text)
    lines = [int(problem.split(":")[1]) for problem in problems(write(tmp_path, text))]
    assert lines == [1, 3, 4, 9, 14]


TRACED = [name for name, entry in CATALOG.items() if entry.refusal is None and entry.method]
PLAIN = [name for name in OFFERED.split(", ") if name not in TRACED]
EARLY = (
    "7: mode.from_block: {} is too low, receipts before block 4370000 have no status: write 4370000, and sync the "
    "blocks below it by a job of its own with receipts: none and to_block: 4370000"
)


def starting(start: int, name: str, *, chain_id: int = 31337, receipts: str = "ethereum") -> str:
    text = changed("chain_id: 31337", f"chain_id: {chain_id}")
    text = changed("  from_block: 0", f"  from_block: {start}", text)
    text = changed("  to_block: 2000", "  to_block: 5000000", text)
    return changed("    cryo_dataset_name: blocks", f"    cryo_dataset_name: {name}", text) + f"receipts: {receipts}\n"


@pytest.mark.parametrize("name", TRACED)
def test_genesis_cannot_be_traced(tmp_path: Path, name: str) -> None:
    sentence = "block 0 has no traces, and stream 'blocks' needs them: write 1, or give it a job of its own"
    assert problems(write(tmp_path, starting(0, name))) == [f"job.yaml:7: mode.from_block: {sentence}"]
    assert config.read_job(write(tmp_path, starting(1, name)))


@pytest.mark.parametrize("name", PLAIN)
def test_genesis_can_be_read(tmp_path: Path, name: str) -> None:
    assert config.read_job(write(tmp_path, starting(0, name)))


@pytest.mark.parametrize("receipts", ["ethereum", "nonstandard"])
@pytest.mark.parametrize("name", [name for name in OFFERED.split(", ") if name != "blocks"])
def test_mainnet_s_receipts_without_status_are_refused(tmp_path: Path, name: str, receipts: str) -> None:
    told = problems(write(tmp_path, starting(4_369_999, name, chain_id=1, receipts=receipts)))
    assert told == [f"job.yaml:{EARLY.format(4_369_999)}"]
    assert config.read_job(write(tmp_path, starting(4_370_000, name, chain_id=1, receipts=receipts)))


@pytest.mark.parametrize(
    ("name", "chain_id", "receipts"), [("blocks", 1, "ethereum"), ("logs", 1, "none"), ("logs", 2, "ethereum")]
)
def test_blocks_alone_other_chains_and_jobs_without_receipts_begin_anywhere(
    tmp_path: Path, name: str, chain_id: int, receipts: str
) -> None:
    assert config.read_job(write(tmp_path, starting(0, name, chain_id=chain_id, receipts=receipts)))


def test_early_blocks_are_told_with_every_other_mistake(tmp_path: Path) -> None:
    text = changed("    chunk_size: 200", "    chunk_size: 0", starting(7, "logs", chain_id=1))
    told = problems(write(tmp_path, text))
    assert told == [
        f"job.yaml:{EARLY.format(7)}",
        f"job.yaml:13: streams.blocks.chunk_size: 0 is out of bounds: {CHUNKS}",
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", f"1: (file): an empty value does not belong here: {TEXT}"),
        ("[]\n", f"1: (file): a list does not belong here: {TEXT}"),
        (
            "a: [\n",
            f"2: (file): {NO_YAML} (expected the node content, but found '<stream end>'): write `key: value` lines",
        ),
        ("a: 1\nb: \x07\n", f"2: (file): {NO_YAML} (a character that YAML forbids): write `key: value` lines"),
        (b"a: 1\nb: \xff\n", "2: (file): the text is not UTF-8: write it as UTF-8"),
        (f"# http://x/{KEY}\na: [\n", f"1: (comment): {KEYED}"),
    ],
)
def test_file_that_is_no_job_file_is_refused(tmp_path: Path, text: str | bytes, sentence: str) -> None:
    assert f"job.yaml:{sentence}" in problems(write(tmp_path, text))


@pytest.mark.parametrize("text", ["a: {}", "a: 1\n? {}\n: 1", "a: 1\na: {}"], ids=["value", "key", "second value"])
def test_deep_nesting_ends_the_reading_at_once(tmp_path: Path, text: str) -> None:
    """PyYAML alone would read the rest for minutes."""
    told = problems(write(tmp_path, text.format("[" * 200_000)))
    line = text.count("\n", 0, text.index("{}")) + 1
    sentence = f"{line}: (file): more than 10 levels are refused: write a job file as in the reference"
    assert f"job.yaml:{sentence}" in told


@pytest.mark.parametrize("count", [0, 65])
def test_number_of_streams_has_its_bounds(tmp_path: Path, count: int) -> None:
    streams = ", ".join(STREAMS.format(number) for number in range(count))
    told = problems(write(tmp_path, f"{GOOD[: GOOD.index('streams:')]}streams: {{{streams}}}\n"))
    advice = "write a mapping with 1 to 64 streams, such as blocks:"
    assert told == [f"job.yaml:9: streams: the number of streams is out of bounds: {advice}"]


def test_ten_levels_are_read(tmp_path: Path) -> None:
    nine, ten = (problems(write(tmp_path, changed("name: devnet", "name: " + "[" * n + "]" * n))) for n in (9, 10))
    assert nine == [f"job.yaml:2: name: a list is not a name: {NAME.format(64)}"]
    assert ten == ["job.yaml:2: (file): more than 10 levels are refused: write a job file as in the reference"]


def test_aliases_cannot_fill_the_memory(tmp_path: Path) -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(
        f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    told = problems(write(tmp_path, bomb))
    assert any("an alias (*) is refused" in problem for problem in told)


def test_large_file_is_refused(tmp_path: Path) -> None:
    assert problems(write(tmp_path, "#" * (256 * 1024 + 1))) == [
        "job.yaml: the file is larger than 256 KiB: write one job per file"
    ]


def test_missing_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert problems(tmp_path / "none.yaml") == ["none.yaml: there is no such file: write the path of a job file"]
    assert problems(tmp_path / "folder") == ["folder: the file cannot be read: write the path of a readable job file"]


def test_token_in_the_name_of_a_dataset_is_no_secret(tmp_path: Path) -> None:
    job = config.read_job(write(tmp_path, changed("  blocks:", "  token_transfers:")))
    assert job.streams[0].dataset_key == "token_transfers"


SECRETS = [
    KEY,
    "AKIAIOSFODNN7EXAMPLE",
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "3f2504e0-4f89-11d3-9a0c-0305e82c3301",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
    "Zk3x9Qw7Lm2Vb8Nt5Rp1Yc6",
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "place", ["name: {}", "rpc_pool: {}", "{}: 1", "password: {}", "mode: [{}]", "name: x # http://a/{}"]
)
def test_secret_is_refused_and_never_shown(tmp_path: Path, secret: str, place: str) -> None:
    told = "\n".join(problems(write(tmp_path, GOOD.replace("name: devnet\n", place.format(secret) + "\n", 1))))
    assert told
    assert secret not in told


NAMES = ["ethereum_mainnet", "base_sepolia_2024", "arbitrum_one_archive_v2", "token_transfers", "p2p_node_7", "a" * 64]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_people_choose_are_no_secrets(tmp_path: Path, name: str) -> None:
    assert (
        config.read_job(write(tmp_path, changed("    rpc_pool: standard", f"    rpc_pool: {name}"))).streams[0].rpc_pool
        == name
    )
