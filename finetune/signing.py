"""The signature over an export: OpenSSF model signing with an elliptic-curve key of one's own, offline."""

import base64
import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from finetune.artifacts import atomic
from finetune.artifacts.lock import LOCK
from finetune.config.schema import RunConfig
from finetune.errors import ConfigError, DataError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from model_signing.hashing import Config as Hashing

SIGNATURE = "model.sig"
UNSIGNED = (SIGNATURE, LOCK)
"""What the signature leaves out: itself, and the empty file by which a run folder is locked."""
DEFAULT_KEY = ".signing.pem"
CURVES = ("secp256r1", "secp384r1", "secp521r1")
"""Those that model-signing takes."""
SERIALISATION = {
    "method": "files",
    "hash_type": "sha256",
    "allow_symlinks": False,
    "ignore_paths": list(UNSIGNED),
}
"""What the signature says of how it was made; `model_signing verify` goes by it."""


@dataclass(frozen=True)
class Key:
    """A private key that was read and fits, and where its public half stands."""

    private: Path
    password: bytes | None
    public: Path

    def sign(self, folder: Path, digests: Mapping[str, str]) -> None:
        """Write the signature of a folder whose files have, or are about to have, these sha256 digests."""
        from model_signing import signing

        # the library takes the password as text and hands it on to one that wants bytes
        config = signing.Config().use_elliptic_key_signer(private_key=self.private, password=self.password)
        partial = folder / f"{SIGNATURE}.partial"
        config.set_hashing_config(_known(digests)).sign(folder, partial)
        text = partial.read_text(encoding="utf-8")
        partial.unlink()
        atomic.replace_text(folder / SIGNATURE, text)


def open_key(run: RunConfig) -> Key:
    """The key that signs: export.signing_key, else one that is made once below the artifacts root.

    Its public half is written beside. Raises ConfigError where the file is no such key or its password is wrong.
    """
    root = Path(run.paths.artifacts_root)
    given, variable = run.export.signing_key, run.export.signing_password_from_env
    if given is None:
        private, password = _made_once(root / DEFAULT_KEY), None
    else:
        private = Path(given).expanduser()
        password = _password(variable)
    pem = _public_pem(_read_private(private, password))
    public = root / f"signing-{sha256(pem).hexdigest()[:8]}.pub"
    atomic.make_folder(root)
    if not public.is_file() or public.read_bytes() != pem:
        atomic.replace_text(public, pem.decode())
    return Key(private, password, public)


def public_of(root: Path, folder: Path) -> Path | None:
    """The public half, below an artifacts root, of the key that a folder's signature names; None where it is not there.

    Raises DataError where there is no whole signature.
    """
    hint = str(_bundle(folder / SIGNATURE)["verificationMaterial"]["publicKey"].get("hint"))
    public = root / f"signing-{hint[:8]}.pub"
    return public if public.is_file() else None


def signed_digests(signature: Path) -> dict[str, str]:
    """The sha256 of each file as the signature states it; whose signature it is, is not asked here.

    Raises DataError where it is missing or was damaged.
    """
    try:
        payload = json.loads(base64.b64decode(_bundle(signature)["dsseEnvelope"]["payload"], validate=True))
        found = {item["name"]: item["digest"] for item in payload["predicate"]["resources"]}
        if all(isinstance(text, str) for pair in found.items() for text in pair):
            return found
    except (ValueError, KeyError, TypeError):
        pass
    raise _damaged(signature)


def _bundle(signature: Path) -> dict[str, Any]:
    """The sigstore bundle of a signature file."""
    if not signature.is_file():
        raise DataError(f"{signature} is missing: the folder is unfinished, or not signed")
    try:
        bundle: dict[str, Any] = json.loads(signature.read_text(encoding="utf-8"))
        if isinstance(bundle["verificationMaterial"]["publicKey"], dict) and bundle["dsseEnvelope"]:
            return bundle
    except (ValueError, KeyError, TypeError):
        pass
    raise _damaged(signature)


