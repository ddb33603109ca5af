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
    "References": "references",
    "Channels": "channels",
    "Day tasks": "day",
    "Readiness": "readiness",
    "Coverage": "coverage",
    "Reprocessing": "reprocessing",
    "Changes": "changes",
    "Drills": "drills",
}


@lru_cache(maxsize=1)
def places() -> dict[str, Any]:
    """Where things are: the reading role's database address and the extra of the Connection ztfds_archive."""
    from airflow.models.connection import Connection

    uri = Connection.get_connection_from_secrets("ztfds_reader").get_uri()
    extra = Connection.get_connection_from_secrets("ztfds_archive").extra_dejson
    return {**extra, "dsn": f"postgresql://{uri.split('://', 1)[1]}"}


def build() -> Any:
    """The application: pages for everybody whose role may see them, nothing for others."""
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.core_api.security import GetUserDep
    from fastapi import Depends, FastAPI, HTTPException, Response
    from fastapi.responses import HTMLResponse, PlainTextResponse

    from ztfds.operations.pages import exposure as exposures
    from ztfds.operations.pages.alarms import alarms_page, exposition
    from ztfds.operations.pages.changes import changes_page
    from ztfds.operations.pages.channels import channels_page
    from ztfds.operations.pages.coverage import coverage_page, coverage_picture
    from ztfds.operations.pages.day import day_page
    from ztfds.operations.pages.drills import drills_page
    from ztfds.operations.pages.readiness import readiness_page
    from ztfds.operations.pages.references import reference_page, references_page
    from ztfds.operations.pages.reports import report, reports_page
    from ztfds.operations.pages.reprocessing import reprocessing_page, request_page
    from ztfds.operations.pages.tonight import tonight
    from ztfds.survey.camera import get_camera
    from ztfds.survey.errors import FilesMissing, ServiceDown, ZtfdsError

    def may_see(user: GetUserDep) -> None:
        if not get_auth_manager().is_authorized_custom_view(method="GET", resource_name="ztfds", user=user):
            raise HTTPException(403, "your role may not see the operators' pages")

    app = FastAPI(title="ztfds", docs_url=None, redoc_url=None, openapi_url=None, dependencies=[Depends(may_see)])

    @app.exception_handler(FilesMissing)
    def missing(_: Any, error: FilesMissing) -> PlainTextResponse:
        return PlainTextResponse(str(error), 404)

    @app.exception_handler(ServiceDown)
    def down(_: Any, error: ServiceDown) -> PlainTextResponse:
        return PlainTextResponse(f"the survey's database does not answer: {error}", 503)

    @app.exception_handler(ZtfdsError)
    def damaged(_: Any, error: ZtfdsError) -> PlainTextResponse:
        return PlainTextResponse(f"{error.code}: {error.message}", 500)

    @app.get("/tonight", response_class=HTMLResponse)
    def tonight_page(nid: int | None = None) -> str:
        known = places()
        folders = {name: Path(known[name]) for name in ("inbox", "archive")}
        return tonight(known["dsn"], get_camera(known["camera"]), folders, nid)

    @app.get("/exposure/{exposure}", response_class=HTMLResponse)
    def exposure_page(exposure: str) -> str:
        return exposures.exposure_page(places()["dsn"], get_camera(places()["camera"]), exposure)

    @app.get("/exposure/{exposure}/{rcid}", response_class=HTMLResponse)
    def quadrant_page(exposure: str, rcid: int) -> str:
        return exposures.quadrant_page(places()["dsn"], exposure, rcid)

    @app.get("/picture/{exposure}/{rcid}/{which}.png")
    def picture(exposure: str, rcid: int, which: str) -> Response:
        content = exposures.picture(places()["dsn"], Path(places()["archive"]), exposure, rcid, which)
        return Response(content, media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})

    @app.get("/references", response_class=HTMLResponse)
    def references() -> str:
        return references_page(places()["dsn"])

    @app.get("/reference/{reference_id}", response_class=HTMLResponse)
    def one_reference(reference_id: int) -> str:
        return reference_page(places()["dsn"], reference_id)

    @app.get("/channels", response_class=HTMLResponse)
    def channels() -> str:
        return channels_page(places()["dsn"])

    @app.get("/day", response_class=HTMLResponse)
    def day() -> str:
        return day_page(places()["dsn"])

    @app.get("/readiness", response_class=HTMLResponse)
    def readiness() -> str:
        return readiness_page(places()["dsn"])

    @app.get("/coverage", response_class=HTMLResponse)
    def coverage(nid: int | None = None) -> str:
        return coverage_page(places()["dsn"], nid)

    @app.get("/coverage/{which}/{nid}.png")
    def coverage_map(which: str, nid: int) -> Response:
        content = coverage_picture(places()["dsn"], Path(places()["archive"]), which, nid)
        return Response(content, media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})

    @app.get("/alarms", response_class=HTMLResponse)
    def alarms() -> str:
        return alarms_page(places()["dsn"])

    @app.get("/metrics", response_class=PlainTextResponse)
    def metrics() -> str:
        return exposition(places()["dsn"])

    @app.get("/reprocessing", response_class=HTMLResponse)
    def reprocessing() -> str:
        return reprocessing_page(places()["dsn"])

    @app.get("/reprocessing/{request_id}", response_class=HTMLResponse)
    def one_request(request_id: int) -> str:
        return request_page(places()["dsn"], request_id)

    @app.get("/changes", response_class=HTMLResponse)
    def changes() -> str:
        return changes_page(places()["dsn"])

    @app.get("/drills", response_class=HTMLResponse)
    def drills() -> str:
        return drills_page(places()["dsn"])

    @app.get("/reports", response_class=HTMLResponse)
    def reports() -> str:
        return reports_page(places()["dsn"])

    @app.get("/report/{nid}", response_class=HTMLResponse)
    def one_report(nid: int) -> str:
        return report(places()["dsn"], Path(places()["archive"]), nid)

    return app


class ZtfdsPages(AirflowPlugin):
    """Pages in the navigation, and a tab of each run of an exposure."""

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
            "name": "Quadrants",
            "href": f"{ROOT}/exposure/{{RUN_ID}}",
            "destination": "dag_run",
            "url_route": "ztfds-exposure",
        }
    ]
