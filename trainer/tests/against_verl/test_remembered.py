"""What a run on verl knows beside verl's checkpoint, through kills at awkward moments."""

from pathlib import Path

from leyden_trainer.verl.remembered import Remembered, begin, remember


def test_a_resumed_run_knows_what_was_known_after_its_checkpoint(tmp_path: Path) -> None:
    assert begin(tmp_path, step=0) == Remembered(0, begun=1)
    for step in (1, 2, 3):
        remember(tmp_path, Remembered(step, begun=1, num_groups=10 * step, credit={"mean": step / 2}))
    assert begin(tmp_path, step=2) == Remembered(2, begun=2, num_groups=20, credit={"mean": 1.0})
    remember(tmp_path, Remembered(3, begun=2, num_groups=31))
    assert begin(tmp_path, step=2) == Remembered(2, begun=3, num_groups=20, credit={"mean": 1.0})
    assert begin(tmp_path, step=3) == Remembered(3, begun=4, num_groups=20, credit={"mean": 1.0})


def test_half_a_line_is_no_line(tmp_path: Path) -> None:
    begin(tmp_path, step=0)
    remember(tmp_path, Remembered(1, begun=1, num_groups=8))
    with (tmp_path / "remembered.jsonl").open("a") as file:
        file.write('{"step": 2, "beg')
    assert begin(tmp_path, step=2) == Remembered(2, begun=2, num_groups=8)
    assert begin(tmp_path, step=2) == Remembered(2, begun=3, num_groups=8)
