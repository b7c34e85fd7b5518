def handler(event, context):
    while True:
        context.trace.emit([{"n": n, "text": "x" * 100} for n in range(1000)])
