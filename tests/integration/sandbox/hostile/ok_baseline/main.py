def handler(event, context):
    rows = context.trace.query("select n from numbers")
    context.trace.emit(rows)
    return {"n": len(rows), "id": context.aws_request_id, "events": [{"last": True}]}
