"""Stacks become a budget: whose a sample is, and what a thread's samples weigh."""

import shutil

import pytest

from bench import flame, profile
from bench.process import ChildFailed
from bench.profile import Frame, ProfileOptions, Stack, innermost, lines_of, owner, read_stacks, stage, weigh

LIB = "/x/.venv/lib/python3.11"
SITE = f"{LIB}/site-packages"
RUN = Frame("unrolled_run", f"{SITE}/trio/_core/_run.py")
SERVE = Frame("serve", "/work/arbstr/arbstr/assembly/_serve.py")
SEND = Frame("send_all", f"{SITE}/trio/_highlevel_socket.py")


def stack(*frames: Frame, thread: str = "1 MainThread", samples: int = 1) -> Stack:
    return Stack(thread, frames, samples)


def test_frames_are_read_when_py_spy_has_written_them() -> None:
    text = (
        f"thread (7): arbstr-writer;run (/x/arbstr/store/_writer.py);execute ({SITE}/sqlite_utils/db.py) 12\n"
        "py-spy has warned of something\n"
    )

    assert read_stacks(text) == [
        Stack(
            "7 arbstr-writer",
            (Frame("run", "/x/arbstr/store/_writer.py"), Frame("execute", f"{SITE}/sqlite_utils/db.py")),
            12,
        )
    ]


@pytest.mark.parametrize(
    ("file", "name"),
    [
        (f"{SITE}/httpcore/_async/http11.py", "httpcore"),
        (f"{SITE}/six.py", "six"),
        ("/work/arbstr/arbstr/edge/_app.py", "arbstr.edge"),
        ("/work/arbstr/arbstr/units.py", "arbstr.units"),
        ("/work/arbstr/actors/_ref.py", "actors"),
        (f"{LIB}/json/decoder.py", "stdlib"),
        ("<string>", "stdlib"),
    ],
)
def test_a_file_belongs_to_a_room_or_a_package(file: str, name: str) -> None:
    assert owner(file) == name


@pytest.mark.parametrize(
    ("frames", "name"),
    [
        pytest.param((SERVE, RUN, Frame("write", f"{SITE}/h11/_writers.py"), SEND), "h11", id="Trio on behalf"),
        pytest.param((SERVE, RUN), "trio's scheduler", id="no task"),
        pytest.param((SERVE, RUN, SEND), "trio's scheduler", id="nobody's task"),
        pytest.param((SERVE,), "arbstr.assembly", id="own"),
        pytest.param((Frame("_monitor", f"{LIB}/logging/handlers.py"),), "stdlib alone", id="a thread of its own"),
    ],
)
def test_a_sample_belongs_to_who_called_when_the_innermost_frame_only_carries(
    frames: tuple[Frame, ...], name: str
) -> None:
    assert stage(stack(*frames)) == name


def test_a_thread_weighs_its_cpu_time_when_it_was_seen_waiting_as_often_as_the_other() -> None:
    main = stack(SERVE, samples=30)
    waiting = stack(SEND, thread="2 waiter", samples=60)

    weighed = weigh([main, waiting, stack(RUN, samples=10)], {"1": 900.0, "2": 100.0, "3": 5.0})

    assert [share for _, share in weighed] == pytest.approx([0.675, 0.1, 0.225])
    lines = lines_of(weighed, lambda each: each.thread, 200.0)
    assert [(line.name, line.share, line.cpu_us) for line in lines] == [
        ("1 MainThread", 0.9, 180.0),
        ("2 waiter", 0.1, 20.0),
    ]
    assert innermost(main) == "arbstr.assembly: serve (_serve.py)"


def test_nothing_is_shared_out_when_no_thread_used_any_cpu() -> None:
    with pytest.raises(ChildFailed, match="used any CPU"):
        weigh([stack(SERVE)], {"1": 0.0})


def test_a_flame_graph_names_what_is_wide_and_leaves_out_what_cannot_be_seen() -> None:
    drawn = flame.svg([(["all", "<wide>"], 9_999.0), (["all", "narrow"], 1.0)], "arbstr & co")

    assert drawn.startswith("<svg ")
    assert "&lt;wide&gt;: 99.99%" in drawn
    assert "narrow" not in drawn
    assert "arbstr &amp; co" in drawn
    with pytest.raises(ValueError, match="nothing to draw"):
        flame.svg([], "nothing")


def test_what_is_missing_is_named_when_there_is_no_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile.sys, "executable", "/nowhere/python")
    monkeypatch.setattr(shutil, "which", lambda name: None)

    with pytest.raises(ChildFailed, match="needs py-spy"):
        profile.py_spy()


def has_sampler() -> bool:
    try:
        profile.py_spy()
    except ChildFailed:
        return False
    return True


@pytest.mark.live
@pytest.mark.skipif(not has_sampler(), reason="the dependency group bench is not installed")
async def test_stages_add_up_to_the_whole_when_arbstr_is_sampled() -> None:
    report = await profile.profile(ProfileOptions(seconds=1.0, durability="process"))

    assert report.failures == {}
    assert report.samples > 0
    assert sum(line.share for line in report.stages) == pytest.approx(1.0, abs=0.01)
    assert {"MainThread", "arbstr-writer"} <= {line.name for line in report.threads}
