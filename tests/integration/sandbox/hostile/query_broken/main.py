def handler(event, context):
    return context.trace.query(event["sql"])
