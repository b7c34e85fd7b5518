import http.client

OTHER = "00000000-0000-0000-0000-000000000000"


def handler(event, context):
    statuses = []
    for route in (f"{OTHER}/response", f"{OTHER}/error", f"../{context.aws_request_id}/response", "%2e/response"):
        client = http.client.HTTPConnection("127.0.0.1", 9001)
        client.request("POST", f"/2018-06-01/runtime/invocation/{route}", body=b'"forged"')
        statuses.append(client.getresponse().status)
    client = http.client.HTTPConnection("127.0.0.1", 9001)
    client.request("POST", "/2018-06-01/runtime/init/error", body=b"{}")
    return [*statuses, client.getresponse().status]
