"""What a submission is refused for, before anything of it is written, and without running any of its code."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from batt_supervisor.api import functions
from batt_supervisor.api.accept import new_run
from batt_supervisor.api.functions import check_function
from batt_supervisor.api.interpreter import search_of
from batt_supervisor.config import Settings
from batt_supervisor.core.model import Space
from batt_supervisor.errors import BadInput, NotAllowed
from batt_supervisor.wire import RunSpec

SETTINGS = Settings(state_dir=Path("/tmp/b"), socket=Path("/tmp/b/s"), timeout=10)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with modules of many kinds; each leaves a file behind if it is ever executed."""
    evil = f"open({str(tmp_path / 'executed')!r}, 'w').close()\n"
    files = {
        "animals.py": "def feed(): ...\nasync def walk(): ...\nclass Zoo:\n    def open(self): ...\n",
        "broken.py": "def fine(): ...\n\ndef bad(:\n    ...\n",
        "empty.py": "",
        "pkg/__init__.py": "from .inner import helper as assist\n",
        "pkg/inner.py": "def helper(): ...\n",
        "pkg/deep/__init__.py": "",
        "pkg/deep/down.py": "def work(): ...\n",
        "space/lone.py": "def work(): ...\n",
        "space/further/out.py": "def work(): ...\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(evil + text if name != "broken.py" else text)
    return tmp_path


@pytest.fixture(autouse=True)
def nothing_is_executed(tmp_path: Path) -> Iterator[None]:
    before = set(sys.modules)
    yield
    assert not (tmp_path / "executed").exists()
    new = {name.partition(".")[0] for name in set(sys.modules) - before}
    assert not new & {"animals", "broken", "empty", "pkg", "space", "made"}


def told(path: str, place: Path) -> str:
    """Why a function is refused; empty when it is taken."""
    try:
        check_function(path, search_of("", (str(place),)))
    except BadInput as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "path",
    [
        "animals:feed", "animals:walk", "animals:Zoo", "animals:Zoo.open", "pkg.inner:helper", "pkg:assist",
        "pkg.deep.down:work", "space.lone:work", "os.path:join", "math:sqrt", "sys:exit", "time:sleep", "json:dumps",
        "itertools:count", "builtins:print", "email.mime.text:MIMEText", "_socket:socket",
    ],
)  # fmt: skip
def test_what_is_there_is_taken(place: Path, path: str) -> None:
    assert told(path, place) == ""


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("animals:fed", "function 'animals:fed': module 'animals' has no 'fed'; did you mean 'feed'?"),
        ("animal:feed", "function 'animal:feed': no module 'animal' from {place}; did you mean 'animals'?"),
        ("pkg.iner:helper", "function 'pkg.iner:helper': no module 'iner' in package 'pkg'; did you mean 'inner'?"),
        ("pkg.deep.up:work", "function 'pkg.deep.up:work': no module 'up' in package 'pkg.deep'; valid are: down"),
        ("animals.feed:x", "function 'animals.feed:x': no module 'feed' in package 'animals'"),
        ("space.alone:work", "function 'space.alone:work': no module 'alone' in package 'space'; did you mean 'lone'?"),
        ("broken:fine", "function 'broken:fine': {place}/broken.py line 3 is not Python: invalid syntax"),
        ("empty:work", "function 'empty:work': module 'empty' has no 'work'"),
        ("json:dmps", "function 'json:dmps': module 'json' has no 'dmps'; did you mean 'dumps'?"),
    ],
)
def test_what_is_not_there_is_told_with_its_nearest_name(place: Path, path: str, sentence: str) -> None:
    assert told(path, place).startswith(sentence.format(place=place))


@pytest.mark.parametrize(
    "path",
    ["", ":", "animals", "animals:", ":feed", "animals.feed", "ani mals:feed", "animals:fe-ed", "animals:feed()",
     ".animals:feed", "animals.:feed", "../animals:feed", "animals:feed:x", "animals:\udcff",
     "animals:feed\n", "/animals:feed"],
)  # fmt: skip
def test_what_is_no_import_path_is_refused_as_such(place: Path, path: str) -> None:
    assert told(path, place) == f"function {path!r} is not of the form package.module:name"


