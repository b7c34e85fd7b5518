import os


def handler(event, context):
    if os.fork() == 0:
        kept = []
        while True:
            kept.append(bytearray(1 << 20))
    _, status = os.wait()
    return os.waitstatus_to_exitcode(status)
