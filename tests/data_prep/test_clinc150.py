"""CLINC150: queries of all parts with their intents."""

from collections import Counter
from pathlib import Path

import pytest

from data_prep.rows import Document
from data_prep.sources import Source, open_source
from finetune.config.data import DataConfig, SourceConfig, SourceKind
from finetune.config.schema import PathsConfig
from finetune.errors import DataError

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def opened(root: Path, artifacts: Path, labels: list[str] | None = None) -> Source:
    source = SourceConfig(SourceKind.clinc150, path="clinc150")
    data = DataConfig(name="d", licence="CC-BY-3.0", source=source, labels=labels)
    return open_source(data, PathsConfig(str(root), str(root), str(artifacts)), 1)


def write(root: Path, text: str) -> None:
    (root / "clinc150").mkdir()
    (root / "clinc150" / "data_full.json").write_text(text, encoding="utf-8")


def test_the_parts_are_pooled_and_queries_out_of_scope_keep_their_label(tmp_path: Path) -> None:
    text = (
        '{"oos_val": [["how é", "oos"]], "note": {"a": [1]},\n'
        ' "train": [ ["pay it","bill"] , ["\\u00e9", "pay"] ], "val": []}'
    )
    write(tmp_path, text)
    found = [item for item in opened(tmp_path, tmp_path).read() if isinstance(item, Document)]
    assert [(item.text, item.asks[0].target) for item in found] == [
        ("how é", "oos"),
        ("pay it", "bill"),
        ("é", "pay"),
    ]
    assert [text[item.origin.start : item.origin.end] for item in found] == [
        '["how é", "oos"]',
        '["pay it","bill"]',
        '["\\u00e9", "pay"]',
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"train": [["secret", "bill"], ["secret"', "broken JSON at character 41 of 40"),
        ('{"train": [["secret", "bill"] ["secret", "bill"]]}', "broken JSON at character 31 of 50"),
        ('[["secret", "bill"]]', "broken JSON at character 1 of 20; one object of lists"),
        ('{"train": [["secret", "bill"], ["secret", 7]]}', "element 2 of 'train' is no pair of strings"),
        (
            '{"train": [["words", "secret"]]}',
            "element 1 of 'train': intent, string of length 6, is not one of",
        ),
        ("", "broken JSON at character 1 of 0"),
        ('{"train": [["secret", " "]]}', "element 1 of 'train': intent is blank"),
        ('{"train": [["\\n", "secret"]]}', "element 1 of 'train': query is blank"),
        (
            '{"train": [["secret \\udc00", "bill"]]}',
            "half a surrogate pair in the value at character 12 of 38; re-encode it",
        ),
        ('{"train": [["secret", "\\ud83d"]]}', "half a surrogate pair in the value at character 12 of 33"),
    ],
)
def test_a_broken_file_names_the_place_but_not_its_content(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, text)
    with pytest.raises(DataError) as refused:
        list(opened(tmp_path, tmp_path, ["bill"]).read())
    assert message in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_missing_file_says_what_belongs_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="put CLINC150's data_full.json there"):
        opened(tmp_path, tmp_path)


@pytest.mark.skipif(not (DATA / "clinc150").is_dir(), reason="../shared/data/clinc150 is absent")
def test_the_real_queries(tmp_path: Path) -> None:
    found = [item for item in opened(DATA, tmp_path).read() if isinstance(item, Document)]
    intents = Counter(item.asks[0].target for item in found)
    assert (len(found), len(intents), intents["oos"]) == (23_700, 151, 1_200)
    assert len({item.origin for item in found}) == 23_700
