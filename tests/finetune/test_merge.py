"""The merge as a stage runs it: streamed, the same bytes each time, going on after a kill, refusing what is damaged."""

import errno
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from finetune import merge_shard, safetensors_stream
from finetune.adapter_reading import read_adapter
from finetune.artifacts import room
from finetune.artifacts.hashing import HashCache, sha256_file
from finetune.errors import DataError, MachineError
from finetune.merge import Merged, records_of, write_merged
from finetune.merge_base import Base
from finetune.safetensors_stream import layout, read_header, written

INDEX = "model.safetensors.index.json"


@pytest.fixture
def base(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """The tiny model in several files."""
    network = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    network.save_pretrained(tmp_path / "base", max_shard_size="60KB")
    torch.manual_seed(0)
    model = get_peft_model(network, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "base"


def merged(base: Path, out: Path, recorded: bool = True) -> Merged:
    out.mkdir(exist_ok=True)
    source = Base(base, frozenset(), False, "cpu")
    adapter = base.parent / "adapter"
    records = records_of(out / "checkpoints", source, adapter, base.parent) if recorded else None
    return write_merged(source, read_adapter(adapter), out, records)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def test_two_merges_are_the_same_bytes_whatever_the_threads(base: Path, tmp_path: Path) -> None:
    found = []
    for count in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        merged(base, tmp_path / str(count))
        assert torch.get_num_threads() == count
        torch.set_num_threads(before)
        found.append(files(tmp_path / str(count)))
    assert found[0] == found[1]
    assert len(found[0]) > 4


def test_a_tensor_in_many_chunks_is_the_tensor_in_one_but_for_the_order_of_sums(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merged(base, tmp_path / "one")
    monkeypatch.setattr(merge_shard, "CHUNK", 500)  # 7 rows of 64
    monkeypatch.setattr(safetensors_stream, "PIECE", 1000)
    merged(base, tmp_path / "many")
    for path in (tmp_path / "one").glob("*.safetensors"):
        for (name, one), many in zip(
            load_file(path).items(), load_file(tmp_path / "many" / path.name).values(), strict=True
        ):
            assert torch.isclose(one.float(), many.float(), rtol=2**-7, atol=0).all(), name
            assert (one == many).float().mean() > 0.999, name


def test_a_file_is_the_librarys_byte_for_byte(base: Path, tmp_path: Path) -> None:
    merged(base, tmp_path / "out")
    for path in (tmp_path / "out").glob("*.safetensors"):
        save_file(load_file(path), tmp_path / "theirs", metadata={"format": "pt"})
        assert path.read_bytes() == (tmp_path / "theirs").read_bytes()
        assert path.stat().st_mode & 0o777 == 0o600


def test_changed_tensors_are_counted_and_hashed_and_the_manifest_knows_the_digests(
    base: Path, tmp_path: Path
) -> None:
    import xxhash

    found = merged(base, tmp_path / "out")
    assert len(found.changed) == len(found.modules) == 14
    assert 0 < found.max_rounding_ulp <= 0.5
    name = "model.layers.0.mlp.up_proj.weight"
    shard = json.loads((tmp_path / "out" / INDEX).read_text())["weight_map"][name]
    entry = read_header(tmp_path / "out" / shard)[name]
    content = (tmp_path / "out" / shard).read_bytes()[entry.begin : entry.end]
    assert found.changed[name] == xxhash.xxh3_128_hexdigest(content)
    cache = HashCache(tmp_path, rehash=False)
    for path in (tmp_path / "out").glob("*.safetensors"):
        assert cache.known[HashCache._key(path)] == sha256_file(path)


def spoil(path: Path, place: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_a_merge_that_stopped_goes_on_with_the_next_file(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    merged(base, tmp_path / "whole")
    whole, out = files(tmp_path / "whole"), tmp_path / "out"
    count = len(list(base.glob("*.safetensors")))

    def stop(pieces: list[int], at: int) -> Any:
        put = safetensors_stream.Sink.put

        def counting(self: Any, *given: Any) -> None:
            pieces.append(1)
            if len(pieces) == at:
                raise KeyboardInterrupt
            put(self, *given)

        return counting

    pieces: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(safetensors_stream.Sink, "put", stop(pieces, 12))
        with pytest.raises(KeyboardInterrupt):
            merged(base, out)
    finished = sorted((out / "checkpoints").glob("*.json"))
    assert 0 < len(finished) < count
    first = out / finished[0].name.removesuffix(".json")
    when = first.stat().st_mtime_ns
    found = merged(base, out)
    assert f"{len(finished)} of {count} files were finished before" in capsys.readouterr().out
    assert first.stat().st_mtime_ns == when
    assert len(found.changed) == 14
    assert files(out) == whole
    # believed only where the bytes agree
    spoil(first)
    merged(base, out)
    assert files(out) == whole
    assert first.stat().st_mtime_ns != when


def test_records_of_another_adapter_count_for_nothing(base: Path, tmp_path: Path) -> None:
    merged(base, tmp_path / "out")
    path = base.parent / "adapter/adapter_model.safetensors"
    save_file({name: tensor * 2 for name, tensor in load_file(path).items()}, path)
    merged(base, tmp_path / "out")
    merged(base, tmp_path / "fresh", recorded=False)
    assert files(tmp_path / "out") == files(tmp_path / "fresh")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def renamed(path: Path) -> None:
    path.rename(path.with_name("model-other.safetensors"))


def swapped(path: Path) -> None:
    index = path.with_name(INDEX)
    found = json.loads(index.read_text())
    name = next(name for name, file in found["weight_map"].items() if file == path.name)
    found["weight_map"][name] = next(file for file in found["weight_map"].values() if file != path.name)
    index.write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (Path.unlink, "which is not there"),
        (renamed, "which is not there"),
        (cut, "is damaged or cut short"),
        (lambda path: path.write_bytes(b""), "is damaged or cut short"),
        (swapped, "does not name for it"),
    ],
)
def test_a_damaged_base_stops_before_the_first_byte(harm: Any, told: str, base: Path, tmp_path: Path) -> None:
    harm(sorted(base.glob("*.safetensors"))[1])
    before = files(base)
    with pytest.raises(DataError, match=told) as error:
        merged(base, tmp_path / "out")
    assert error.value.exit_code == 4
    assert all("\n" not in problem for problem in error.value.problems)
    assert files(tmp_path / "out") == {}
    assert files(base) == before


def test_a_small_disk_is_known_before_the_first_byte(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100_000}))
    with pytest.raises(MachineError, match=r"the merged model needs 1\.\d MB and 0\.1 MB are free"):
        merged(base, tmp_path / "out")
    assert files(tmp_path / "out") == {}


def test_a_disk_that_fills_up_is_an_error_of_the_machine(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, piece: memoryview) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(safetensors_stream.Sink, "_write", full)
    with pytest.raises(OSError, match="No space left") as error:
        merged(base, tmp_path / "out")
    assert str(error.value.filename).endswith(".safetensors")


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 9, (9).to_bytes(8, "little") + b'{"a": 1}x', (1 << 60).to_bytes(8, "little")]
)
def test_a_header_that_is_none_is_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.safetensors cannot be read") as error:
        read_header(path)
    assert "\n" not in str(error.value)


