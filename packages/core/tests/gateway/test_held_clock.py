from leyden.gateway.held import HeldClock


def test_overlapping_holds_count_once_and_one_that_goes_on_counts_until_now() -> None:
    now = [0.0]
    clock = HeldClock(lambda: now[0])
    now[0] = 10.0
    with clock.holding():  # 10 to 16
        now[0] = 12.0
        with clock.holding():  # 12 to 15, inside the other
            now[0] = 15.0
        now[0] = 16.0
    now[0] = 20.0
    assert clock.held_s == 6.0
    with clock.holding():
        now[0] = 21.5
        assert clock.held_s == 7.5
    now[0] = 30.0
    assert clock.held_s == 7.5