@pytest.mark.parametrize(
    "source",
    [
        "work = 1",
        "work: int = 1",
        "a, (work, b) = 1, (2, 3)",
        "for work in (): ...",
        "with open('x') as work: ...",
        "if x := 1:\n    def work(): ...",
        "try:\n    import nothing\nexcept ImportError:\n    def work(): ...\nelse:\n    pass",
        "while True:\n    def work(): ...\n    break",
        "match 1:\n    case 1:\n        def work(): ...",
        "if (work := 5): ...",
        "import a.b as work",
        "import work.more",
        "from a import work",
        "from a import b as work",
        "from a import *",
        "def __getattr__(name): ...",
        "__getattr__, __dir__, __all__ = lazy()",
        "for n in names:\n    globals()[n] = make(n)",
        "exec('def work(): ...')",
        "@deco\ndef work(): ...",
        "class work: ...",
        "del later\nwork = other = 5",
    ],
)
def test_every_way_to_make_a_name_is_known_or_taken_on_trust(place: Path, source: str) -> None:
    (place / "made.py").write_text(source)
    assert told("made:work", place) == ""


@pytest.mark.parametrize(
    "source",
    [
        "def outer():\n    def work(): ...",
        "class A:\n    def other(self): ...",
        "f = lambda work: 1",
        "x = [work for work in ()]",
        "# work",
        "'work'",
        "print(work)",
    ],
)
def test_a_name_that_is_not_of_the_module_is_no_definition(place: Path, source: str) -> None:
    (place / "made.py").write_text(source)
    assert "has no 'work'" in told("made:work", place)


@pytest.mark.parametrize(
    "source",
    [
        "def setup():\n    global work\n    work = print\nsetup()",
        "def add(n):\n    globals()[n] = print\nadd('work')",
        "import sys\nvars(sys.modules[__name__])['work'] = print",
        "locals()['work'] = print",
        "import sys\nsys.modules[__name__].__dict__.update(work=print)",
        "match print:\n    case work: ...",
        "x = [work := n for n in (print,)]",
    ],
)
def test_what_a_module_makes_while_it_runs_is_taken_on_trust(place: Path, source: str) -> None:
    (place / "made.py").write_text(source)
    assert told("made:work", place) == ""


def test_a_namespace_package_within_a_namespace_package_is_found(place: Path) -> None:
    assert told("space.further.out:work", place) == ""


@pytest.mark.parametrize(
    "source",
    [
        "if x == 0: ...\n" + "".join(f"elif x == {n}: ...\n" for n in range(1500)) + "def work(): ...\n",
        "text = " + " + ".join(["'a'"] * 2000) + "\ndef work(): ...\n",
    ],
    ids=["elif", "sum"],
)
def test_a_long_generated_module_is_read(place: Path, source: str) -> None:
    compile(source, "made.py", "exec")  # Python itself can
    (place / "made.py").write_text(source)
    assert told("made:work", place) == ""


@pytest.mark.parametrize("content", [b"def work(): ...\n\0", b"# coding: nonsense\n", b"x = '\xff'\n", b"\xff\xfe"])
def test_a_source_that_cannot_be_decoded_is_told(place: Path, content: bytes) -> None:
    (place / "made.py").write_bytes(content)
    assert told("made:work", place).startswith(f"function 'made:work': {place}/made.py")


def test_a_source_in_another_encoding_is_read(place: Path) -> None:
    (place / "made.py").write_bytes("# coding: latin-1\ndef work(): 'ä'\n".encode("latin-1"))
    assert told("made:work", place) == ""


def test_a_module_written_a_moment_ago_is_found(place: Path) -> None:
    assert "no module 'made'" in told("made:work", place)
    (place / "made.py").write_text("def work(): ...\n")
    assert told("made:work", place) == ""
    (place / "made.py").write_text("def play(): ...\n")
    assert "has no 'work'" in told("made:work", place)


def test_places_that_are_not_there_are_no_trouble(place: Path) -> None:
    check_function("animals:feed", search_of("", ("/no/such/place", "", str(place / "animals.py"), str(place))))


# Whole submissions


def spec(cwd: Path | str, *stages: dict[str, Any], **given: Any) -> RunSpec:
    made = [{"name": f"s{number}", **stage} for number, stage in enumerate(stages)] or [
        {"name": "s", "command": ("ls",)}
    ]
    return RunSpec(name="n", cwd=str(cwd), stages=made, **given)


