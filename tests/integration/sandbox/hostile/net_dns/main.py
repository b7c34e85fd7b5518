import socket


def handler(event, context):
    return socket.getaddrinfo("example.com", 80)
