def handler(event, context):
    return "x" * (16 << 20)