def refused(
    run: RunSpec, settings: Settings = SETTINGS, environ: dict[str, str] | None = None, total: Space | None = None
) -> str:
    try:
        new_run(run, settings, {"PATH": "/usr/bin:/bin"} if environ is None else environ, total)
    except BadInput as error:
        return str(error)
    return ""


def test_a_run_is_what_was_asked_for(place: Path) -> None:
    run = new_run(
        spec(
            place,
            {"function": "animals:feed", "timeout_s": 5.0},
            {"command": ("ls", "{item}"), "after": ("s0",), "max_attempts": 3},
            env={"B": "2", "A": "1"},
            deadline_s=60.0,
            key="k",
        ),
        SETTINGS,
        {"PATH": "/usr/bin:/bin"},
    )
    one, two = run.stages
    assert (one.work.function, one.work.limits.timeout_s, one.after) == ("animals:feed", 5.0, ())
    assert (two.work.command, two.work.limits.timeout_s, two.work.limits.max_attempts, two.after) == (
        ("ls", "{item}"),
        10.0,
        3,
        (0,),
    )
    assert one.work.room == two.work.room
    assert one.work.room.env == (("A", "1"), ("B", "2"))
    assert (run.key, run.deadline_s) == ("k", 60.0)


def test_a_directory_must_be_there_and_absolute(place: Path) -> None:
    for cwd in ("", ".", "animals.py", str(place / "animals.py"), str(place / "nothing"), "/tmp\0", "~"):
        assert refused(spec(cwd)) == f"cwd: {cwd!r} is not an absolute path of a directory"


@pytest.mark.parametrize("env", [{"": "x"}, {"A=B": "x"}, {"A\0": "x"}, {"A": "x\0"}])
def test_a_variable_that_cannot_be_set_is_refused(place: Path, env: dict[str, str]) -> None:
    assert refused(spec(place, env=env)).startswith("env: ")


@pytest.mark.parametrize("env", [{"A": "\ud800"}, {"\ud800": "x"}])
def test_a_variable_that_cannot_be_encoded_is_refused(place: Path, env: dict[str, str]) -> None:
    assert refused(spec(place, env=env)).startswith("env: ")


def test_a_run_brings_its_own_import_path(place: Path, tmp_path: Path) -> None:
    run = spec("/", {"function": "animals:feed"})
    assert "no module 'animals'" in refused(run)
    assert refused(spec("/", {"function": "animals:feed"}, env={"PYTHONPATH": f"/nothing:{place}"})) == ""
    assert refused(run, environ={"PYTHONPATH": str(place)}) == ""
    # The run's own variable is set over battd's, not beside it.
    assert "no module" in refused(
        spec("/", {"function": "animals:feed"}, env={"PYTHONPATH": "/nothing"}), environ={"PYTHONPATH": str(place)}
    )


def test_the_directory_of_the_run_comes_first(place: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "animals.py").write_text("def count(): ...\n")
    run = spec(other, {"function": "animals:feed"}, env={"PYTHONPATH": str(place)})
    assert "module 'animals' has no 'feed'" in refused(run)


@pytest.mark.parametrize(
    ("stage", "sentence"),
    [
        ({"command": ("ls",)}, ""),
        ({"command": ("/bin/sh", "x")}, ""),
        ({"command": ("./tool",)}, ""),
        ({"command": ("lss-no-such",)}, "command 'lss-no-such' is not found on the PATH"),
        ({"command": ("./animals.py",)}, "command './animals.py' is not an executable file below"),
        ({"command": ("./nothing",)}, "command './nothing' is not an executable file below"),
        ({"command": ("{item}",)}, ""),
        ({"command": ("whatever | it is",), "shell": True}, ""),
    ],
)
def test_a_command_must_be_there(place: Path, stage: dict[str, Any], sentence: str) -> None:
    (place / "tool").write_text("#!/bin/sh\n")
    (place / "tool").chmod(0o755)
    found = refused(spec(place, stage))
    assert found.startswith(sentence) if sentence else found == ""


def test_a_command_is_looked_for_on_the_path_of_the_run(place: Path) -> None:
    (place / "my-tool").write_text("#!/bin/sh\n")
    (place / "my-tool").chmod(0o755)
    assert refused(spec("/", {"command": ("my-tool",)}, env={"PATH": str(place)})) == ""
    told_of = refused(spec("/", {"command": ("my-tol",)}, env={"PATH": str(place)}))
    assert told_of == "command 'my-tol' is not found on the PATH; did you mean 'my-tool'?"


