import socket


def handler(event, context):
    socket.socket(socket.AF_UNIX).connect("\0" + event["abstract"])
