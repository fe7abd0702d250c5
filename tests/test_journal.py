"""The journal: what is done is kept, a torn line is not, another plan is refused."""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Barrier

import pytest

from blsp import journal
from blsp.errors import InputError
from blsp.journal import Journal, Work, digest, finish_output
from blsp.locking import hold
from blsp.manifest import Meta, write_meta

PLAN = {"model": "a", "prompts": "b"}


def finish(path: Path, count: int, plan: dict[str, str] = PLAN) -> list[int]:
    """Do items 0 to 2 * count in pairs, but for those of an earlier call; then stop before the
    output is written. Returns the numbers of the batches done."""
    done: list[int] = []

    def work(batch: Sequence[int]) -> list[int]:
        done.append(batch[0] // 2)
        return list(batch)

    def write(items: Iterator[int]) -> None:
        assert list(items) == list(range(2 * count))
        raise KeyboardInterrupt

    batches = [[2 * i, 2 * i + 1] for i in range(count)]
    with pytest.raises(KeyboardInterrupt):
        finish_output(path, Work(plan=plan, batches=batches, unit="items"), work, write)
    return done


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


def share(
    path: Path, rank: int, count: int, monkeypatch: pytest.MonkeyPatch, only: int | None = None
) -> Meta | None:
    """Do one process's part of six items; ``only`` stops it after so many."""
    done: list[int] = []
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(count))

    def work(batch: Sequence[int]) -> list[str]:
        if len(done) == only:
            raise KeyboardInterrupt
        done.append(batch[0])
        return [f"item {batch[0]} by {rank} of {count}"]

    def write(items: Iterator[str]) -> None:
        path.write_text("\n".join(items))
        write_meta(path, Meta(command="test", plan=digest([PLAN])))

    batches = [[number] for number in range(6)]
    return finish_output(path, Work(plan=PLAN, batches=batches, unit="items"), work, write)


def test_the_last_process_to_end_writes_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert share(out, 1, 2, monkeypatch) is None
    assert not out.exists()
    assert share(out, 0, 2, monkeypatch) is not None
    assert out.read_text().splitlines() == [f"item {at} by {at % 2} of 2" for at in range(6)]
    assert {path.name for path in tmp_path.iterdir()} == {"out", "out.meta.json"}


def test_a_run_goes_on_with_more_processes_or_fewer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        share(out, 1, 2, monkeypatch, only=2)
    assert share(out, 2, 3, monkeypatch) is None
    assert share(out, 0, 1, monkeypatch) is not None
    assert out.read_text().splitlines() == [
        "item 0 by 0 of 1",
        "item 1 by 1 of 2",
        "item 2 by 2 of 3",
        "item 3 by 1 of 2",
        "item 4 by 0 of 1",
        "item 5 by 2 of 3",
    ]


def test_two_processes_that_end_at_once_do_not_stop_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both see that all is done; one writes, and the other leaves it to that one."""
    out = tmp_path / "out"
    assert share(out, 1, 2, monkeypatch) is None
    with hold(out):
        assert share(out, 0, 2, monkeypatch) is None
    assert share(out, 0, 1, monkeypatch) is not None
    assert len(out.read_text().splitlines()) == 6


def test_a_journal_that_another_process_has_just_removed_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "out.journal.7"
    monkeypatch.setattr(journal, "find_journals", lambda _: [gone])
    with Journal(tmp_path / "out", PLAN) as found:
        assert not found.done


def test_a_whole_output_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    share(out, 0, 1, monkeypatch)
    before = out.stat().st_mtime_ns
    assert share(out, 0, 1, monkeypatch, only=0) is not None
    assert out.stat().st_mtime_ns == before


def test_what_only_sifts_results_may_change_on_the_way(tmp_path: Path) -> None:
    out, written = tmp_path / "out", []

    def work_by(filters: str) -> Work:
        plan = {**PLAN, "filters": filters}
        return Work(plan=plan, sifting=["filters"], batches=[[0], [1]], unit="items")

    def stop_at_1(batch: Sequence[int]) -> list[int]:
        if batch[0]:
            raise KeyboardInterrupt
        return [10]

    def write(items: Iterator[int]) -> None:
        written.extend(items)
        out.write_text("")
        write_meta(out, Meta(command="test", plan=digest([work_by("new").plan])))

    with pytest.raises(KeyboardInterrupt):
        finish_output(out, work_by("old"), stop_at_1, write)
    finish_output(out, work_by("new"), lambda _: [11], write)
    assert written == [10, 11]
    with pytest.raises(InputError, match="expected no file yet, or that of the same run"):
        finish_output(out, work_by("old"), lambda _: [12], write)


def test_a_line_that_another_process_has_half_written_is_not_read_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share(tmp_path / "out", 1, 2, monkeypatch)
    other = tmp_path / "out.journal.1"
    content = other.read_bytes()
    other.write_bytes(content[:-3])
    with Journal(tmp_path / "out", PLAN) as journal:
        assert sorted(journal.done) == [1, 3]
        assert other.stat().st_size == len(content) - 3
        other.write_bytes(content)
        journal.refresh()
        assert (sorted(journal.done), journal.read(5)) == ([1, 3, 5], ["item 5 by 1 of 2"])


def test_what_other_threads_came_to_is_kept_when_one_fails(tmp_path: Path) -> None:
    begun = Barrier(3)

    def work(batch: Sequence[int]) -> list[int]:
        begun.wait(timeout=60)  # three at once, of which the first fails
        if batch[0] == 0:
            raise InputError("no answer")
        time.sleep(0.1)
        return list(batch)

    three = Work(plan=PLAN, batches=[[0], [1], [2]], unit="items", at_once=3)
    with pytest.raises(InputError, match="no answer"):
        finish_output(tmp_path / "out", three, work, lambda _: None)
    with Journal(tmp_path / "out", PLAN) as journal:
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
