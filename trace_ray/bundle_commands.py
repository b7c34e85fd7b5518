"""Commands for bundles: write a handler, build, sign and verify it, say whose code may run, push it."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from state import bundles
from trace_ray import bundle_console, cargo
from trace_ray.bundle import manifest, project, signing, verify
from trace_ray.bundle.archive import Packed
from trace_ray.bundle.keys import Keyring, TrustedKey, generate, keyid_of, public_bytes, read_private, read_public
from trace_ray.bundle.manifest import DIGEST, MAX_ZIP, Language
from trace_ray.bundle.pushed import object_key
from trace_ray.bundle.verify import Verified
from trace_ray.console import say
from trace_ray.errors import RefusedInput
from trace_ray.wiring import object_store, settings_here, transaction

ENVELOPE: Final = ".intoto.json"
STATEMENT: Final = ".statement.json"

Zip = click.argument("path", metavar="ZIP", type=click.Path(path_type=Path, dir_okay=False))
Json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")


@click.group()
def bundle() -> None:
    """Handlers for alerts: build and sign them, say whose may run, push them."""


# --- authors ------------------------------------------------------------------------------------------------------


@bundle.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--lang", required=True, type=click.Choice(project.TEMPLATES), help="What the handler is written in.")
def init(directory: Path, lang: str) -> None:
    """Write a working handler into a new directory."""
    project.start(directory, lang)
    say(f"{directory} holds a handler for large transfers: change it, then `trace-ray bundle build {directory}`")


@bundle.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="NAME-VERSION.zip by default.")
def build(directory: Path, output: Path | None) -> None:
    """Pack the handler of a directory into a zip, and write the statement that is to be signed."""
    settings = project.read(directory)
    if settings.rust:
        files = {project.BOOTSTRAP: Packed(cargo.build(directory), executable=True)}
    else:
        files = project.collect(directory, settings)
    if settings.language is Language.BOOTSTRAP and project.BOOTSTRAP in files:
        cargo.check_program(files[project.BOOTSTRAP].content)
    data = project.build(files, settings)
    path = output or Path(settings.zip_name)
    payload = _describe(data, settings, path)
    _write(path, data)
    _write(_beside(path, STATEMENT), payload)
    _beside(path, ENVELOPE).unlink(missing_ok=True)  # of what was built before
    bundle_console.print_built(path, data, len(files))


@bundle.command()
@click.option(
    "-o", "--output", default=Path("bundle.key"), show_default=True, type=click.Path(path_type=Path, dir_okay=False)
)
def keygen(output: Path) -> None:
    """Make a key pair: the private key, and beside it the public one (.pub)."""
    keyid = generate(output)
    say(f"{output} signs, keep it to yourself; {output}.pub is what an operator trusts")
    click.echo(keyid)


@bundle.command()
@Zip
@click.option("--key", required=True, type=click.Path(path_type=Path, dir_okay=False), help="A private key.")
@click.option(
    "--project", "directory", type=click.Path(path_type=Path, file_okay=False),
    help="State anew what its bundle.toml says: for a zip that another tool has built.",
)  # fmt: skip
def sign(path: Path, key: Path, directory: Path | None) -> None:
    """Sign a zip. Signatures of other keys stay; there may be 8."""
    private, data = read_private(key), _read_zip(path)
    before = _envelope(path) if _beside(path, ENVELOPE).exists() else None
    if directory is not None:
        payload = _describe(data, project.read(directory), path)
    elif _beside(path, STATEMENT).exists():
        payload = _read(_beside(path, STATEMENT), signing.MAX_PAYLOAD)
    elif before is not None:
        payload = before.payload
    else:
        raise RefusedInput(f"{path.name} has no statement: name the directory with its bundle.toml with --project")
    envelope = signing.render_envelope(signing.sign(payload, private, before))
    public = public_bytes(private)
    _verified(data, envelope, _ring_of([public]))  # nothing is signed that would be rejected
    _write(_beside(path, ENVELOPE), envelope)
    say(f"{_beside(path, ENVELOPE)} is signed by {keyid_of(public)}; `trace-ray bundle push {path}` comes next")


@bundle.command(name="verify")
@Zip
@click.option(
    "--key", "keys", multiple=True, type=click.Path(path_type=Path, dir_okay=False),
    help="A public key to check with, instead of those that the organisation trusts; may be repeated.",
)  # fmt: skip
@click.option("--pin", metavar="SHA256", help="The SHA-256 that the zip must have.")
def verify_command(path: Path, keys: tuple[Path, ...], pin: str | None) -> None:
    """Check a zip by every rule that a worker checks."""
    data, envelope = _read_zip(path), _read(_beside(path, ENVELOPE), signing.MAX_ENVELOPE)
    if keys:
        keyring = _ring_of([read_public(one) for one in keys])
    else:
        settings = settings_here()
        with transaction(settings) as conn:
            keyring = bundles.keyring(conn, settings.org_id)
    bundle_console.print_verified(_verified(data, envelope, keyring, pin))


# --- operators ----------------------------------------------------------------------------------------------------


@bundle.command()
@click.argument("key", metavar="KEY.pub", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--lang",
    "languages",
    multiple=True,
    type=click.Choice([one.value for one in Language]),
    help="Only for these; all else.",
)
@click.option("--until", type=click.DateTime(("%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ")), help="In UTC; for ever by default.")
def trust(key: Path, languages: tuple[str, ...], until: datetime | None) -> None:
    """Let a public key sign bundles of the organisation. Again: change for what, and until when."""
    public, settings = read_public(key), settings_here()
    allowed = [Language(one) for one in languages] or list(Language)
    with transaction(settings) as conn:
        trusted = bundles.trust(conn, settings.org_id, public, allowed, until.replace(tzinfo=UTC) if until else None)
    say(f"{trusted.keyid} may sign {bundle_console.languages_of(trusted)} {bundle_console.until(trusted)}")


@bundle.command()
@click.argument("reference", metavar="KEYID_OR_SHA256")
def revoke(reference: str) -> None:
    """Stop a key, or one bundle, for good. Counts from the next lease on."""
    settings = settings_here()
    with transaction(settings) as conn:
        found = bundles.revoke(conn, settings.org_id, reference)
    say(f"{found} is revoked for good")


@bundle.command()
@Zip
def push(path: Path) -> None:
    """Verify a bundle with the keys that the organisation trusts, and put it where workers find it; print its pin."""
    settings = settings_here()
    data, envelope = _read_zip(path), _read(_beside(path, ENVELOPE), signing.MAX_ENVELOPE)
    with transaction(settings) as conn:
        keyring = bundles.keyring(conn, settings.org_id)
    digest = _verified(data, envelope, keyring).digest
    with transaction(settings) as conn:
        bundles.check(conn, settings.org_id, digest, envelope)  # before anything is uploaded
    object_store(settings).put(path, object_key(settings.org_id, digest))
    with transaction(settings) as conn:
        pushed = bundles.push(conn, settings.org_id, digest, envelope)
    say(f"{pushed.name}@{pushed.version} is pushed; rules name it so, or by its SHA-256")
    click.echo(pushed.digest)


@bundle.command(name="list")
@Json
def list_command(as_json: bool) -> None:
    """List trusted keys and pushed bundles, revoked ones among them."""
    settings = settings_here()
    with transaction(settings) as conn:
        keys, found = bundles.keys(conn, settings.org_id), bundles.bundles(conn, settings.org_id)
    bundle_console.print_list(keys, found, as_json=as_json)


# --- files --------------------------------------------------------------------------------------------------------


def _verified(data: bytes, envelope: bytes, keyring: Keyring, pin: str | None = None) -> Verified:
    """Check everything, contents too. Without a pin, the zip at hand is the one that is meant."""
    if pin is not None and not DIGEST.fullmatch(pin):
        raise RefusedInput("a pin has 64 small hexadecimal digits: `trace-ray bundle list` shows them")
    verified = verify.verify(data, envelope, pin=pin or hashlib.sha256(data).hexdigest(), keyring=keyring)
    verify.check_contents(verified)
    return verified


def _ring_of(keys: list[bytes]) -> Keyring:
    languages = frozenset(Language)
    return Keyring(tuple(TrustedKey(keyid_of(public), public, languages) for public in keys), datetime.now(UTC))


def _describe(data: bytes, settings: project.Project, path: Path) -> bytes:
    artefact = path.name if manifest.ARTEFACT.fullmatch(path.name) else settings.zip_name
    created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return project.describe(data, settings, artefact=artefact, created=created)


def _envelope(path: Path) -> signing.Envelope:
    return signing.parse_envelope(_read(_beside(path, ENVELOPE), signing.MAX_ENVELOPE))


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _read_zip(path: Path) -> bytes:
    data = _read(path, MAX_ZIP)
    verify.check_size(len(data))
    return data


def _read(path: Path, limit: int) -> bytes:
    """Return a file's content, and one byte more than `limit` when it is longer."""
    try:
        with path.open("rb") as file:
            return file.read(limit + 1)
    except OSError:
        missing = "sign the zip first" if path.name.endswith(ENVELOPE) else "name a file that is there"
        raise RefusedInput(f"{path} cannot be read: {missing}") from None


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError:
        raise RefusedInput(f"{path} cannot be written: name a file in a directory of yours") from None
