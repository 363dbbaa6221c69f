"""Guards: a wrong ledger that the command calls good."""

from llava_pl.app.data.ledger import main
from llava_pl.ledger_file import Plan, Segment, encode_entry, ledger_path


def write(run, *entries):
    ledger_path(run, 0).parent.mkdir(exist_ok=True)
    ledger_path(run, 0).write_bytes(b"".join(encode_entry(*entry) for entry in entries))
    Plan(num_samples=3, is_cut_short=False, segments=(Segment(0, 1),)).write(run)


def test_good(tmp_path, capsys):
    write(tmp_path, (0, 0, [2, 0]), (1, 0, [1]), (2, 1, [1]))
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "epoch 0 whole, steps 0 to 1: 3 samples seen, 0 missing, 0 repeats, 0 of padding: good",
        "epoch 1 in part, steps 2 to 2: 1 samples seen, 2 missing, 0 repeats, 0 of padding: good",
    ]


def test_wrong(tmp_path, capsys):
    write(tmp_path, (0, 0, [2, 0]), (1, 0, [2]))
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.endswith("1 missing, 1 repeats, 0 of padding: WRONG\n")


def test_the_command(tmp_path, capsys):
    from llava_pl.cli import main as llava_pl

    write(tmp_path, (0, 0, [2, 0]), (1, 0, [1]))
    assert llava_pl(["data", "ledger", str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith(": good\n")
    assert llava_pl(["data", "ledger", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
