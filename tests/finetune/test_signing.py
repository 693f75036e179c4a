"""The signature of a folder: whose key it was, and that no bit of the folder, the signature included, may change."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from finetune import artifacts
from finetune.artifacts import Artifact, Spec
from finetune.config.schema import PathsConfig, RunConfig
from finetune.errors import ConfigError, DataError, HallmarkError
from finetune.signing import SIGNATURE, open_key
from finetune.verify import main, verify


@pytest.fixture
def run(tmp_path: Path) -> RunConfig:
    return RunConfig(
        name="tiny", paths=PathsConfig("", "", str(tmp_path / "artifacts"), str(tmp_path / "runs"))
    )


def sealed(run: RunConfig) -> tuple[Artifact, Path]:
    """A finished folder of three files, and the public half of the key that signed it."""
    key = open_key(run)
    spec = Spec("export", 1, "tiny", {"export": {}}, {})
    with artifacts.writing(run.paths, spec, move_current=True) as output:
        if output.finished is None:
            output.write_text("README.md", "# a\n")
            output.write_text("licences/x.txt", "free\n")
            output.write_bytes("model.safetensors", bytes(range(64)))
            output.seal = lambda digests: key.sign(output.folder, digests)
    return output.made(), key.public


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, password: bytes | None = None) -> bytes:
    lock = form.BestAvailableEncryption(password) if password else form.NoEncryption()
    return key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, lock)


def test_a_signed_folder_verifies_anywhere_with_nothing_but_the_key(run: RunConfig, tmp_path: Path) -> None:
    made, public = sealed(run)
    elsewhere = shutil.copytree(made.folder, tmp_path / "elsewhere")
    (elsewhere / ".lock").unlink()
    for path in elsewhere.rglob("*"):
        path.chmod(0o755)
    copy = Path(shutil.copy(public, tmp_path / "team.pub"))
    shutil.rmtree(run.paths.artifacts_root)
    found = verify(elsewhere, copy)
    assert found.key is not None
    assert sorted(found.digests) == ["README.md", "licences/x.txt", "manifest.json", "model.safetensors"]
    assert verify(elsewhere).key is None


def test_the_command_says_what_was_verified(run: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    made, public = sealed(run)
    main(["--export", str(made.folder), "--key", str(public)])
    told = capsys.readouterr().out
    assert f"export tiny/{made.manifest.run}, content {made.manifest.content[:16]}" in told
    assert "4 files" in told
    assert "signed by the key" in told
    main(["--export", str(made.folder)])
    assert "NOT asked who signed it" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="EXPORT= is not given"):
        main([])


def test_one_flipped_bit_anywhere_is_found(run: RunConfig) -> None:
    made, public = sealed(run)
    for path in sorted(path for path in made.folder.rglob("*") if path.is_file() and path.name != ".lock"):
        whole = path.read_bytes()
        step = max(1, len(whole) // 60)
        for place in {*range(0, len(whole), step), len(whole) - 1}:
            for bit in (0, 5):
                path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
                with pytest.raises(DataError):
                    verify(made.folder, public)
        path.write_bytes(whole)
    assert verify(made.folder, public)


def test_every_byte_of_the_signature_counts(run: RunConfig) -> None:
    made, public = sealed(run)
    path = made.folder / SIGNATURE
    whole = path.read_bytes()
    start = whole.index(b'"signatures"') if b'"signatures"' in whole else 0
    for place in range(
        start, len(whole)
    ):  # the signature itself, whose base64 has bits that no reader looks at
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(DataError):
            verify(made.folder, public)
    for same in (
        whole + b" ",
        json.dumps(json.loads(whole), indent=1).encode(),
    ):  # reads the same, is not the same
        path.write_bytes(same)
        with pytest.raises(DataError, match="was changed after it had been written"):
            verify(made.folder, public)


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda folder: (folder / "more.py").write_text("x"), r"more\.py is not among the signed files"),
        (lambda folder: (folder / "README.md").unlink(), r"README\.md is missing"),
        (lambda folder: (folder / "README.md").write_text("other"), r"README\.md was changed: sha256"),
        (lambda folder: (folder / "manifest.json").unlink(), r"manifest\.json is missing"),
        (lambda folder: (folder / SIGNATURE).unlink(), r"model\.sig is missing"),
        (lambda folder: (folder / SIGNATURE).write_text("{}"), r"model\.sig is damaged"),
        (lambda folder: (folder / ".lock").write_text("x"), r"\.lock is not among the signed files"),
        (lambda folder: (folder / "link").symlink_to("README.md"), r"link is a link"),
    ],
)
def test_what_differs_is_named(run: RunConfig, harm: object, told: str) -> None:
    made, public = sealed(run)
    harm(made.folder)  # type: ignore[operator]
    for key in (None, public):
        with pytest.raises(DataError, match=told):
            verify(made.folder, key)


def test_another_key_does_not_verify_and_a_folder_resigned_by_it_neither(
    run: RunConfig, tmp_path: Path
) -> None:
    made, public = sealed(run)
    other = RunConfig(name="tiny", paths=PathsConfig("", "", str(tmp_path / "other"), "runs"))
    theirs = open_key(other)
    with pytest.raises(DataError, match="does not hold for the key"):
        verify(made.folder, theirs.public)
    (made.folder / "README.md").write_text("forged")
    theirs.sign(made.folder, verify_less(made.folder))
    with pytest.raises(DataError):
        verify(made.folder, public)


def verify_less(folder: Path) -> dict[str, str]:
    from finetune.artifacts.hashing import sha256_file
    from finetune.verify import files_of

    return {name: sha256_file(path) for name, path in files_of(folder).items()}


def test_the_standard_tool_accepts_the_folder_and_finds_a_change(run: RunConfig) -> None:
    made, public = sealed(run)
    folder = str(made.folder)
    command = [sys.executable, "-m", "model_signing", "verify", "key", folder]
    command += ["--signature", f"{folder}/{SIGNATURE}", "--public_key", str(public)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (made.folder / "README.md").write_text("# b\n")
    assert subprocess.run(command, capture_output=True).returncode == 1


def test_the_default_key_is_made_once_for_its_owner_alone(run: RunConfig) -> None:
    first, second = open_key(run), open_key(run)
    assert first == second
    assert first.private.name == ".signing.pem"
    assert first.private.stat().st_mode & 0o777 == 0o600
    assert first.public.parent == first.private.parent


def test_a_key_of_the_team_with_a_password(
    run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "team.pem"
    path.write_bytes(pem(ec.generate_private_key(ec.SECP384R1()), b"much secret"))
    run.export.signing_key, run.export.signing_password_from_env = str(path), "TEAM_PASSWORD"
    monkeypatch.setenv("TEAM_PASSWORD", "much secret")
    made, public = sealed(run)
    assert verify(made.folder, public).key
    assert not (Path(run.paths.artifacts_root) / ".signing.pem").exists()
    monkeypatch.setenv("TEAM_PASSWORD", "wrong")
    refused(run, "its password is another")
    monkeypatch.delenv("TEAM_PASSWORD")
    refused(run, "environment variable TEAM_PASSWORD")
    run.export.signing_password_from_env = None
    refused(run, "has a password; name its environment variable")


def test_a_key_that_cannot_sign_is_refused(run: RunConfig, tmp_path: Path) -> None:
    path = tmp_path / "team.pem"
    run.export.signing_key = str(path)
    refused(run, "cannot be read")
    path.write_text("no key")
    refused(run, "is no private key in PEM")
    path.write_bytes(pem(rsa.generate_private_key(65537, 2048)))
    refused(run, "use an elliptic-curve key")
    path.write_bytes(pem(ec.generate_private_key(ec.SECP256K1())))
    refused(run, "use an elliptic-curve key: secp256r1")


def refused(run: RunConfig, told: str) -> None:
    with pytest.raises(HallmarkError, match=told) as caught:
        open_key(run)
    assert type(caught.value) is ConfigError
    assert "much secret" not in str(caught.value)


def test_a_run_killed_before_its_manifest_is_unfinished_whatever_was_signed(run: RunConfig) -> None:
    made, public = sealed(run)
    (made.folder / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"manifest\.json is missing"):
        verify(made.folder, public)
    again, _ = sealed(run)
    assert verify(again.folder, public)
