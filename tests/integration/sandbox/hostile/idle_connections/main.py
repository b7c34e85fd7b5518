import socket


def handler(event, context):
    kept = []
    for _ in range(40):
        raw = socket.socket()
        raw.setblocking(False)
        raw.connect_ex(("127.0.0.1", 9001))
        kept.append(raw)
    return len(context.trace.query("select n from numbers"))
