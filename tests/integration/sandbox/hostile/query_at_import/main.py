import http.client

client = http.client.HTTPConnection("127.0.0.1", 9001)
client.request("POST", "/trace/v1/query", body=b'{"sql": "select n from numbers"}')
STATUS = [client.getresponse().status]
client.close()
client.request("POST", "/trace/v1/events", body=b"{}")
STATUS.append(client.getresponse().status)
client.close()


def handler(event, context):
    return STATUS
