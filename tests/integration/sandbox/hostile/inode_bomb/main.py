import os


def handler(event, context):
    for number in range(3_000_000):
        os.close(os.open(f"/tmp/{number}", os.O_CREAT | os.O_WRONLY))
