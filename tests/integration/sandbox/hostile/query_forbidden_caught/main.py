def handler(event, context):
    try:
        context.trace.query("select * from forbidden")
    except Exception as error:
        return {"status": error.status, "text": str(error)}
