def handler(event, context):
    context.trace.emit([{"text": "x" * (2 << 20)}])
