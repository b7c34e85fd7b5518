import sys


def handler(event, context):
    for number in range(3000):
        print("line", number)
    print("the end", file=sys.stderr)