def test_a_header_of_other_bytes_is_refused(tmp_path: Path) -> None:
    header, _ = layout([("a", "BF16", (2, 3)), ("b", "F32", (4,))])
    path = tmp_path / "x.safetensors"
    with written(path) as sink:
        sink.put(memoryview(header))
        sink.put(memoryview(bytes(27)))  # 28 are named
    with pytest.raises(DataError, match="its header names other bytes"):
        read_header(path)
    with written(path) as sink:
        sink.put(memoryview(header))
        sink.put(memoryview(bytes(28)))
    assert {name: entry.shape for name, entry in read_header(path).items()} == {"b": (4,), "a": (2, 3)}
    assert sink.sha256.hexdigest() == sha256_file(path)


@pytest.mark.parametrize("memory_disk", [False, True])
def test_a_file_around_the_page_cache_has_every_byte_and_one_through_it_too(
    memory_disk: bool, tmp_path: Path
) -> None:
    content = os.urandom(5_000_003) * 5  # no whole buffers, no whole blocks
    with tempfile.TemporaryDirectory(dir="/dev/shm" if memory_disk else tmp_path) as folder:  # noqa: S108
        path = Path(folder) / "x"
        given_back: list[int] = []
        with written(path) as sink:
            for begin in range(0, len(content), 3_000_001):
                piece = memoryview(content)[begin : begin + 3_000_001]
                sink.put(piece, lambda begin=begin: given_back.append(begin))
        assert path.read_bytes() == content
        assert sink.size == len(content)
        assert sink.sha256.hexdigest() == sha256_file(path)
        assert given_back == list(range(0, len(content), 3_000_001))
