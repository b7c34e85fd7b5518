import socket


def handler(event, context):
    socket.create_connection(("127.0.0.1", event["port"]), timeout=2)
