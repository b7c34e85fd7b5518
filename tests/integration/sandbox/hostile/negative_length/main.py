import socket


def handler(event, context):
    raw = socket.create_connection(("127.0.0.1", 9001))
    path = f"/2018-06-01/runtime/invocation/{context.aws_request_id}/response"
    raw.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n".encode())
    return raw.recv(64).decode()[:12]
