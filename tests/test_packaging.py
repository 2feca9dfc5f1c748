"""What is shipped: the wheel, its requirements, and a turn where nothing else is installed and no network is there.

An environment "with nothing else" is a new virtual environment in which only the installed files of some distributions
are linked: those that the wheel's own metadata requires, and what they require in turn. pip (or uv) then installs the
wheel without an index, and so refuses when a requirement is not among them.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from importlib.metadata import Distribution, EntryPoint, PathDistribution, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.ports import free_port
from tests.processes.receiver import Receiver, attributes

if TYPE_CHECKING:
    from collections.abc import Collection

ROOT = Path(__file__).parents[1]
REQUIREMENTS = sorted((ROOT / "requirements").glob("*.txt"))

# Packages that only an extra brings: a plain turn must do without them.
OPTIONAL = ("fastapi", "grpc", "openai", "prometheus_client", "psutil", "pynvml", "pytest", "rich", "starlette",
            "structlog", "uvicorn", "websockets")  # fmt: skip

# What only works with an extra.
OPTIONAL_PARTS = (
    "client", "demo", "integrations", "latency", "load/agents.py", "load/straight.py", "local", "metrics/scrape.py",
    "render.py", "stack", "stagemap", "testing.py",
)  # fmt: skip

# What an integration imports of the framework that it is for: it is not loaded without it, and no extra brings it.
FRAMEWORKS = {"livekit": ("livekit",), "openai_agents": ("agents",), "pipecat": ("loguru", "pipecat")}

NO_NETWORK = """
import socket

def refuse(*_):
    raise OSError("this test has no network")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
"""

CALL = f"""
import sys

import voicespan

with voicespan.session(id="call-1", transport="websocket") as session:
    turn = session.user_turn()
    turn.speech_ended()
    turn.committed()
    turn.transcript()
    with turn.llm(model="small") as llm:
        llm.token()
    with turn.tts(voice="anna") as tts:
        tts.audio(0.02)
    turn.audio_sent(0.02)
    turn.audio_heard()
    turn.audio_stopped()
present = sorted(set({OPTIONAL!r}) & set(sys.modules))
sys.exit(f"imported: {{present}}" if present else 0)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel under test: the one named by TESTED_WHEEL, else one built here, without network or isolation."""
    if given := os.environ.get("TESTED_WHEEL"):
        return Path(given).resolve()
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True)
    return next(folder.glob("*.whl"))


PLANTED = (
    "deploy/.env",
    "deploy/secrets/slack-webhook",
    "deploy/prometheus/scrape.d/mine.yml",
    "deploy/collector/token",
)
"""What users put beside the files of deploy/; git does not know it."""


@pytest.mark.parametrize("versioned", [True, False])
def test_secrets_are_not_packaged(versioned: bool, tmp_path: Path) -> None:
    """What somebody has put into deploy/ is in no wheel and no sdist; without .gitignore, at least no secret is."""
    copy = tmp_path / "checkout"
    passed = ("LICENSE", "README.md", "pyproject.toml", *((".gitignore",) if versioned else ()))
    for name in ("src", "deploy"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in passed:
        shutil.copy(ROOT / name, copy)
    for name in PLANTED:
        (copy / name).write_text("hunter2")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", tmp_path], cwd=copy, check=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as archive:
        in_wheel = set(archive.namelist())
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    here = {path.relative_to(copy).as_posix() for path in (copy / "deploy").rglob("*") if path.is_file()}
    shipped = {name.replace("voicespan/stack/deploy", "deploy") for name in in_wheel if "/stack/deploy/" in name}
    assert "deploy/.env.example" in shipped
    assert "deploy/secrets/README.md" in in_sdist
    if versioned:
        assert shipped == here - set(PLANTED)
        assert in_sdist & {*PLANTED} <= {"deploy/collector/token"}
    else:
        assert (shipped | in_sdist) & set(PLANTED[:2]) == set()


def test_the_image_gets_no_secrets() -> None:
    """Of deploy/ the build of the image sees the Collector's configuration, and nothing else."""
    lines = (ROOT / "collector/Dockerfile.dockerignore").read_text().split()
    assert lines[0] == "*"
    assert {line for line in lines if "deploy" in line} == {"!deploy/otel-collector.yaml", "!deploy/collector/*.yaml"}


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Distribution:
    """What the wheel says about itself."""
    with zipfile.ZipFile(wheel) as archive:
        folder = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA")).split("/")[0]
    return PathDistribution(zipfile.Path(wheel, f"{folder}/"))


