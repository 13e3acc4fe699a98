"""Rows on disk, and their digest by meaning."""

import datetime

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddmake.artifacts import columns, digest, rows
from ddmake.errors import RecipeFailed

SCALARS = st.one_of(st.none(), st.integers(-2**40, 2**40), st.text(max_size=5))
TABLES = st.lists(st.fixed_dictionaries({
    "i": st.one_of(st.none(), st.integers(-2**40, 2**40)), "f": st.one_of(st.none(), st.floats(allow_nan=False)),
    "s": st.one_of(st.none(), st.text(max_size=5)), "b": st.one_of(st.none(), st.booleans()),
    "l": st.one_of(st.none(), st.lists(st.one_of(st.none(), st.text(max_size=3)), max_size=3)),
    "d": st.one_of(st.none(), st.fixed_dictionaries({"a": st.one_of(st.none(), st.integers(0, 9)), "b": st.lists(st.integers(0, 9), max_size=2)})),
}), min_size=1, max_size=12)
SCHEMA = pa.schema({"i": pa.int64(), "f": pa.float64(), "s": pa.string(), "b": pa.bool_(), "l": pa.list_(pa.string()),
                    "d": pa.struct({"a": pa.int64(), "b": pa.list_(pa.int64())})})


def told(table, size):
    return columns.digest(table.schema, table.to_batches(max_chunksize=size), {})


@settings(max_examples=60, deadline=None)
@given(TABLES, st.integers(1, 5))
def test_a_digest_does_not_depend_on_chunks(data, size):
    table = pa.Table.from_pylist(data, schema=SCHEMA)
    assert told(table, size) == told(table, 100)


@settings(max_examples=60, deadline=None)
@given(TABLES, TABLES)
def test_a_digest_tells_different_rows_apart(one, other):
    tables = [pa.Table.from_pylist(data, schema=SCHEMA) for data in (one, other)]
    assert (told(tables[0], 3) == told(tables[1], 3)) == (tables[0].equals(tables[1]))


def test_large_and_small_types_are_the_same_column():
    small, large = (pa.table({"s": pa.array(["a", None], kind)}) for kind in (pa.string(), pa.large_string()))
    assert told(small, 9) == told(large, 9)


def test_the_same_rows_written_by_datasets_have_the_same_digest(tmp_path):
    from datasets import Dataset

    data = [{"x": i, "s": f"row {i}", "l": ["a"] * (i % 3), "d": {"k": i / 2}} for i in range(2500)]
    rows.write(iter(data), tmp_path / "ours")
    Dataset.from_list(data).save_to_disk(tmp_path / "theirs", num_shards=3)
    ours, theirs = (digest.digest(tmp_path / name, {}) for name in ("ours", "theirs"))
    assert ours == theirs and ours["rows"] == 2500


def test_rows_read_back_as_they_were(tmp_path):
    from datasets import load_from_disk

    data = [{"i": 1, "f": 0.5, "s": "ü", "b": True, "l": [1, 2], "d": {"a": [{"x": "y"}]}, "n": None,
             "t": datetime.datetime(2026, 1, 2), "raw": b"\0"}, {"i": None, "late": "column"}]
    assert rows.write(data, tmp_path / "set") == 2
    back = load_from_disk(str(tmp_path / "set")).to_list()
    assert back[0] == {**data[0], "late": None}
    assert back[1]["late"] == "column" and back[1]["i"] is None


def test_a_type_that_shows_late_is_the_columns_type(tmp_path):
    """The first batch holds only nulls and whole numbers."""
    from datasets import load_from_disk

    data = [{"x": None, "y": 1} for _ in range(rows.BATCH)] + [{"x": "late", "y": 2.5}]
    rows.write(data, tmp_path / "set")
    back = load_from_disk(str(tmp_path / "set"))
    assert back[rows.BATCH] == {"x": "late", "y": 2.5} and back[0] == {"x": None, "y": 1.0}


def test_values_that_share_no_type_are_refused(tmp_path):
    data = [{"x": 1} for _ in range(rows.BATCH)] + [{"x": "one"}]
    with pytest.raises(RecipeFailed, match="don't agree"):
        rows.write(data, tmp_path / "set")
    assert list(tmp_path.iterdir()) == [], "nothing half-written is left"


def test_a_dataset_is_kept_as_its_save_to_disk_keeps_it(tmp_path):
    """Labels, nested columns, picked and shuffled rows, formats: whichever way it is written."""
    from datasets import ClassLabel, Dataset, Features, List, Value, load_from_disk

    features = Features({"label": ClassLabel(names=["no", "yes"]), "tags": List(Value("string")), "_type": {"n": Value("int8")}})
    plain = Dataset.from_dict({"label": [0, 1, 1], "tags": [["a"], [], None], "_type": [{"n": 1}, {"n": 2}, {"n": 3}]}, features)
    kinds = {"plain": plain, "sliced": plain.select(range(1, 3)), "picked": plain.select([2, 0]), "shuffled": plain.shuffle(seed=3),
             "formatted": plain.with_format("numpy"), "empty": plain.select([])}
    for name, dataset in kinds.items():
        rows.write_dataset(dataset, tmp_path / name)
        found = load_from_disk(str(tmp_path / name))
        assert found.features == dataset.features and found.format["type"] == dataset.format["type"], name
        assert found.with_format(None).to_list() == dataset.with_format(None).to_list(), name
