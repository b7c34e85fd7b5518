def handler(event, context):
    return {"events": event["events"]}