def _damaged(signature: Path) -> DataError:
    return DataError(f"{signature} is damaged: no signature of a model")


def require_signed(folder: Path, digests: Mapping[str, str], public: Path) -> str:
    """The id of the key, where its signature over the folder holds for these digests of its files.

    Raises DataError where it does not, ConfigError where the public key is none.
    """
    from model_signing import verifying
    from sigstore_models.bundle.v1 import Bundle

    identity, signature = key_id(public), folder / SIGNATURE
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=public)
        config.set_hashing_config(_known(digests)).verify(folder, signature)
        text = signature.read_text(encoding="utf-8")
        is_whole = Bundle.from_json(text).to_json() == text  # a bit that no reader looks at may have flipped
    except Exception as error:  # noqa: BLE001  (json, base64, pydantic, cryptography: each has its own)
        raise DataError(
            f"{signature} does not hold for the key {public} ({type(error).__name__}): it is another's, or the folder "
            "was changed; name the key that signed it, or have the folder from its team again"
        ) from None
    if not is_whole:
        raise DataError(f"{signature} was changed after it had been written")
    return identity


def key_id(public: Path) -> str:
    """The sha256 of a public key's PEM text, by which a signature names it. Raises ConfigError where it is no key."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(public.read_bytes())
    except (OSError, ValueError):
        raise ConfigError(f"{public} is no public key; give the PEM file that the export named") from None
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in CURVES:
        raise ConfigError(
            f"{public} is no key of one of the curves {', '.join(CURVES)}; give the one it was signed by"
        )
    return sha256(_pem(key)).hexdigest()


def _known(digests: Mapping[str, str]) -> "Hashing":
    """How model-signing asks for the digests of a folder, answered with those that are known."""
    from model_signing import hashing, manifest
    from model_signing._hashing.hashing import Digest

    items = [
        manifest.FileManifestItem(path=PurePosixPath(name), digest=Digest("sha256", bytes.fromhex(digest)))
        for name, digest in digests.items()
    ]
    kind = manifest.SerializationType.from_args(SERIALISATION)

    class Known(hashing.Config):  # type: ignore[misc]
        def hash(self, model_path: Any, *, files_to_hash: Any = None) -> Any:
            return manifest.Manifest(Path(model_path).name, items, kind)

    return Known()


def _password(variable: str | None) -> bytes | None:
    if variable is None:
        return None
    value = os.environ.get(variable)
    if not value:
        raise ConfigError(
            f"the environment variable {variable} (export.signing_password_from_env) is not set; set it"
        )
    return value.encode()


def _read_private(path: Path, password: bytes | None) -> "EllipticCurvePrivateKey":
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    where = f"export.signing_key={path}"
    try:
        key = load_pem_private_key(path.read_bytes(), password)
    except OSError:
        raise ConfigError(
            f"{where} cannot be read; name a PEM file, or set null for a key of its own"
        ) from None
    except TypeError:
        what = "has no password" if password else "has a password"
        advice = "unset" if password else "name its environment variable in"
        raise ConfigError(f"{where} {what}; {advice} export.signing_password_from_env") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"{where} is no private key in PEM, or its password is another") from None
    if not isinstance(key, EllipticCurvePrivateKey) or key.curve.name not in CURVES:
        raise ConfigError(f"{where} is of another kind; use an elliptic-curve key: {', '.join(CURVES)}")
    return key


def _made_once(path: Path) -> Path:
    """A P-256 key, readable by its owner alone."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    if path.exists():
        return path
    atomic.make_folder(path.parent)
    key = ec.generate_private_key(ec.SECP256R1())
    text = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    with atomic.created(partial) as stream:
        stream.write(text)
    with contextlib.suppress(FileExistsError):  # another process made it in between: its key holds
        path.hardlink_to(partial)
    partial.unlink()
    atomic.sync(path.parent)
    return path


def _public_pem(key: "EllipticCurvePrivateKey") -> bytes:
    return _pem(key.public_key())


def _pem(key: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization as form

    found: bytes = key.public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    return found
