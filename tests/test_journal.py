"""The journal: what is done is kept, a torn line is not, another plan is refused."""

import subprocess
import sys
import time
from pathlib import Path
from threading import Barrier

import pytest

from blsp.errors import InputError
from blsp.journal import Journal, run_batches
from blsp.locking import hold

PLAN = {"model": "a", "prompts": "b"}


def finish(path: Path, count: int, plan: dict[str, str] = PLAN) -> list[int]:
    """Run batches [[0, 1], [2, 3], ...] that are not done yet; return the numbers of those run."""
    run: list[int] = []

    def work(number: int, batch: list[int]) -> list[int]:
        run.append(number)
        return batch

    batches = [[2 * i, 2 * i + 1] for i in range(count)]
    with Journal(path, plan) as journal:
        assert run_batches(journal, batches, work, lambda _: None)
        assert [journal.read(number) for number in range(count)] == batches
    return run


def test_finished_batches_are_not_done_again(tmp_path: Path) -> None:
    assert finish(tmp_path / "out", 2) == [0, 1]
    assert finish(tmp_path / "out", 4) == [2, 3]


@pytest.mark.parametrize("cut", [1, 10])
def test_a_torn_line_is_done_again(tmp_path: Path, cut: int) -> None:
    finish(tmp_path / "out", 2)
    journal = tmp_path / "out.journal"
    journal.write_bytes(journal.read_bytes()[:-cut])
    assert finish(tmp_path / "out", 3) == [1, 2]


def test_a_journal_that_never_got_its_plan_begins_again(tmp_path: Path) -> None:
    (tmp_path / "out.journal").write_text('{"plan": {"mod')
    assert finish(tmp_path / "out", 1) == [0]


def test_another_plan_is_refused_by_name(tmp_path: Path) -> None:
    finish(tmp_path / "out", 1)
    with pytest.raises(InputError, match=r"the same prompts \(c\), found b"):
        Journal(tmp_path / "out", {"model": "a", "prompts": "c"}).__enter__()


def test_something_else_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out.journal").write_text("hello\n")
    with pytest.raises(InputError, match="delete it to begin again"):
        Journal(tmp_path / "out", PLAN).__enter__()


def test_it_is_gone_when_removed(tmp_path: Path) -> None:
    with Journal(tmp_path / "out", PLAN) as journal:
        journal.remove()
    assert list(tmp_path.iterdir()) == []


# --- several processes ----------------------------------------------------------------------------


def share(path: Path, rank: int, count: int, only: int | None = None) -> bool:
    """Do one process's part of six batches; ``only`` stops it after so many."""
    done: list[int] = []

    def work(number: int, batch: list[str]) -> list[str]:
        if len(done) == only:
            raise KeyboardInterrupt
        done.append(number)
        return [f"{batch[0]} by {rank} of {count}"]

    batches = [[f"batch {number}"] for number in range(6)]
    with Journal(path, PLAN, writer=rank) as journal:
        return run_batches(journal, batches, work, lambda _: None, ranks=(rank, count))


def read_all(path: Path) -> list[str]:
    with Journal(path, PLAN) as journal:
        return [journal.read(number)[0] for number in sorted(journal.done)]


def test_the_last_process_to_end_knows_that_all_is_done(tmp_path: Path) -> None:
    assert not share(tmp_path / "out", 1, 2)
    assert share(tmp_path / "out", 0, 2)
    assert read_all(tmp_path / "out") == [f"batch {at} by {at % 2} of 2" for at in range(6)]


def test_a_run_goes_on_with_more_processes_or_fewer(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        share(tmp_path / "out", 1, 2, only=2)
    assert not share(tmp_path / "out", 2, 3)
    assert share(tmp_path / "out", 0, 1)
    assert read_all(tmp_path / "out") == [
        "batch 0 by 0 of 1",
        "batch 1 by 1 of 2",
        "batch 2 by 2 of 3",
        "batch 3 by 1 of 2",
        "batch 4 by 0 of 1",
        "batch 5 by 2 of 3",
    ]


def test_a_line_that_another_process_has_half_written_is_not_read_yet(tmp_path: Path) -> None:
    share(tmp_path / "out", 1, 2)
    other = tmp_path / "out.journal.1"
    content = other.read_bytes()
    other.write_bytes(content[:-3])
    with Journal(tmp_path / "out", PLAN) as journal:
        assert sorted(journal.done) == [1, 3]
        assert other.stat().st_size == len(content) - 3
        other.write_bytes(content)
        journal.refresh()
        assert (sorted(journal.done), journal.read(5)) == ([1, 3, 5], ["batch 5 by 1 of 2"])


def test_what_other_threads_came_to_is_kept_when_one_fails(tmp_path: Path) -> None:
    begun = Barrier(3)

    def work(number: int, batch: list[int]) -> list[int]:
        begun.wait(timeout=10)  # three at once, of which the first fails
        if number == 0:
            raise InputError("no answer")
        time.sleep(0.1)
        return batch

    with Journal(tmp_path / "out", PLAN) as journal:
        with pytest.raises(InputError, match="no answer"):
            run_batches(journal, [[0], [1], [2]], work, lambda _: None, workers=3)
        assert sorted(journal.done) == [1, 2]


# --- two runs -------------------------------------------------------------------------------------


def test_a_second_run_on_an_output_is_refused_while_the_first_goes_on(tmp_path: Path) -> None:
    with (
        Journal(tmp_path / "out", PLAN),
        pytest.raises(InputError, match="found one that is still going; wait for it"),
    ):
        Journal(tmp_path / "out", PLAN).__enter__()
    with Journal(tmp_path / "out", PLAN):
        pass


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from blsp.locking import hold\n"
    code += "with hold(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "out")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with pytest.raises(InputError, match="another --out"), hold(tmp_path / "out"):
        pass
    process.kill()
    process.wait()
    with hold(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == []
