import socket


def handler(event, context):
    raw = socket.create_connection(("127.0.0.1", 9001))
    try:
        raw.sendall(b"\xff" * 100_000)
        while raw.recv(65536):
            pass
    except OSError:
        pass
    return 1
