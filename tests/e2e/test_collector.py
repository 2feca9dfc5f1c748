"""The Collector starts with every combination of files that the documents name, and says which setting is wrong."""

from __future__ import annotations

import re
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from tests.ports import free_port

from voicespan.local.reader import Reader
from voicespan.local.server import Receiver

from .calls import Calls, request
from .stack import DEPLOY, Collector, Store, get, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

BASE = "otel-collector.yaml"
FRONT = "collector/front.yaml"
FRONT_SECURE = "collector/front-secure.yaml"
SAMPLING = "collector/sampling.yaml"
LOGS = "collector/logs.yaml"
SECURE = "collector/secure.yaml"
VIEWER = "collector/viewer.yaml"
WRITE = "collector/remote-write.yaml"
COMBINATIONS = (
    (BASE,),
    (BASE, SAMPLING),
    (BASE, SECURE),
    (BASE, VIEWER),
    (BASE, WRITE),
    (BASE, LOGS),
    (BASE, SAMPLING, LOGS),
    (BASE, LOGS, SAMPLING, SECURE),
    (BASE, SAMPLING, WRITE),
    (BASE, SAMPLING, SECURE, VIEWER),
    (BASE, SAMPLING, SECURE, WRITE),
    (BASE, WRITE, SECURE, SAMPLING),
    (FRONT,),
    (FRONT, SECURE),
    (FRONT, FRONT_SECURE),
    (FRONT, FRONT_SECURE, SECURE),
)


