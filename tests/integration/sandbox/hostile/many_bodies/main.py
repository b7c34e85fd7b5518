import socket
import time


def handler(event, context):
    kept = []
    for _ in range(15):
        raw = socket.create_connection(("127.0.0.1", 9001))
        raw.sendall(b"POST /trace/v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n\r\n" + b"x" * 2_000_000)
        kept.append(raw)
    time.sleep(1000)
