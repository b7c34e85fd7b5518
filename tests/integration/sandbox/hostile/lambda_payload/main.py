import http.client


def handler(event, context):
    """Everything that is visible of this attempt."""
    client = http.client.HTTPConnection("127.0.0.1", 9001)
    client.request("GET", "/trace/v1/handler")
    return [client.getresponse().status, event, context.aws_request_id]
