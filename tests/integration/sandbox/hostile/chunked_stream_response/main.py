import socket
import time


def handler(event, context):
    raw = socket.create_connection(("127.0.0.1", 9001))
    path = f"/2018-06-01/runtime/invocation/{context.aws_request_id}/response"
    raw.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n".encode())
    for piece in (b"[1,", b"2]"):
        raw.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
        time.sleep(0.05)
    raw.sendall(b"0\r\n" + event.get("trailer", "").encode() + b"\r\n")
    time.sleep(1000)
