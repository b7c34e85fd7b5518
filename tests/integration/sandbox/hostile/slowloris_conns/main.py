import socket
import time


def handler(event, context):
    kept = []
    for _ in range(2000):
        try:
            raw = socket.socket()
        except OSError:
            break
        raw.setblocking(False)
        raw.connect_ex(("127.0.0.1", 9001))
        kept.append(raw)
    time.sleep(1000)
