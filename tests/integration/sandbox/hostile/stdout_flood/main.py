import os


def handler(event, context):
    while True:
        os.write(1, b"flood " * 1000)
