"""What the environment says of an S3 store. `trace_ray.config` alone reads the environment and passes it in."""

from trace_ray import variables
from trace_ray.contracts import S3Credentials
from trace_ray.variables import Reader


def endpoint(reader: Reader) -> str | None:
    """Return where the store is when it is not AWS."""
    names = ("TRACE_S3_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    variable = next((name for name in names if name in reader.environ), names[0])
    return reader.optional("s3_endpoint", variable, variables.endpoint)


def credentials(reader: Reader) -> S3Credentials | None:
    """Return what the shell knows about S3; actors elsewhere have only this and their machine's role."""
    environ = reader.environ
    key, secret = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
    if bool(key) != bool(secret):
        have, want = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")[:: 1 if key else -1]
        reader.problems.append(f"{have} is set without {want}: set both, or neither to use the machine's role")
    profile = None if key else environ.get("AWS_PROFILE")
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
    reader.sources["s3"] = "AWS_ACCESS_KEY_ID" if key else "AWS_PROFILE" if profile else "AWS credential chain"
    found = S3Credentials(key, secret, environ.get("AWS_SESSION_TOKEN") if key else None, region, profile)
    return None if found == S3Credentials() else found
