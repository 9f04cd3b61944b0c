"""Write docs/actors/reference.md from the signatures and docstrings of ``actors`` and ``actors.testing``.

With --check nothing is written: exit code 1 if the file is not what would be written.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "actors" / "reference.md"
sys.path.insert(0, str(ROOT))

import actors  # noqa: E402 - the package of this checkout, wherever this is run from
import actors.testing  # noqa: E402

GROUPS = {
    "Systems": "ActorSystem SystemStatistics",
    "Actors": "TrioActor InboxPolicy Reply Ask Timer Terminated",
    "Refs and futures": "TrioActorRef TrioFuture wait_for ActorStatistics InboxStatistics",
    "Supervision": "Supervisor ChildSpec Restart Strategy KILL StartChild StopChild WhichChildren ChildInfo",
    "Dead letters": "DeadLetters DeadLetter Recipient",
    "Errors": "ActorError ActorDeadError AskTimeout InboxFull MessageDropped RestartLimitReached SystemNotRunning "
    "WouldDeadlock",
}

# Public in Python's sense, for the package's own files.
INTERNAL = {
    "ActorSystem": "admit construct launch start_task call_soon forget crash on_thread deadlines thread",
    "DeadLetters": "add",
    "Fault": "meets strikes",
    "Reply": "revoke",
    "Rig": "actor_failed",
    "Timer": "resume",
    "Probe": "record",
    "TrioActorRef": "point_at",
    "TrioFuture": "settle wait_in_thread expect_in_thread answer_by derive result",
}

# Made by the package, not by its users.
MADE_WITHIN = {
    *("ActorSystem", "ActorStatistics", "ChildInfo", "DeadLetter", "DeadLetters", "Failure", "InboxStatistics"),
    *("RefsLeftBehind", "Reply", "Rig", "SystemStatistics", "Terminated", "Timer", "TrioActor", "TrioActorRef"),
}

EXTRA = {
    "ActorSystem": "**ActorSystem.dead_letters**\n\nA `DeadLetters`: what nobody has handled.\n",
    "ActorStatistics": "Fields: {fields}.\n",
    "SystemStatistics": "Fields: {fields}.\n",
    "InboxStatistics": "Fields: {fields}.\n",
    "ChildInfo": "Fields: {fields}.\n",
    "DeadLetter": "Fields: {fields}.\n",
    "Terminated": "Fields: {fields}.\n",
    "Failure": "Fields: {fields}.\n",
}

HEAD = """# Reference

Every public name of `actors` and `actors.testing`, from their docstrings (`python docs/actors/reference.py` writes this
file). What is inherited from Pykka unchanged is in [Pykka's manual](https://pykka.readthedocs.io). Times are seconds.
"""


def main() -> int:
    text = reference()
    if "--check" in sys.argv[1:]:
        if REFERENCE.read_text("utf-8") == text:
            return 0
        sys.stderr.write(f"{REFERENCE.relative_to(ROOT)} is out of date: run `python docs/actors/reference.py`\n")
        return 1
    REFERENCE.write_text(text, "utf-8")
    return 0


def reference() -> str:
    """The whole file."""
    listed = [name for names in GROUPS.values() for name in names.split()]
    unlisted = sorted(set(actors.__all__) ^ set(listed))
    assert not unlisted, f"put these into a group, or out of one: {unlisted}"
    parts = [HEAD]
    for title, names in GROUPS.items():
        parts.append(f"## {title}\n")
        parts.extend(_entry(name, getattr(actors, name)) for name in names.split())
    parts.append("## actors.testing\n")
    parts.extend(_entry(name, getattr(actors.testing, name)) for name in sorted(actors.testing.__all__, key=str.lower))
    return "\n".join(parts)


def _entry(name: str, thing: Any) -> str:
    if inspect.isclass(thing):
        return _class(name, thing)
    if inspect.isfunction(thing):
        return f"### {name}\n\n{_code(name, thing)}\n{_doc(thing)}"
    return f"### {name}\n\n{_doc_of_constant(name)}"


def _class(name: str, thing: type) -> str:
    lines = [f"### {name}\n"]
    if issubclass(thing, enum.Enum):
        lines.append("Members: " + ", ".join(f"`{member.name}`" for member in thing) + ".\n")
    elif name in MADE_WITHIN or issubclass(thing, BaseException):
        pass
    elif "__init__" in vars(thing) or dataclasses.is_dataclass(thing) or issubclass(thing, tuple):
        lines.append(_code(name, thing))
    lines.append(_doc(thing))
    if name in EXTRA:
        fields = [field.name for field in dataclasses.fields(thing)] if dataclasses.is_dataclass(thing) else []
        lines.append(EXTRA[name].format(fields=", ".join(f"`{field}`" for field in fields)))
    lines.extend(_members(name, thing))
    return "\n".join(lines)


def _members(name: str, thing: type) -> Iterator[str]:
    hidden = set(INTERNAL.get(name, "").split())
    for member, found in vars(thing).items():
        function = getattr(found, "__func__", found)
        if member.startswith("_") or member in hidden:
            continue
        if isinstance(found, property):
            yield f"**{name}.{member}** (property)\n{_doc(found) and chr(10) + _doc(found)}"
        elif inspect.isfunction(function):
            yield f"{_code(f'{name}.{member}', function)}\n{_doc(function) or _as_inherited(thing)}"


def _as_inherited(thing: type) -> str:
    return "As in Pykka.\n" if any(base.__module__.startswith("pykka") for base in thing.__mro__) else ""


def _code(name: str, thing: Any) -> str:
    function = inspect.unwrap(thing)
    signature = str(inspect.signature(function))
    signature = re.sub(r"\((self|cls)(, )?(/, )?", "(", signature, count=1)
    signature = re.sub(r"'([\w*][^']*)'", r"\1", signature)  # annotations are kept as text
    signature = re.sub(r"ForwardRef\((\w+)\)", r"\1", signature)
    signature = re.sub(r"<class (?:[\w.]+\.)?(\w+)>", r"\1", signature)
    signature = re.sub(r"<object object at 0x[0-9a-f]+>", "...", signature)
    keyword = "async " if inspect.iscoroutinefunction(function) else ""
    if inspect.isasyncgenfunction(function) or (inspect.isgeneratorfunction(function) and function is not thing):
        keyword = "async with " if inspect.isasyncgenfunction(function) else "with "
    return f"```\n{keyword}{name}{signature}\n```\n"


def _doc(thing: Any) -> str:
    text = inspect.cleandoc(getattr(thing, "__doc__", None) or "")
    if re.match(r"^\w+\(.*\)$", text):  # what dataclasses write themselves
        return ""
    return text.replace("``", "`") + "\n" if text else ""


def _doc_of_constant(name: str) -> str:
    """The string below its assignment."""
    source = (ROOT / "actors" / "_supervisor.py").read_text("utf-8")
    found = re.search(rf'^{name}: Final.*\n"""(.*?)"""', source, re.MULTILINE | re.DOTALL)
    return found[1].replace("``", "`") + "\n" if found else ""


if __name__ == "__main__":
    sys.exit(main())
