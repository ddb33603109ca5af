"""The operators' pages in Airflow's web interface, guarded by its roles."""

import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from airflow.plugins_manager import AirflowPlugin

ROOT = "/ztfds"
PAGES = {
    "Tonight": "tonight",
    "Alarms": "alarms",
    "Night reports": "reports",
    "Quality": "quality",
    "References": "references",
    "Channels": "channels",
    "Telemetry": "telemetry",
    "Day tasks": "day",
    "Readiness": "readiness",
    "Coverage": "coverage",
    "Reprocessing": "reprocessing",
    "Changes": "changes",
    "Rules": "rules",
    "Drills": "drills",
    "Runs": "runs",
}


@lru_cache(maxsize=1)
def places() -> dict[str, Any]:
    """Where things are: the reading role's database address and the extra of the Connection ztfds_archive."""
    from airflow.models.connection import Connection

    uri = Connection.get_connection_from_secrets("ztfds_reader").get_uri()
    extra = Connection.get_connection_from_secrets("ztfds_archive").extra_dejson
    return {**extra, "dsn": f"postgresql://{uri.split('://', 1)[1]}"}


LISTS = {
    "alarms": "alarms.alarms_page",
    "changes": "changes.changes_page",
    "channels": "channels.channels_page",
    "day": "day.day_page",
    "drills": "drills.drills_page",
    "readiness": "readiness.readiness_page",
    "reports": "reports.reports_page",
    "reprocessing": "reprocessing.reprocessing_page",
    "rules": "rules.rules_page",
}
"""Pages that need the database alone: route, and module and function below ztfds.operations.pages."""
KEPT = {"Cache-Control": "private, max-age=3600"}


def build() -> Any:
    """The application: pages for everybody whose role may see them, nothing for others."""
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.core_api.security import GetUserDep
    from fastapi import Depends, FastAPI, HTTPException

    def may_see(user: GetUserDep) -> None:
        if not get_auth_manager().is_authorized_custom_view(method="GET", resource_name="ztfds", user=user):
            raise HTTPException(403, "your role may not see the operators' pages")

    app = FastAPI(title="ztfds", docs_url=None, redoc_url=None, openapi_url=None, dependencies=[Depends(may_see)])
    for add in (add_errors, add_lists, add_nights, add_details, add_pictures):
        add(app)
    return app


def add_errors(app: Any) -> None:
    """What a page that cannot be made says."""
    from fastapi.responses import PlainTextResponse

    from ztfds.survey.errors import FilesMissing, ServiceDown, ZtfdsError

    @app.exception_handler(FilesMissing)
    def missing(_: Any, error: FilesMissing) -> PlainTextResponse:
        return PlainTextResponse(str(error), 404)

    @app.exception_handler(ServiceDown)
    def down(_: Any, error: ServiceDown) -> PlainTextResponse:
        return PlainTextResponse(f"the survey's database does not answer: {error}", 503)

    @app.exception_handler(ZtfdsError)
    def damaged(_: Any, error: ZtfdsError) -> PlainTextResponse:
        return PlainTextResponse(f"{error.code}: {error.message}", 500)


def add_lists(app: Any) -> None:
    """Pages that need the database alone, and the figures for Prometheus."""
    from importlib import import_module

    from fastapi.responses import HTMLResponse, PlainTextResponse

    from ztfds.operations.pages.alarms import exposition

    def shown(page: Any) -> Any:
        def show() -> str:
            return str(page(places()["dsn"]))

        return show

    for route, where in LISTS.items():
        module, function = where.split(".")
        page = getattr(import_module(f"ztfds.operations.pages.{module}"), function)
        app.get(f"/{route}", response_class=HTMLResponse)(shown(page))
    app.get("/metrics", response_class=PlainTextResponse)(shown(exposition))


def add_nights(app: Any) -> None:
    """Pages of a night or a day, the newest without a number."""
    from fastapi.responses import HTMLResponse

    from ztfds.operations.pages import coverage, quality, reports, telemetry, tonight
    from ztfds.survey.camera import get_camera

    @app.get("/tonight", response_class=HTMLResponse)
    def tonight_page(nid: int | None = None) -> str:
        known = places()
        folders = {name: Path(known[name]) for name in ("inbox", "archive")}
        return tonight.tonight(known["dsn"], get_camera(known["camera"]), folders, nid)

    @app.get("/quality", response_class=HTMLResponse)
    def quality_page(nid: int | None = None) -> str:
        return quality.night_page(places()["dsn"], nid)

    @app.get("/coverage", response_class=HTMLResponse)
    def coverage_page(nid: int | None = None) -> str:
        return coverage.coverage_page(places()["dsn"], nid)

    @app.get("/telemetry", response_class=HTMLResponse)
    def telemetry_page(nid: int | None = None) -> str:
        return telemetry.telemetry_page(places()["dsn"], nid)

    @app.get("/report/{nid}", response_class=HTMLResponse)
    def report_page(nid: int) -> str:
        return reports.report(places()["dsn"], Path(places()["archive"]), nid)


