"""Progress and tables."""

from tailguard.cli.show import print_table, progress_bars


def test_progress_without_a_terminal_is_a_line_at_each_tenth(capsys):
    with progress_bars() as bars:
        for done in range(101):
            bars("sampling", done, 100)
        bars("nothing", 0, 0)
        bars.line("over")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"  sampling: {10 * k}/100" for k in range(1, 11)] + ["over"]


def test_tables_show_every_value_whole(capsys):
    long = "cvar-10 guided at 0.7 of the way " * 8
    print_table([{"policy": long, "cost": 1.25}, {"policy": "base", "cost": 2}], title="run")
    out = capsys.readouterr().out
    assert long.strip() in out
    assert "1.25" in out
    assert out.index("policy") < out.index("cost")
