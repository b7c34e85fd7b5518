import http.client


def handler(event, context):
    client = http.client.HTTPConnection("127.0.0.1", 9001)
    client.request("POST", f"/2018-06-01/runtime/invocation/{context.aws_request_id}/error", body=b"x" * (1 << 20))
    while True:
        pass
