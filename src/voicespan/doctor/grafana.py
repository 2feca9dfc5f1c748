"""Whether Grafana has the dashboards, and the data sources that they ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voicespan.diagnostics import number
from voicespan.doctor.ask import Program, Unanswered
from voicespan.doctor.check import Check
from voicespan.stack.files import deploy
from voicespan.stack.grafana import PROMETHEUS, TEMPO

if TYPE_CHECKING:
    from collections.abc import Iterator

_REFUSED = (401, 403)


def examine(program: Program) -> Iterator[Check]:
    """Yield what it has of ours."""
    try:
        answer = program.ask("/api/search", parameters={"type": "dash-db", "limit": "5000"})
        sources = program.ask("/api/datasources")
    except Unanswered as error:
        yield Check("grafana", "fail", f"nobody answers at {program.shown}: {error}", "is this the address of Grafana?")
        return
    if answer.status in _REFUSED:
        yield Check(
            "grafana",
            "fail",
            f"{program.shown} does not let us look: {answer.status}",
            "http://USER:PASSWORD@HOST:3000, or --header 'Authorization=Bearer TOKEN'",
        )
        return
    found, there = answer.json(), sources.json()
    if not isinstance(found, list):
        yield Check("grafana", "fail", f"{program.shown} answers {answer.status}", "is this the address of Grafana?")
        return
    wanted = {file.stem for file in (deploy() / "grafana" / "dashboards").glob("*.json")}
    missing = sorted(wanted - {each.get("uid") for each in found})
    if missing:
        yield Check(
            "dashboards",
            "fail",
            f"not in Grafana: {', '.join(missing)}",
            "deploy/grafana/provisioning/dashboards, with VOICESPAN_DASHBOARDS_DIR",
        )
    else:
        yield Check("dashboards", "ok", number(len(wanted), "dashboard"))
    if isinstance(there, list):  # who may not see them gets an object that says so
        lacks = [uid for uid in (PROMETHEUS, TEMPO) if uid not in {each.get("uid") for each in there}]
        if lacks:
            yield Check(
                "data sources",
                "fail",
                f"Grafana has none with the uid {', '.join(lacks)}: panels are empty",
                "deploy/grafana/provisioning/datasources/voicespan.yml",
            )