def test_a_directory_is_no_command(place: Path) -> None:
    assert refused(spec(place, {"command": ("./pkg",)})) != ""


def test_a_command_with_a_nul_is_refused(place: Path) -> None:
    assert refused(spec(place, {"command": ("./a\0b",)})) != ""


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Root may list every directory; nobody may not."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)
    else:
        yield


@pytest.mark.parametrize("stage", [{"command": ("no-such-command",)}, {"function": "no_such_module:f"}])
def test_a_place_that_may_not_be_listed_only_costs_the_suggestion(stage: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        place = Path(name)
        place.chmod(0o711)
        (place / "closed").mkdir(mode=0o111)
        (place / "closed").chmod(0o111)
        run = spec("/", stage, env={"PATH": f"{place}/closed", "PYTHONPATH": f"{place}/closed"})
        with as_nobody():
            assert refused(run).startswith(("command 'no-such-command'", "function 'no_such_module:f'"))


@pytest.mark.parametrize(
    ("allow", "stage", "may"),
    [
        (("animals:*",), {"function": "animals:feed"}, True),
        (("pkg.*",), {"function": "animals:feed"}, False),
        (("cmd:ls",), {"command": ("ls", "-l")}, True),
        (("cmd:ls",), {"command": ("cat",)}, False),
        (("cmd:ls",), {"command": ("ls; cat x",), "shell": True}, False),
        (("cmd:/bin/sh",), {"command": ("ls; cat x",), "shell": True}, True),
        (("cmd:ls",), {"command": ("{item}",)}, False),
        ((), {"function": "animals:feed"}, False),
    ],
)
def test_only_what_is_allowed_may_run(place: Path, allow: tuple[str, ...], stage: dict[str, Any], may: bool) -> None:
    settings = SETTINGS.model_copy(update={"allow": allow})
    if may:
        assert refused(spec(place, stage), settings) == ""
    else:
        with pytest.raises(NotAllowed, match="is not allowed here: allow = "):
            new_run(spec(place, stage), settings, {"PATH": "/bin"})


def test_what_is_not_allowed_is_not_even_looked_for(place: Path) -> None:
    with pytest.raises(NotAllowed):
        new_run(spec(place, {"function": "nowhere:at_all"}), SETTINGS.model_copy(update={"allow": ()}), {})


@pytest.mark.parametrize(
    ("stages", "sentence"),
    [
        ([{"name": "a"}, {"name": "a"}], "stages: two have the name 'a'"),
        ([{"name": "a", "after": ("b",)}, {"name": "b"}], "stage 'a': 'after' names no earlier stage: 'b'"),
        ([{"name": "a", "after": ("a",)}], "stage 'a': 'after' names no earlier stage: 'a'"),
        (
            [{"name": "score"}, {"name": "b", "after": ("scores",)}],
            "stage 'b': 'after' names no earlier stage: 'scores'; did you mean 'score'?",
        ),
        ([{"name": "a", "stall_timeout_s": 10.0}], "stall_timeout (10 s) must be shorter than timeout (10 s)"),
        ([{"name": "a", "memory_limit_bytes": 1}], "memory_limit: 1 B is less than a worker itself takes"),
    ],
)
def test_stages_must_make_sense_together(place: Path, stages: list[dict[str, Any]], sentence: str) -> None:
    assert refused(spec(place, *[{"command": ("ls",), **stage} for stage in stages])).startswith(sentence)


def test_a_soft_timeout_is_shorter_than_the_timeout_it_comes_before(place: Path) -> None:
    stage = {"function": "animals:feed", "soft_timeout_s": 10.0}
    assert refused(spec(place, stage)) == "soft_timeout (10 s) must be shorter than timeout (10 s)"


def test_a_command_has_no_soft_timeout(place: Path) -> None:
    with pytest.raises(ValidationError, match="'soft_timeout' is for functions"):
        spec(place, {"command": ("ls",), "soft_timeout_s": 1.0})


def test_limits_seed_and_children_are_what_was_asked_for(place: Path) -> None:
    limits = {
        "cpu_limit_s": 3.0, "stall_timeout_s": 0.0, "memory_limit_bytes": 1 << 30, "thread_limit": 0,
        "output_limit_bytes": 5,
    }  # fmt: skip
    settings = SETTINGS.model_copy(update={"stall_timeout": 4.0})
    run = new_run(spec(place, {"function": "animals:feed", "allow_children": True, **limits}, seed=7), settings, {})
    work = run.stages[0].work
    assert (work.limits.cpu_limit_s, work.limits.stall_timeout_s, work.limits.memory_limit_bytes) == (
        3.0,
        None,
        1 << 30,
    )
    assert (work.limits.thread_limit, work.limits.output_limit_bytes) == (None, 5)
    assert (work.allow_children, work.seed, run.seed) == (True, 7, 7)


# Needs


def test_needs_and_the_kind_are_what_was_asked_for(place: Path) -> None:
    stages = (
        {"function": "animals:feed", "need_memory_bytes": 1 << 30, "need_threads": 8, "kind": "score"},
        {"function": "animals:feed", "need_memory_bytes": 0, "need_threads": 0},
    )
    one, two = (stage.work for stage in new_run(spec(place, *stages), SETTINGS, {}).stages)
    assert (one.need_memory_bytes, one.need_threads, one.kind) == (1 << 30, 8, "score")
    assert (two.need_memory_bytes, two.need_threads, two.kind) == (None, None, "animals:feed")


GIB = 2**30
WHOLE = Space(24 * GIB, 1000)


@pytest.mark.parametrize(
    ("stage", "sentence"),
    [
        ({"need_memory_bytes": GIB, "memory_limit_bytes": GIB}, ""),
        (
            {"need_memory_bytes": 2 * GIB, "memory_limit_bytes": GIB},
            "stage 's0': need_memory (2.0 GiB) is more than memory_limit (1.0 GiB)",
        ),
        ({"need_memory_bytes": 2 * GIB, "memory_limit_bytes": 0}, ""),
        ({"need_threads": 9, "thread_limit": 9}, ""),
        ({"need_threads": 10, "thread_limit": 9}, "stage 's0': need_threads (10) is more than thread_limit (9)"),
        ({"need_threads": 513}, "stage 's0': need_threads (513) is more than thread_limit (512)"),
        # What the machine has, less the reserve: 24 GiB - 256 MiB, 1000 - 64 threads.
        ({"need_memory_bytes": 24 * GIB - 2**28, "need_threads": 936, "thread_limit": 0}, ""),
        (
            {"need_memory_bytes": 64 * GIB},
            "stage 's0': need_memory (64.0 GiB) is more than this machine has for tasks: 23.8 GiB "
            "(24.0 GiB, less 256.0 MiB in reserve)",
        ),
        (
            {"need_threads": 937, "thread_limit": 0},
            "stage 's0': need_threads (937) is more than this machine has for tasks: 936 (1000, less 64 in reserve)",
        ),
        ({"kind": " "}, "stage 's0': kind: ' ' cannot be used: it must be printable characters"),
        ({"kind": "a\nb"}, "stage 's0': kind: 'a\\nb' cannot be used: it must be printable characters"),
    ],
)
def test_a_need_that_can_never_be_met_is_refused(place: Path, stage: dict[str, Any], sentence: str) -> None:
    run = spec(place, {"function": "animals:feed", **stage})
    assert refused(run, total=WHOLE) == sentence
    if "machine" in sentence:
        assert refused(run) == ""  # nobody knows yet what the machine has


def test_a_small_machine_keeps_less_back(place: Path) -> None:
    run = spec(place, {"function": "animals:feed", "need_memory_bytes": 448 * 2**20, "need_threads": 14})
    assert refused(run, total=Space(512 * 2**20, 16)) == ""
    told = refused(run, total=Space(504 * 2**20, 16))
    assert told.endswith("has for tasks: 441.0 MiB (504.0 MiB, less 63.0 MiB in reserve)")
    assert refused(run, total=Space(GIB, 8)).endswith("has for tasks: 7 (8, less 1 in reserve)")


# Another interpreter


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """What of an environment counts here: a link to an interpreter, a note beside it, a package."""
    prefix = tmp_path / "venv"
    packages = prefix / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    packages.mkdir(parents=True)
    (prefix / "bin").mkdir()
    (prefix / "bin" / "python").symlink_to(sys.executable)
    (prefix / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    (packages / "made.py").write_text("def work(): ...\n")
    return prefix


def told_of(path: str, venv: Path, first: Path | str = "/nowhere") -> str:
    try:
        check_function(path, search_of(str(venv / "bin/python"), (str(first),)))
    except BadInput as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("made:work", ""),
        ("animals:feed", ""),  # of the run's own directory
        ("json:dumps", ""),
        ("math:sqrt", ""),
        ("_socket:socket", ""),
        ("worker.arc.tasks:score", ""),  # every worker holds it
        ("made:wrok", "function 'made:wrok': module 'made' has no 'wrok'; did you mean 'work'?"),
        ("mad:work", "function 'mad:work': no module 'mad' from"),
        ("pydantic:BaseModel", "function 'pydantic:BaseModel': no module 'pydantic' from"),  # battd's, not this one's
        ("worker.no_such:f", "function 'worker.no_such:f': no module 'no_such' in package 'worker'"),
    ],
)
def test_functions_are_looked_for_where_their_interpreter_finds_them(
    place: Path, venv: Path, path: str, sentence: str
) -> None:
    found = told_of(path, venv, place)
    assert found.startswith(sentence) if sentence else found == ""


