def handler(event, context):
    with open("/tmp/full", "wb") as first, open("/tmp/full2", "wb") as second:
        while True:
            first.write(bytes(1 << 19))
            second.write(bytes(1 << 19))
