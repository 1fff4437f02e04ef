"""The benchmarks run to the end. No test asserts a timing."""

from transformers import HiggsAudioV2Config

from benchmarks import extraction, full_size_step, logs
from benchmarks.full_size_step import Plan
from benchmarks.rows import ResultRow, table


def test_the_step_of_the_full_size_architecture():
    """The benchmark for CUDA devices runs on the CPU with few narrow layers, real vocabulary, bfloat16 and LoRA."""
    config = HiggsAudioV2Config(
        codebook_size=1026,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
    )
    plan = Plan(config, device="cpu", seconds=1.0, batch_sizes=(1,), rounds=1, steps=2)
    assert {row.unit for row in full_size_step.rows_of(plan)} == {"ms"}


def test_without_a_cuda_device_there_is_nothing_to_measure(monkeypatch):
    """The benchmark returns no rows and no error."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert full_size_step.rows() == []


def test_reading_checking_and_comparing_logs(tmp_path):
    """Every command runs over two clean and equal synthetic logs and has a row."""
    rows = logs.measure(tmp_path, 50, 1)
    ours = {"read", "merge", "show --raw --event train_step", "show --summary", "validate", "diff"}
    assert ours <= {row["name"] for row in rows}
    assert all(row["us_per_event"] > 0 and row["peak_mib"] > 0 for row in rows)
    assert len(logs.table(rows).splitlines()) == len(rows) + 2


def test_a_benchmark_gives_rows():
    """Each row of a quick run has a unique name, and `holds` is set if and only if the row has a target."""
    rows = extraction.rows(quick=True)
    assert rows
    assert all(isinstance(row, ResultRow) and row.name and row.unit for row in rows)
    assert len({row.name for row in rows}) == len(rows)
    assert all((row.holds is not None) == bool(row.target) for row in rows)
    assert len(table(rows).splitlines()) == len(rows) + 2
