def handler(event, context):
    return {"a": {1, 2}} if event["what"] == "set" else float("nan") if event["what"] == "nan" else cycle()


def cycle():
    made = []
    made.append(made)
    return made
