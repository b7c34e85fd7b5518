import os
import sys


def handler(event, context):
    found = []
    for path in ("/proc/1/environ", "/proc/self/environ", "/proc/2/environ"):
        try:
            with open(path, "rb") as file:
                found.append(file.read().decode())
        except OSError:
            continue
    return {"environment": dict(os.environ), "files": found, "arguments": sys.argv}