@pytest.mark.parametrize("config", [None, "include-system-site-packages = true\n", "Include-System-Site-Packages=TRUE"])
def test_what_an_open_environment_may_find_elsewhere_is_taken_on_trust(venv: Path, config: str | None) -> None:
    note = venv / "pyvenv.cfg"
    note.unlink() if config is None else note.write_text(config)
    assert told_of("numpy_of_the_system.linalg:det", venv) == ""
    assert "has no 'wrok'" in told_of("made:wrok", venv)


@pytest.mark.parametrize(
    ("name", "text", "taken"),
    [
        ("mine.pth", "{place}\n", True),
        ("mine.pth", "# {place}\n\n", False),
        ("__editable__mine.pth", "import __editable___mine_finder; install()\n", True),
        ("_virtualenv.pth", "import _virtualenv", False),
        ("distutils-precedence.pth", "import os; x = 1\n", False),
        ("mine.txt", "{place}\n", False),
    ],
)
def test_what_an_environment_links_to_is_found(place: Path, venv: Path, name: str, text: str, taken: bool) -> None:
    packages = next(venv.glob("lib/*/site-packages"))
    (packages / name).write_text(text.format(place=place))
    assert (told_of("animals:feed", venv) == "") is taken


@pytest.mark.parametrize("python", ["python3", "bin/python", "/no/such/python", "/tmp", "/tmp\0", "/etc/passwd"])
def test_an_interpreter_is_an_absolute_path_of_an_executable_file(place: Path, python: str) -> None:
    assert refused(spec(place, python=python)) == f"python: {python!r} is not an absolute path of an executable file"


