"""What people get over HTTP: rows in four forms, snapshots, the catalogue, and their own past questions."""

import io
import json

import orjson
import pyarrow as pa
import pyarrow.csv as pa_csv
import pytest

from tests.served import BLOCKS, Served


def test_answer_has_columns_rows_and_what_it_was_read_from(service: Served) -> None:
    answer = service.ask("select block_number, block_hash from devnet_blocks order by 1 limit 1").json()

    assert answer["columns"] == [{"name": "block_number", "type": "BIGINT"}, {"name": "block_hash", "type": "BLOB"}]
    assert answer["rows"] == [[0, "0x" + "00" * 32]]
    assert answer["truncated"] is False
    (read,) = answer["snapshot"]
    assert (read["name"], read["from_block"], read["to_block"], read["gaps"]) == ("devnet_blocks", 0, BLOCKS, [])


def test_joins_across_datasets(service: Served) -> None:
    answer = service.ask(
        "select count(*) as n from devnet_blocks b join devnet_logs l using (block_number) where b.block_number < 5"
    ).json()

    assert answer["rows"] == [[10]]
    assert [read["name"] for read in answer["snapshot"]] == ["devnet_blocks", "devnet_logs"]


@pytest.mark.parametrize("wanted", ["devnet_logs", "uuid"])
def test_dataset_id_makes_the_relation_dataset(service: Served, wanted: str) -> None:
    listed = service.get("/v1/datasets").json()["datasets"]
    uuid = next(one["dataset_id"] for one in listed if one["name"] == "devnet_logs")

    answer = service.ask("select count(*) from dataset", dataset_id=uuid if wanted == "uuid" else wanted).json()

    assert answer["rows"] == [[2 * BLOCKS]]
    assert [read["name"] for read in answer["snapshot"]] == ["devnet_logs"]


@pytest.mark.parametrize(("limit", "rows"), [(0, 1), (-5, 1), (1, 1), (7, 7), (10_000, 60), (99_999, 60)])
def test_limit_is_clamped(service: Served, limit: int, rows: int) -> None:
    answer = service.ask("select block_number from devnet_blocks", limit=limit).json()

    assert (len(answer["rows"]), answer["truncated"]) == (rows, rows < BLOCKS)


def test_other_forms_carry_the_same_rows_and_facts(service: Served) -> None:
    sql = "select block_number, block_hash from devnet_blocks order by 1 limit 3"
    rows = [{"block_number": number, "block_hash": "0x" + number.to_bytes(32, "big").hex()} for number in range(3)]

    ndjson = service.ask(sql, format="ndjson")
    csv = service.ask(sql, format="csv")
    arrow = service.ask(sql, format="arrow")

    assert [orjson.loads(line) for line in ndjson.text.splitlines()] == rows
    assert pa_csv.read_csv(io.BytesIO(csv.content)).to_pylist() == rows
    table = pa.ipc.open_stream(arrow.content).read_all()
    assert table.column("block_hash").to_pylist() == [number.to_bytes(32, "big") for number in range(3)]
    for answer in (ndjson, csv, arrow):
        assert answer.headers["X-Trace-Truncated"] == "false"
        assert json.loads(answer.headers["X-Trace-Snapshot"])[0]["name"] == "devnet_blocks"
        assert service.audited(answer.headers["X-Trace-Query-Id"]).rows == 3
    assert table.schema.metadata[b"query_id"].decode() == arrow.headers["X-Trace-Query-Id"]


def test_catalogue_explains_a_dataset_and_its_examples_run(service: Served) -> None:
    found = service.get("/v1/datasets/devnet_transactions").json()

    meanings = {column["name"]: column for column in found["columns"]}
    assert meanings["value_string"] == {
        "name": "value_string", "type": "VARCHAR", "nullable": False, "meaning": "the same, decimal"
    }  # fmt: skip
    assert (found["from_block"], found["to_block"], found["blocks"]) == (0, BLOCKS, BLOCKS)
    assert found["certificates"] == {"receipts_root": 6}
    assert found["examples"]
    assert [service.ask(example).status_code for example in found["examples"]] == [200] * len(found["examples"])


def test_past_question_is_told_to_who_asked_it_and_to_nobody_else(service: Served) -> None:
    query_id = service.ask("select count(*) from devnet_blocks").json()["query_id"]

    told = service.get(f"/v1/queries/{query_id}").json()
    other = service.get(f"/v1/queries/{query_id}", service.token("bob"))

    assert (told["outcome"], told["rows"], told["datasets"][0]["name"]) == ("OK", 1, "devnet_blocks")
    assert other.status_code == 404


def test_live_and_ready_are_two_things(service: Served) -> None:
    assert service.client.get(f"{service.url}/healthz").json() == {"status": "ok", "build": "test", "stack": "here"}
    assert service.client.get(f"{service.url}/readyz").json() == {"status": "ready", "missing": {}}


def test_documented_examples_of_a_request_are_answered(service: Served) -> None:
    document = service.client.get(f"{service.url}/openapi.json").json()
    examples = document["components"]["schemas"]["QueryRequest"]["examples"]

    assert len(examples) >= 2
    for example in examples:
        assert service.ask(**example).status_code == 200