def required(dist: Distribution, extras: frozenset[str] = frozenset()) -> list[Requirement]:
    """The direct requirements of a distribution with these extras, here and now."""
    found = [Requirement(line) for line in dist.requires or ()]
    return [
        requirement
        for requirement in found
        if not requirement.marker or any(requirement.marker.evaluate({"extra": extra}) for extra in extras or {""})
    ]


def closure(root: Distribution, extras: frozenset[str] = frozenset()) -> dict[str, Distribution]:
    """Every installed distribution that `root` needs, directly or not, by canonical name."""
    found: dict[str, Distribution] = {}
    done: set[tuple[str, frozenset[str]]] = set()
    open_: list[tuple[Distribution, frozenset[str]]] = [(root, extras)]
    while open_:
        dist, wanted = open_.pop()
        for requirement in required(dist, wanted):
            name = canonicalize_name(requirement.name)
            key = (name, frozenset(requirement.extras))
            if key in done:
                continue
            done.add(key)
            if name == "voicespan":
                open_.append((root, key[1]))
            else:
                found[name] = distribution(name)
                open_.append((found[name], key[1]))
    return found


def link(dist: Distribution, site: Path) -> None:
    """Make the installed files of one distribution, but not its commands, visible in another environment."""
    for file in dist.files or ():
        if ".." in file.parts or "__pycache__" in file.parts:
            continue
        target = site.joinpath(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(Path(str(file.locate())).resolve())


def empty_environment(folder: Path, dists: dict[str, Distribution], *, with_pip: bool) -> Path:
    """A new virtual environment that sees the given distributions and nothing else; returns its bin folder."""
    venv.create(folder, with_pip=with_pip, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    for dist in dists.values():
        link(dist, site)
    return folder / "bin"


@functools.cache
def unshare() -> tuple[str, ...]:
    """The command that takes the network from its child, or nothing where the system does not permit it."""
    command = ("unshare", "--map-root-user", "--net")
    allowed = shutil.which("unshare") and subprocess.run([*command, "true"], capture_output=True, check=False)
    return command if allowed and allowed.returncode == 0 else ()


def run_offline(binaries: Path, *command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command of an environment with no network: in a namespace without one, else with sockets that refuse."""
    if not unshare():
        site = next(binaries.parent.glob("lib/python*/site-packages"))
        (site / "no_network.py").write_text(NO_NETWORK)
        (site / "no_network.pth").write_text("import no_network\n")
    environment = {"PATH": f"{binaries}:/usr/bin:/bin", "HOME": str(binaries.parent), **variables}
    line = [*unshare(), binaries / command[0], *command[1:]]
    return subprocess.run(line, env=environment, cwd=binaries.parent, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def plain(wheel: Path, metadata: Distribution, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment into which pip installed the wheel without extras and without an index."""
    binaries = empty_environment(tmp_path_factory.mktemp("plain"), closure(metadata), with_pip=True)
    done = run_offline(binaries, "python", "-m", "pip", "install", "--no-index", "--disable-pip-version-check", wheel)
    assert done.returncode == 0, done.stdout + done.stderr
    return binaries


INJECTION = ROOT / "deploy/kubernetes/instrumentation"
SERVED = """
import fastapi, uvicorn, sys

app = fastapi.FastAPI()

@app.get("/hello/{name}")
def hello(name: str) -> str:
    assert "voicespan" not in sys.argv
    return name

uvicorn.run(app, port=int(sys.argv[1]), log_level="warning")
"""


@pytest.fixture(scope="module")
def injected(metadata: Distribution, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the image of the operator carries: made by the steps of its Dockerfile, of the files that its build sees."""
    steps = (INJECTION / "Dockerfile").read_text()
    found = re.search(r"pip install --no-cache-dir --no-compile --target (\S+) '\.\[([\w,]+)\]'", steps)
    assert found
    compiling = re.search(r"^RUN python (-m compileall .*) (\S+)$", steps, re.MULTILINE)
    assert compiling
    copied = re.search(r"^COPY --from=build (\S+) (\S+)$", steps, re.MULTILINE)
    assert copied
    assert {found[1], compiling[2], copied[1], copied[2]} == {"/autoinstrumentation"}  # from where the operator copies
    seen = [line.removeprefix("!") for line in (INJECTION / "Dockerfile.dockerignore").read_text().split()]
    assert seen.pop(0) == "*"
    context, folder = tmp_path_factory.mktemp("context"), tmp_path_factory.mktemp("image") / "autoinstrumentation"
    for name in seen:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, context / name)
    # There is no index here: the package is installed, what it needs is linked.
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-cache-dir", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--no-compile", "--target", folder, "."], cwd=context, check=True)
    subprocess.run([sys.executable, *compiling[1].split(), folder], check=True)
    for dist in closure(metadata, frozenset(found[2].split(","))).values():
        link(dist, folder)
    return folder


def test_the_operators_image_instruments_a_service_that_knows_nothing(injected: Path, tmp_path: Path) -> None:
    """On the path of another environment, as the operator puts it, the image traces an unchanged service."""
    own: dict[str, Distribution] = {}
    for name in ("fastapi", "uvicorn"):
        own |= {name: distribution(name), **closure(distribution(name))}
    binaries = empty_environment(tmp_path / "service", own, with_pip=False)
    (tmp_path / "service.py").write_text(SERVED)
    python = yaml.safe_load((ROOT / "deploy/kubernetes/base/instrumentation.yaml").read_text())["spec"]["python"]
    environ = {each["name"]: each["value"] for each in python["env"]}
    environ |= {"PYTHONPATH": f"{injected}/opentelemetry/instrumentation/auto_instrumentation:{injected}"}
    port = free_port()
    with Receiver() as receiver:
        environ |= {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_SERVICE_NAME": "hello"}
        service = subprocess.Popen(
            [binaries / "python", "service.py", str(port)],
            cwd=tmp_path, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            assert receiver.until(lambda: service.poll() is not None or accepts(port), 60)
            if service.poll() is None:
                with urlopen(f"http://127.0.0.1:{port}/hello/anna", timeout=30) as answer:
                    assert answer.read() == b'"anna"'
        finally:
            service.terminate()
            said, _ = service.communicate(timeout=30)
    assert said == ""
    scopes = [scope for each in receiver.resource_spans for scope in each.scope_spans]
    found = [(scope.scope.name, span.name) for scope in scopes for span in scope.spans]
    assert found == [
        ("opentelemetry.instrumentation.fastapi", "GET /hello/{name}")
    ]  # FastAPI has spans of its own, too
    who = attributes(list(receiver.resource_spans[0].resource.attributes))
    assert (who["service.name"], who["telemetry.distro.name"]) == ("hello", "voicespan")


def test_the_operators_image_is_compiled(injected: Path, tmp_path: Path) -> None:
    """What the operator copies beside a service, with times of its own, is loaded without being compiled anew."""
    shutil.copytree(injected / "voicespan", tmp_path / "voicespan", copy_function=shutil.copyfile)
    modules = list((tmp_path / "voicespan").rglob("*.py"))
    assert modules
    for path in modules:
        os.utime(path, (1, 1))
        compiled = Path(importlib.util.cache_from_source(str(path)))
        # PEP 552: the flags after the magic number; 1 is a hash that nobody checks.
        assert compiled.read_bytes()[4:8] == b"\x01\x00\x00\x00"
    looked = subprocess.run(
        [sys.executable, "-v", "-c", "import voicespan.sessions"],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    code = [line for line in looked.stderr.splitlines() if "code object from" in line and str(tmp_path) in line]
    assert code
    assert [line for line in code if ".pyc" not in line] == []


def test_the_operators_image_has_no_grpc(injected: Path) -> None:
    """The loader and voicespan are where Python finds them, and no gRPC, whose compiled part would have to fit all."""
    assert not (injected / "grpc").exists()
    assert (injected / "opentelemetry/instrumentation/auto_instrumentation/sitecustomize.py").is_file()
    assert (injected / "voicespan/distro.py").is_file()


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def console_spans(text: str) -> list[dict[str, Any]]:
    """The spans that the SDK's console exporter printed, one JSON object after the other."""
    decoder, spans, position = json.JSONDecoder(), [], 0
    while (position := text.find("{", position)) >= 0:
        span, position = decoder.raw_decode(text, position)
        spans.append(span)
    return spans


def test_a_turn_without_extras_and_without_network(plain: Path) -> None:
    """An unchanged script under `voicespan run` gives its turn as one trace, and no optional package is loaded."""
    script = plain.parent / "call.py"
    script.write_text(CALL)
    done = run_offline(plain, "voicespan", "run", "--", "python", script, OTEL_TRACES_EXPORTER="console",
                       OTEL_METRICS_EXPORTER="none", OTEL_LOGS_EXPORTER="none", OTEL_SERVICE_NAME="bot")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    spans = console_spans(done.stdout)
    assert {"voice.turn", "voice.response", "llm.ttft", "tts.first_audio"} <= {span["name"] for span in spans}
    assert len({span["context"]["trace_id"] for span in spans}) == 1
    assert {span["resource"]["attributes"]["service.name"] for span in spans} == {"bot"}


def test_the_command_without_extras(plain: Path) -> None:
    """Without the extra `demo` the command says what to install, and the help works."""
    assert "demo" in run_offline(plain, "voicespan", "--help").stdout
    done = run_offline(plain, "voicespan", "demo")
    assert done.returncode == 2
    assert "pip install 'voicespan[demo]'" in done.stderr


@pytest.mark.covers("C-K01")
def test_the_opentelemetry_packages_come_along(metadata: Distribution) -> None:
    """The API and the SDK are required in loose ranges, and the extra `grpc` brings their gRPC instrumentation."""
    ranges = {each.name: each.specifier for each in required(metadata)}
    for name in ("opentelemetry-api", "opentelemetry-sdk"):
        assert ranges[name].contains("1.45.0")
        assert ranges[name].contains("1.99.0")
        assert not ranges[name].contains("2.0.0")
    assert {"opentelemetry-api", "opentelemetry-sdk"} <= closure(metadata).keys()
    assert "opentelemetry-instrumentation-grpc" not in closure(metadata)
    assert "opentelemetry-instrumentation-grpc" in closure(metadata, frozenset({"grpc"}))


@pytest.mark.covers("A-K01", "D-K01")
def test_extras_install_with_uv(wheel: Path, metadata: Distribution, tmp_path: Path) -> None:
    """With uv and two extras the Prometheus client and psutil are there at the versions that the designs ask for."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not uv:
        pytest.skip("uv is not installed: it has no wheel for this system")
    extras = frozenset({"prometheus", "system"})
    binaries = empty_environment(tmp_path / "extras", closure(metadata, extras), with_pip=False)
    subprocess.run([uv, "pip", "install", "--quiet", "--offline", "--no-index", "--python", binaries / "python",
                    f"voicespan[{','.join(extras)}] @ {wheel.as_uri()}"], check=True)  # fmt: skip
    script = "import voicespan, importlib.metadata as m; print(m.version('prometheus-client'), m.version('psutil'))"
    done = run_offline(binaries, "python", "-c", script)
    assert done.returncode == 0, done.stderr
    client, psutil = (tuple(map(int, version.split(".")[:2])) for version in done.stdout.split())
    assert client >= (0, 19)
    assert psutil >= (5, 9)


def test_contents_of_the_wheel(wheel: Path) -> None:
    """The wheel has the type marker, the licence, the whole demo, and nothing of tests, caches or stray files."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "voicespan/py.typed" in names
    assert "voicespan/client/browser/performance-tracker.js" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    sources = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src/voicespan").rglob("*.py")}
    assert sources <= set(names)
    assert any(name.startswith("voicespan/demo/") for name in sources)
    strange = [name for name in names if not re.match(r"voicespan(-[^/]+\.dist-info)?/", name)]
    assert strange == []
    assert [name for name in names if re.search(r"__pycache__|/tests?/|\.(db|pyc|log)$", name)] == []


def test_entry_points_lead_somewhere(wheel: Path, metadata: Distribution) -> None:
    """Distro, configurator, command and pytest plugin are registered, and the module of each is in the wheel."""
    points = {(point.group, point.name): point for point in metadata.entry_points}
    for wanted in (("opentelemetry_distro", "voicespan"), ("opentelemetry_configurator", "voicespan"),
                   ("console_scripts", "voicespan"), ("pytest11", "voicespan")):  # fmt: skip
        assert wanted in points
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())

    def leads_nowhere(point: EntryPoint) -> bool:
        path = point.module.replace(".", "/")
        return not {f"{path}.py", f"{path}/__init__.py"} & names

    assert [point.value for point in points.values() if leads_nowhere(point)] == []


def imported(tree: ast.AST, *, deep: bool) -> set[str]:
    """The modules of others that code imports when it is loaded, with `deep` also when its functions run.

    What is imported for type annotations only does not count.
    """
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        elif deep or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found |= imported(node, deep=deep)
    ours = {"voicespan", *sys.stdlib_module_names}
    return {name for name in found if name.split(".")[0] not in ours}


@functools.cache
def files(name: str) -> frozenset[str]:
    """The installed files of a distribution."""
    return frozenset(str(file) for file in distribution(name).files or ())


def providers(module: str, names: Collection[str]) -> set[str]:
    """Those of the named distributions that bring a module."""
    parts = module.split(".")
    paths = {f"{'/'.join(parts[:end])}{tail}" for end in range(1, len(parts) + 1) for tail in (".py", "/__init__.py")}
    return {name for name in names if paths & files(name)}


def test_imports_are_required(metadata: Distribution) -> None:
    """What the core imports is required by the package; what optional parts and functions import, by it or an extra."""
    extras = frozenset(metadata.metadata.get_all("Provides-Extra") or ())
    always = {canonicalize_name(each.name) for each in required(metadata)}
    ever = {canonicalize_name(each.name) for each in required(metadata, extras)} | {"pytest"}  # it loads testing.py
    missing = []
    for path in sorted((ROOT / "src/voicespan").rglob("*.py")):
        tree, place = ast.parse(path.read_text()), path.relative_to(ROOT / "src/voicespan")
        optional = any(place.is_relative_to(part) for part in OPTIONAL_PARTS)
        loaded = set() if optional else imported(tree, deep=False)
        missing += [(path.name, name) for name in loaded if not providers(name, always)]
        own = FRAMEWORKS.get(path.parent.name, ())
        missing += [
            (path.name, name)
            for name in imported(tree, deep=True)
            if name.partition(".")[0] not in own and not providers(name, ever - {"voicespan"})
        ]
    assert missing == []


def pins(path: Path) -> dict[str, set[str]]:
    """The pinned versions by distribution; more than one where Python versions differ."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==(\S+)", path.read_text(), flags=re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


@pytest.mark.parametrize("path", REQUIREMENTS, ids=lambda path: path.name)
def test_pins_have_hashes_and_no_addresses(path: Path) -> None:
    """Every pinned version has a hash, and no file says where to download from."""
    text = path.read_text()
    blocks = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert blocks
    assert [block.split()[0] for block in blocks if "--hash=sha256:" not in block] == []
    assert not re.search(r"https?:|--(extra-)?index|--find-links|file:", text)


@pytest.mark.covers("A-K05")
def test_pins_cover_what_the_project_asks_for(metadata: Distribution) -> None:
    """The pins of tests, demo and voicespan alone agree, and those of tests hold every requirement, extra and tool."""
    development = pins(ROOT / "requirements/dev.txt")
    for smaller in ("demo", "alone"):
        some = pins(ROOT / f"requirements/{smaller}.txt")
        assert {name: development.get(name) for name in some} == some
    for requirement in map(Requirement, metadata.requires or ()):
        versions = development.get(canonicalize_name(requirement.name), set())
        assert requirement.name == "voicespan" or versions
        assert all(requirement.specifier.contains(version) for version in versions), requirement
    assert {"pytest", "pytest-asyncio", "httpx", "psutil"} <= development.keys()


def test_supported_versions_agree() -> None:
    """The classifiers, the floor and the matrix of the continuous integration name the same Python versions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    prefix = "Programming Language :: Python :: 3."
    versions = [line.removeprefix(prefix) for line in project["classifiers"] if line.startswith(prefix)]
    assert project["requires-python"] == f">=3.{versions[0]}"
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    matrix = re.search(r"python: \[(.*)\]", workflow)
    assert matrix
    assert re.findall(r"3\.(\d+)", matrix[1]) == versions


def test_workflows_pin_what_they_use() -> None:
    """Every action of a workflow is named by a commit, and a workflow begins without any permission."""
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        text = path.read_text()
        assert "\npermissions: {}\n" in text
        used = [use for use in re.findall(r"uses: (\S+)", text) if not use.startswith("./.github/workflows/")]
        assert [use for use in used if not re.search(r"@[0-9a-f]{40}$", use)] == []