@pytest.fixture(scope="session")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A token, and a certificate for this machine that nobody has signed."""
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "token").write_text("s3cr3t-of-this-test")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "tls.key", "-out", folder / "tls.crt"],
        check=True, capture_output=True,
    )  # fmt: skip
    return {
        "VOICESPAN_TOKEN_FILE": str(folder / "token"),
        "VOICESPAN_TLS_CERT_FILE": str(folder / "tls.crt"),
        "VOICESPAN_TLS_KEY_FILE": str(folder / "tls.key"),
        "VOICESPAN_GATEWAY_CA_FILE": str(folder / "tls.crt"),
    }


@pytest.mark.parametrize("files", COMBINATIONS, ids=lambda files: "+".join(Path(file).stem for file in files))
def test_every_combination_starts_and_ends(files: tuple[str, ...], secrets: dict[str, str], tmp_path: Path) -> None:
    """It passes its own check, becomes healthy without an error in its log, and ends well when asked to."""
    collector = Collector(tmp_path / "collector", *files, settings=secrets)
    checked = collector.validate()
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    with collector:
        pass
    assert collector.wait() == 0
    assert [line for line in collector.said().splitlines() if "\terror\t" in line] == []


WRONG = {
    "no token file": ({"VOICESPAN_TOKEN_FILE": "/nowhere/token"}, "/nowhere/token"),
    "no certificate": ({"VOICESPAN_TLS_CERT_FILE": "/nowhere/tls.crt"}, "/nowhere/tls.crt"),
    "queue below a file": ({"VOICESPAN_QUEUE_DIR": "/etc/hostname/queue"}, "/etc/hostname/queue"),
    "queue not writable": ({"VOICESPAN_QUEUE_DIR": "/proc/queue"}, "/proc/queue"),
    "threshold is no number": ({"VOICESPAN_SLOW_RESPONSE_MS": "fast"}, '"slow".*fast'),
    "share is no number": ({"VOICESPAN_BASELINE_PERCENT": "some"}, "sampling_percentage"),
    "limit is no number": ({"VOICESPAN_EXEMPLARS": "many"}, "exemplars.max_per_data_point"),
}


@pytest.mark.parametrize(("settings", "culprit"), WRONG.values(), ids=list(WRONG))
def test_a_wrong_setting_ends_the_start(
    settings: dict[str, str], culprit: str, secrets: dict[str, str], tmp_path: Path
) -> None:
    """The status says that it failed, and the last line which setting is to blame."""
    collector = Collector(tmp_path / "collector", BASE, SAMPLING, SECURE, settings={**secrets, **settings})
    assert collector.begin().wait() == 1
    *_, last = collector.said().strip().splitlines()
    assert re.search(culprit, last), last


@pytest.mark.covers("F-DP07")
def test_only_who_shows_the_token_over_tls_is_heard(secrets: dict[str, str], tmp_path: Path) -> None:
    """With secure.yaml a sender without the token, or without TLS, is refused, and one with both is not."""
    trust = ssl.create_default_context(cafile=secrets["VOICESPAN_TLS_CERT_FILE"])
    turn = Calls().plain()
    with (
        Store() as store,
        Collector(
            tmp_path / "collector", BASE, SECURE, settings={**secrets, "VOICESPAN_TEMPO_ENDPOINT": store.endpoint}
        ) as collector,
    ):

        def status(scheme: str, token: str) -> int:
            asked = urllib.request.Request(
                f"{scheme}://127.0.0.1:{collector.http}/v1/traces",
                data=request([turn]),
                headers={"Content-Type": "application/x-protobuf", **({"Authorization": token} if token else {})},
            )
            try:
                with urllib.request.urlopen(asked, timeout=10, context=trust) as answer:
                    return int(answer.status)
            except urllib.error.HTTPError as error:
                return error.code

        assert status("https", "") == 401
        assert status("https", "Bearer another") == 401
        assert status("http", "Bearer s3cr3t-of-this-test") == 400
        assert status("https", "Bearer s3cr3t-of-this-test") == 200
        until(lambda: not store.lacks([turn]), "the turn is stored")
        assert len(store.traces) == 1


def test_a_front_shows_its_token_to_gateways(secrets: dict[str, str], tmp_path: Path) -> None:
    """Gateways with secure.yaml take what a front with front-secure.yaml sends, and nothing from one without."""
    calls = Calls()
    with Store() as store:
        settings = {**secrets, "VOICESPAN_TEMPO_ENDPOINT": store.endpoint}
        with Collector(tmp_path / "gateway", BASE, SECURE, settings=settings) as gateway:

            def front(name: str, *files: str) -> Collector:
                addresses = {f"VOICESPAN_GATEWAY_{number}": f"127.0.0.1:{gateway.grpc}" for number in (1, 2)}
                lanes = {f"VOICESPAN_LANE_{number}": f"127.0.0.1:{free_port()}" for number in (1, 2)}
                return Collector(tmp_path / name, FRONT, *files, settings={**secrets, **addresses, **lanes})

            secured, plain = [calls.plain() for _ in range(10)], [calls.plain() for _ in range(10)]
            with front("plain") as without:
                assert without.send(request(plain)) == 200
                with front("secured", FRONT_SECURE) as with_token:
                    assert with_token.send(request(secured)) == 200
                    until(lambda: not store.lacks(secured), "every turn is stored")
            assert set(store.traces) == {turn.trace_id for turn in secured}


def test_a_service_that_is_gone_disappears(tmp_path: Path) -> None:
    """Series of a service that sends nothing any more end, those of a service that goes on do not."""
    short = {
        "connectors::span_metrics::metrics_expiration": "3s",
        "connectors::span_metrics::series_expiration": "3s",
        "connectors::span_metrics::metrics_flush_interval": "1s",
        "exporters::prometheus::metric_expiration": "2s",
    }
    shipped = yaml.safe_load((DEPLOY / BASE).read_text())["connectors"]["span_metrics"]
    assert all(shipped[key] not in {"0", "0s"} for key in ("metrics_expiration", "series_expiration"))
    calls = Calls()
    with Store() as store:
        settings = {"VOICESPAN_TEMPO_ENDPOINT": store.endpoint}
        with Collector(tmp_path / "gw-1", BASE, settings=settings, changes=short) as collector:

            def there() -> set[str]:
                assert collector.send(request([calls.plain()], service__name="stays")) == 200
                page = get(f"http://127.0.0.1:{collector.metrics}/metrics")
                return set(re.findall(r'^traces_span_metrics_calls_total\{.*job="(\w+)"', page, re.MULTILINE))

            assert collector.send(request([calls.plain()], service__name="goes")) == 200
            until(lambda: there() == {"stays", "goes"}, "both are there")
            until(lambda: there() == {"stays"}, "the one that is gone is not", timeout_s=20)


def test_the_viewer_gets_what_sampling_does_not_keep(tmp_path: Path) -> None:
    """With viewer.yaml every turn is copied to the viewer, and a viewer that is away costs the store nothing."""
    turn = Calls().plain()
    database = tmp_path / "viewer.db"
    with Receiver(port=0, database=database) as viewer, Store() as store:
        settings = {
            "VOICESPAN_TEMPO_ENDPOINT": store.endpoint,
            "VOICESPAN_VIEWER_ENDPOINT": f"http://127.0.0.1:{viewer.port}",
            "VOICESPAN_BASELINE_PERCENT": "0",
        }
        with Collector(tmp_path / "sampled", BASE, SAMPLING, VIEWER, settings=settings) as collector:
            assert collector.send(request([turn])) == 200
            reader = Reader(database)
            until(lambda: len(reader.spans(turn.hex)) == len(turn.spans), "the viewer has the turn")
            logs = ExportLogsServiceRequest()
            records = logs.resource_logs.add().scope_logs.add().log_records
            records.add(trace_id=bytes.fromhex(turn.hex), time_unix_nano=5).body.string_value = "ask ann@example.com"
            records[0].attributes.add(key="lk.user_transcript").value.string_value = "hello"
            records[0].attributes.add(key="to").value.string_value = "tel:+4930123456"
            assert collector.send(logs.SerializeToString(), "logs") == 200
            until(lambda: reader.count_logs(turn.hex) == 1, "the viewer has the log line")
            (line,) = reader.logs(turn.hex, 1)
            assert (line.body, dict(line.attributes)) == ("ask [EMAIL]", {"to": "[PHONE]"})
        settings["VOICESPAN_VIEWER_ENDPOINT"] = f"http://127.0.0.1:{free_port()}"
        with Collector(tmp_path / "alone", BASE, VIEWER, settings=settings) as collector:
            assert collector.send(request([turn])) == 200
            until(lambda: not store.lacks([turn]), "the turn is stored")
