"""ICD-10-CM: terms of codes that have several."""

from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

from data_prep.rows import Document, Drop
from data_prep.sources import Source, open_source
from finetune.config.data import CodeLevel, DataConfig, SourceConfig, SourceKind
from finetune.config.schema import PathsConfig
from finetune.errors import DataError, MachineError

TABLE = """
TERMS = {"A00": ["Cholera"], "A00.0": ["Classic cholera", "Old cholera", "Old cholera"], "A00.1": ["Cholera eltor"]}
def get_all_codes(): return list(TERMS)
def is_leaf(code): return "." in code
def get_description(code): return TERMS[code][0]
def get_inclusion_term(code): return TERMS[code][1:]
"""


def opened(
    package: str, root: Path, labels: list[str] | None = None, level: CodeLevel | None = None
) -> Source:
    source = SourceConfig(SourceKind.icd10, package=package, level=level)
    data = DataConfig(name="d", licence="MIT", source=source, labels=labels)
    return open_source(data, PathsConfig(str(root), str(root), str(root)), 1)


def test_a_code_with_one_term_is_left_out_since_it_cannot_be_learned_and_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pretend_codes" / "data").mkdir(parents=True)
    (tmp_path / "pretend_codes" / "__init__.py").write_text(TABLE)
    (tmp_path / "pretend_codes" / "data" / "tabular.xml").write_text("<codes/>")
    monkeypatch.syspath_prepend(str(tmp_path))
    source = opened("pretend_codes", tmp_path)
    assert list(source.files) == ["pretend_codes/data/tabular.xml"]
    found = list(source.read())
    assert [(item.text, item.asks[0].target) for item in found if isinstance(item, Document)] == [
        ("Classic cholera", "A00.0"),
        ("Old cholera", "A00.0"),
    ]
    assert [(item.reason, item.lost) for item in found if isinstance(item, Drop)] == [
        ("code with a single term", False)
    ]
    with pytest.raises(DataError, match="not one of the 1 data.labels"):
        list(opened("pretend_codes", tmp_path, ["A00.1"]).read())


def test_chapters_are_asked_of_every_term_and_a_category_stays_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "chapter_codes" / "data").mkdir(parents=True)
    (tmp_path / "chapter_codes" / "__init__.py").write_text(
        TABLE + 'def get_ancestors(code): return ["A00", "A00-A09", "1"]\n'
        'TERMS["1"] = ["Certain infectious (and parasitic) diseases (A00-B99)"]\n'
    )
    (tmp_path / "chapter_codes" / "data" / "tabular.xml").write_text("<codes/>")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = list(opened("chapter_codes", tmp_path, level=CodeLevel.chapter).read())
    assert [
        (item.text, item.asks[0].target, item.groups) for item in found if isinstance(item, Document)
    ] == [
        (term, "Certain infectious (and parasitic) diseases", ("A00",))
        for term in ("Classic cholera", "Old cholera", "Cholera eltor")
    ]
    assert len(found) == 3


def test_a_missing_package_names_make_setup(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="no_such_package .*make setup"):
        opened("no_such_package", tmp_path)


@pytest.mark.skipif(
    find_spec("simple_icd_10_cm") is None, reason="simple-icd-10-cm is not installed; run make setup"
)
def test_the_real_codes_have_thousands_of_terms(tmp_path: Path) -> None:
    found = list(opened("simple_icd_10_cm", tmp_path).read())
    kept = [item for item in found if isinstance(item, Document)]
    terms = Counter(item.asks[0].target for item in kept)
    assert len(kept) > 12_000
    assert min(terms.values()) == 2
    assert {item.text for item in kept if item.asks[0].target == "A00.0"} == {
        "Cholera due to Vibrio cholerae 01, biovar cholerae",
        "Classical cholera",
    }
    assert len({item.origin for item in found}) == len(found)