def add_details(app: Any) -> None:
    """Pages of one exposure, quadrant, field, channel, reference or request, of what was searched for."""
    from fastapi import Request
    from fastapi.responses import HTMLResponse

    from ztfds.operations.pages import exposure as exposures
    from ztfds.operations.pages import quality, references, reprocessing, runs
    from ztfds.survey.camera import get_camera
    from ztfds.survey.errors import FilesMissing

    @app.get("/exposure/{exposure}", response_class=HTMLResponse)
    def exposure_page(exposure: str, watch: bool = False) -> str:
        return exposures.exposure_page(places()["dsn"], get_camera(places()["camera"]), exposure, watch)

    @app.get("/exposure/{exposure}/{rcid}", response_class=HTMLResponse)
    def quadrant_page(exposure: str, rcid: int) -> str:
        return exposures.quadrant_page(places()["dsn"], exposure, rcid)

    @app.get("/field/{field}", response_class=HTMLResponse)
    def field_page(field: int, rcid: int | None = None) -> str:
        return quality.field_page(places()["dsn"], get_camera(places()["camera"]), field, rcid)

    @app.get("/channel/{rcid}", response_class=HTMLResponse)
    def channel_page(rcid: int) -> str:
        return quality.channel_page(places()["dsn"], rcid)

    @app.get("/references", response_class=HTMLResponse)
    def references_page(field: int | None = None, fid: int | None = None) -> str:
        return references.references_page(places()["dsn"], field, fid)

    @app.get("/runs", response_class=HTMLResponse)
    def runs_page(request: Request) -> str:
        return runs.runs_page(places()["dsn"], dict(request.query_params))

    @app.get("/run/{run_id:path}", response_class=HTMLResponse)
    def run_page(run_id: str) -> str:
        try:
            return exposure_page(run_id.split("__")[0])
        except FilesMissing:
            return runs.runs_page(places()["dsn"], {"run": run_id})

    @app.get("/reference/{reference_id}", response_class=HTMLResponse)
    def reference_page(reference_id: int) -> str:
        return references.reference_page(places()["dsn"], reference_id)

    @app.get("/reprocessing/{request_id}", response_class=HTMLResponse)
    def request_page(request_id: int) -> str:
        return reprocessing.request_page(places()["dsn"], request_id)


def add_pictures(app: Any) -> None:
    """Pictures that the pages show, and the interactive map of the sky."""
    from fastapi import Response
    from fastapi.responses import JSONResponse

    from ztfds.operations.pages.coverage import coverage_fields, coverage_picture, script
    from ztfds.operations.pages.exposure import picture
    from ztfds.survey.camera import get_camera

    @app.get("/picture/{exposure}/{rcid}/{which}.png")
    def quadrant_picture(exposure: str, rcid: int, which: str) -> Response:
        content = picture(places()["dsn"], Path(places()["archive"]), exposure, rcid, which)
        return Response(content, media_type="image/png", headers=KEPT)

    @app.get("/sky.js")
    def sky() -> Response:
        return Response(script(), media_type="text/javascript", headers={"Cache-Control": "no-cache"})

    @app.get("/coverage/fields.json")
    def fields_seen(nid: int | None = None) -> JSONResponse:
        return JSONResponse(coverage_fields(places()["dsn"], get_camera(places()["camera"]), nid))

    @app.get("/coverage/{which}/{nid}.png")
    def coverage_map(which: str, nid: int) -> Response:
        content = coverage_picture(places()["dsn"], Path(places()["archive"]), which, nid)
        return Response(content, media_type="image/png", headers=KEPT)


class ZtfdsPages(AirflowPlugin):
    """Pages in the navigation, and a tab of each run: the exposure that it is about, or what it executed."""

    name = "ztfds_pages"
    if len(sys.argv) > 1 and sys.argv[1] == "api-server":  # plugins are loaded by every component
        fastapi_apps = [{"app": build(), "url_prefix": ROOT, "name": "ztfds"}]
    external_views = [
        {
            "name": name,
            "href": f"{ROOT}/{route}",
            "destination": "nav",
            "url_route": f"ztfds-{route}",
            "category": "browse",
        }
        for name, route in PAGES.items()
    ] + [
        {
            "name": "Data",
            "href": f"{ROOT}/run/{{RUN_ID}}",
            "destination": "dag_run",
            "url_route": "ztfds-run",
        }
    ]
