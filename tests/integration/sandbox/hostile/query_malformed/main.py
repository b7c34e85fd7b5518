import http.client
import json

BODIES = [
    b"",
    b"[]",
    b"{}",
    b"\xff",
    b'{"sql": 1}',
    b'{"sql": "x", "limit": true}',
    b'{"sql": "x", "format": "csv"}',
    b'{"sql": "x", "dataset_id": {}}',
    b'{"sql": "x", "attempt": 1}',
    b"[" * 100_000,
    b'{"sql": "x", "limit": 1e400}',
]


def handler(event, context):
    statuses = []
    for body in BODIES:
        http_ = http.client.HTTPConnection("127.0.0.1", 9001)
        http_.request("POST", "/trace/v1/query", body=body)
        statuses.append(http_.getresponse().status)
    return statuses
