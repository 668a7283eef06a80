"""The search for a capacity and the order of a sweep, on a fake server whose curve is known."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from load_tests.__main__ import main
from load_tests.commands.sweep import parser, summary
from load_tests.errors import MeasurementFailed
from load_tests.generator.loops import Outcome
from load_tests.generator.run import Load
from load_tests.generator.statistics import Spent, summarise
from load_tests.report import table
from load_tests.scenarios.sweep import Measured, Sweep, SweepConfig, climb, still_growing, sweep
from tests.unit.load_tests.fakes import OK, OVERLOADED, FakeServer, served

CAPACITY = 200.0
CONFIG = SweepConfig(shares=(0.5, 1.0, 2.0, 3.0, 0.1), step_s=2.0, deadline_ms=250)


@dataclass
class FakeWorld:
    """A server of known capacity: `alone` images per second and client, up to the capacity.

    `noise` is the standard deviation of each throughput. Every run multiplies the capacity by
    `drift`, and each doubling of the clients above the knee multiplies it by `thrash`.
    """

    alone: float = 20.0
    noise: float = 0.0
    drift: float = 1.0
    thrash: float = 1.0
    refuses_from: int = 1 << 20  # clients
    seed: int = 0
    loads: list[Load] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)  # noqa: S311  # a fake's noise

    async def measure(self, load: Load) -> Measured:
        capacity = CAPACITY * self.drift ** len(self.loads)
        self.loads.append(load)
        asked = load.rate if load.rate is not None else self.alone * (load.clients or 0)
        if asked > capacity:
            capacity *= self.thrash ** (asked / capacity)
        rate = min(asked, capacity * self._rng.gauss(1, self.noise))
        answered = [_outcome(200)] * round(rate * load.duration_s)
        offered = round((load.rate or rate) * load.duration_s)
        refused = max(0, offered - len(answered))
        if load.clients is not None and load.clients >= self.refuses_from:
            refused += len(answered)
        deadline_s = None if load.deadline_ms is None else load.deadline_ms / 1e3
        outcomes = answered + [_outcome(503)] * refused
        return Measured(
            summarise(outcomes, Spent(load.duration_s, 0.1, 1), deadline_s), [(12.0, 10.0)]
        )


def _outcome(status: int) -> Outcome:
    return Outcome(0.01, 0.01, 0.0, status=status, code=None if status == 200 else "overloaded")


def _climbed(world: FakeWorld) -> list[tuple[int, float]]:
    rungs = asyncio.run(climb(world.measure, CONFIG, lambda _: None))
    return [(rung.clients, rung.per_s) for rung in rungs]


def _swept(world: FakeWorld, config: SweepConfig = CONFIG) -> Sweep:
    return asyncio.run(sweep(world.measure, config, lambda _: None, lambda _: None))


def test_clients_double_until_two_successive_rungs_show_no_growth() -> None:
    rungs = _climbed(FakeWorld())

    assert [clients for clients, _ in rungs] == [1, 2, 4, 8, 16, 32, 64]
    assert max(per_s for _, per_s in rungs) == CAPACITY


def test_the_search_continues_to_sixteen_clients_and_never_above_512() -> None:
    at_once, never = FakeWorld(alone=CAPACITY), FakeWorld(alone=0.5)

    assert [clients for clients, _ in _climbed(at_once)] == [1, 2, 4, 8, 16]
    assert [clients for clients, _ in _climbed(never)][-1] == 512


def test_one_slow_rung_does_not_end_the_search() -> None:
    assert still_growing([20, 40, 38])
    assert still_growing([20, 40, 38, 80])
    assert not still_growing([20, 40, 38, 41])


def test_slow_growth_that_adds_up_is_growth() -> None:
    assert still_growing([100, 102, 104])
    assert not still_growing([100, 101, 102])


@pytest.mark.parametrize("seed", range(20))
def test_the_capacity_is_measured_within_the_noise(seed: int) -> None:
    done = _swept(FakeWorld(noise=0.03, seed=seed))

    # The best of about four rungs at the plateau: one standard deviation too high on average,
    # and hardly ever three.
    assert done.capacity == pytest.approx(CAPACITY, rel=0.09)


def test_a_server_that_thrashes_has_the_capacity_of_its_best_rung() -> None:
    done = _swept(FakeWorld(thrash=0.7))

    assert done.best.clients == 8  # 160 a second; 16 clients ask for 320 and get 113
    assert done.capacity < CAPACITY


def test_the_search_ends_once_requests_are_rejected() -> None:
    rungs = _climbed(FakeWorld(alone=1.0, refuses_from=16))

    assert rungs[-1][0] == 16


def test_broken_images_among_the_others_do_not_end_the_search() -> None:
    async def measure(load: Load) -> Measured:
        seen = await FakeWorld().measure(load)
        statuses = {**seen.report.statuses, "415": 500}
        return Measured(
            replace(seen.report, statuses=statuses, requests=seen.report.requests + 500)
        )

    rungs = asyncio.run(climb(measure, CONFIG, lambda _: None))

    assert [rung.clients for rung in rungs] == [1, 2, 4, 8, 16, 32, 64]


def test_a_server_that_answers_nothing_raises_with_its_statuses() -> None:
    async def refuse(load: Load) -> Measured:
        outcomes = [_outcome(503)] * 3 + [Outcome(1.0, None, 0.0, error="timeout")]
        return Measured(summarise(outcomes, Spent(load.duration_s, 0.1, 1), None))

    with pytest.raises(MeasurementFailed, match="3 × 503, 3 × overloaded, 1 × timeout"):
        asyncio.run(climb(refuse, CONFIG, lambda _: None))


def test_steps_run_in_a_seeded_order_and_are_reported_sorted() -> None:
    world = FakeWorld()

    done = _swept(world)

    run = [load.rate for load in world.loads if load.rate is not None]
    assert run != sorted(run)
    assert [step.load.rate for step in done.steps] == sorted(run) == [20, 100, 200, 400, 600]
    assert run == [load.rate for load in _loads_of(FakeWorld()) if load.rate is not None]
    assert len({load.seed for load in world.loads if load.rate is not None}) == len(run)


def _loads_of(world: FakeWorld) -> list[Load]:
    _swept(world)
    return world.loads


def test_only_steps_have_the_deadline() -> None:
    world = FakeWorld()

    _swept(world)

    deadlines = {load.clients is None: load.deadline_ms for load in world.loads}
    assert deadlines == {True: 250, False: None}


def test_the_capacity_is_measured_again_at_the_end_and_the_drift_reported() -> None:
    world = FakeWorld(drift=0.99)

    done = _swept(world)

    assert world.loads[-1].clients == done.best.clients
    runs_between = len(world.loads) - 1 - [r.clients for r in done.rungs].index(done.best.clients)
    assert done.drift == pytest.approx(0.99**runs_between - 1, abs=0.01)  # whole images
    assert f"({done.drift:+.1%})" in summary(done)[0]


def test_each_row_has_a_cell_for_each_column_of_the_header() -> None:
    done = _swept(FakeWorld())

    rows = [*map(table.of_rung, done.rungs), *map(table.of_step, done.steps)]

    assert {len(row) for row in rows} == {len(table.HEADER)}
    assert len({len(line) for line in map(table.line, rows)}) == 1
    assert rows[0][:4] == ["1 client", "–", "20.0", "–"]
    assert rows[-1][:4] == ["3 ×", "600.0", "200.0", "200.0"]
    assert rows[-1][6] == "66.7%"


def test_the_terminal_header_is_aligned_and_no_cells_touch() -> None:
    row = table.line(["512 clients", *["12345.6"] * (len(table.HEADER) - 1)])

    assert {len(line) for line in table.heading().splitlines()} == {len(row)}
    assert row.split() == ["512", "clients", *["12345.6"] * (len(table.HEADER) - 1)]


@pytest.mark.lengthy
def test_the_command_measures_a_real_server_and_saves_numbers_and_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jpg").write_bytes(b"image")
    kept, page = tmp_path / "sweep.json", tmp_path / "sweep.html"

    with served(FakeServer([OK, OK, OK, OVERLOADED])) as url:
        code = main(
            f"sweep --url {url} --images {tmp_path} --step-s 0.1 --loads 0.5,0.1 "
            f"--json {kept} --html {page}".split()
        )

    assert code == 0
    result = json.loads(kept.read_text(encoding="utf-8"))
    assert [step["share"] for step in result["steps"]] == [0.1, 0.5]
    assert all(step["report"]["statuses"].keys() == {"200", "503"} for step in result["steps"])
    assert result["capacity_per_s"] == max(r["report"]["throughput"] for r in result["rungs"][:-1])
    assert {"command", "machine"} <= result.keys()
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    printed = capsys.readouterr().out.splitlines()
    assert {"0.1", "0.5", "capacity"} <= {line.split(" ")[0] for line in printed}


def test_a_server_that_rejects_everything_exits_1_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jpg").write_bytes(b"image")

    with served(FakeServer([OVERLOADED])) as url:
        code = main(["sweep", "--url", url, "--images", str(tmp_path), "--step-s", "0.05"])

    assert code == 1
    assert "no image was answered with 1 client" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("loads", "reason"),
    [("0.5,0", "positive"), ("a", "number"), ("1,2,1.0", "duplicate"), ("", "number")],
)
def test_bad_loads_exit_2_with_the_reason(
    loads: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        parser().parse_args(["--loads", loads])

    assert stopped.value.code == 2
    assert reason in capsys.readouterr().err
