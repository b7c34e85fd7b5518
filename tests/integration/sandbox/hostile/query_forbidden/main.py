def handler(event, context):
    return context.trace.query("select * from forbidden")