def test_an_interpreter_is_part_of_the_room(place: Path, venv: Path) -> None:
    python = str(venv / "bin/python")
    run = new_run(spec(place, {"function": "made:work"}, python=python), SETTINGS, {})
    assert (run.python, run.stages[0].work.room.python) == (python, python)


# Sources that are not read


def test_a_source_that_is_too_large_is_taken_on_trust(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "made.py").write_text("x = 1\n" * 100)
    assert "has no 'work'" in told("made:work", place)
    monkeypatch.setattr(functions, "SOURCE_MAX", 599)
    assert told("made:work", place) == ""


@pytest.mark.parametrize("error", [MemoryError, RecursionError])
def test_what_the_parser_gives_up_on_is_taken_on_trust(
    place: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def gives_up(*_: object) -> None:
        raise error

    monkeypatch.setattr(functions.ast, "parse", gives_up)
    assert told("animals:no_such", place) == ""


def test_a_source_nested_deeper_than_the_parser_goes_is_taken_on_trust(place: Path) -> None:
    (place / "made.py").write_text("x = " + "-" * 100_000 + "1\n")
    assert told("made:work", place) == ""


@pytest.mark.parametrize(("name", "whose"), [("worker", "batt-supervisor's"), ("queue", "the standard library's")])
def test_a_module_whose_name_is_taken_in_every_worker_is_refused(place: Path, name: str, whose: str) -> None:
    (place / f"{name}.py").write_text("def work(): ...\n")
    assert f"in a worker the module {name!r} is {whose}, not {place}" in told(f"{name}:work", place)
