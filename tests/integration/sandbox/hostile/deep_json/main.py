import http.client
import time


def handler(event, context):
    client = http.client.HTTPConnection("127.0.0.1", 9001)
    path = f"/2018-06-01/runtime/invocation/{context.aws_request_id}/response"
    client.request("POST", path, body=b'{"events": ' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}")
    client.getresponse()
    time.sleep(1000)
