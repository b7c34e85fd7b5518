import socket


def handler(event, context):
    raw = socket.create_connection(("127.0.0.1", 9001))
    path = f"/2018-06-01/runtime/invocation/{context.aws_request_id}/response"
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\n"
    raw.sendall(head.encode() + b'"x"')
    return raw.recv(64).decode()[:12]
