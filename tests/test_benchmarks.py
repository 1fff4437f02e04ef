"""The benchmarks run to the end. No test asserts a timing."""

from benchmarks import extraction, logs, scale
from benchmarks.rows import ResultRow, table


def test_reading_checking_and_comparing_logs(tmp_path):
    """Every command runs over two clean and equal synthetic logs and has a row."""
    rows = logs.measure(tmp_path, 50, 1)
    ours = {"read", "merge", "show --raw --event train_step", "show --summary", "validate", "diff"}
    assert ours <= {row["name"] for row in rows}
    assert all(row["us_per_event"] > 0 and row["peak_mib"] > 0 for row in rows)
    assert len(logs.table(rows).splitlines()) == len(rows) + 2


def test_many_ranks(tmp_path):
    """Every command runs over the files of all ranks."""
    rows = logs.measure_ranks(tmp_path, 3, 60)
    assert [row["name"] for row in rows] == ["merge", "show --summary", "validate", "report", "export --to parquet"]
    assert all(row["us_per_event"] > 0 and row["peak_mib"] > 0 for row in rows)


def test_a_benchmark_gives_rows():
    """Each row of a quick run has a unique name, and `holds` is set if and only if the row has a target."""
    rows = extraction.rows(quick=True)
    assert rows
    assert all(isinstance(row, ResultRow) and row.name and row.unit for row in rows)
    assert len({row.name for row in rows}) == len(rows)
    assert all((row.holds is not None) == bool(row.target) for row in rows)
    assert len(table(rows).splitlines()) == len(rows) + 2


def test_starts_with_many_samples_have_rows(monkeypatch):
    """Two starts are measured, and all examples equal those from files of codes. `--quick` starts processes."""
    monkeypatch.setattr(scale, "_start", scale._measured_start)
    rows = scale.rows([20])
    names = [row.name for row in rows]
    assert len(set(names)) == len(names) >= 8
    (equal,) = [row for row in rows if row.name.startswith("examples equal")]
    assert equal.figure == 20
    assert equal.holds
