"""A large, realistic survey database without pixels: one night of many exposures, earlier nights of fewer, filled by the server itself.

States, sizes, numbers of products, figures and candidates of a quadrant are those of a real night; files exist for the night
reports and coverage pictures only. Used by ``benchmarks/pages.py`` and by the tests of the pages.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psycopg2
import psycopg2.extras

from ztfds.formats.alerts import CUTOUTS, pack_cutout, write_container
from ztfds.formats.alertschema import alert_schema
from ztfds.registry import database, summaries
from ztfds.survey import fields, ids
from ztfds.survey.figures import all_figures

NIGHT = ids.nid_of_date("20261120")
CADENCE_D = 40 / 86400
FILTERS = ((1, "zg"), (2, "zr"))
SCIENCE_KINDS = ("sciimg", "mskimg", "sciimlog", "psfcat", "sexcat", "sciimgdao", "sciimgdaopsfcent")
DIFFERENCE_KINDS = ("scimrefdiffimg", "diffimgpsf", "diffimlog")
CENTRES = {
    "seeing_arcsec": (2.1, 0.2), "maglim_mag": (20.6, 0.2), "magzp": (26.2, 0.04), "zp_rms_mag": (0.03, 0.004),
    "median_background_dn": (350, 60), "pixel_noise_dn": (9, 1), "astrom_rms_ra_mas": (60, 8), "astrom_rms_dec_mas": (58, 8),
    "n_psfcat": (4500, 600), "scorr_width_raw": (1.02, 0.03), "diffmaglim": (20.4, 0.2), "n_candidates": (20, 5),
}  # fmt: skip
"""Mean and scatter of the figures that are followed."""
OTHERS = {"science": 44, "difference": 20}
"""How many figures a quadrant has beside those."""
PACKET_CANDIDATES = 40
"""Candidates, all with packets, of each quadrant of one CCD of the newest exposure: more than a page shows."""


@dataclass(frozen=True)
class Size:
    """How large the database is.

    Attributes
    ----------
    exposures : int
        On-sky exposures of the large night, 64 quadrants each.
    earlier_nights, earlier_exposures : int
        Nights before it, and exposures of each.
    candidates : int
        Candidates of a quadrant; two of three are alerts.
    reference_fields : int
        Fields with references in two filters and all channels.
    """

    exposures: int = 800
    earlier_nights: int = 24
    earlier_exposures: int = 40
    candidates: int = 6
    reference_fields: int = 1000


SMALL = Size(exposures=24, earlier_nights=8, earlier_exposures=10, candidates=3, reference_fields=14)
"""A database of some seconds, for tests; most of its rows are of earlier nights."""


def fill(admin_dsn: str, size: Size, archive: Path | None = None, say: Any = lambda line: None) -> None:
    """Fill a migrated, empty database.

    Parameters
    ----------
    admin_dsn : str
        The database, as its administrator: checks of foreign keys are left out, the rows satisfy them.
    size : Size
    archive : Path, optional
        Where night reports and coverage pictures are written.
    say : callable
        Called with one line before every table.
    """
    with database.transaction(admin_dsn) as cursor:
        cursor.execute("set session_replication_role = replica")
        for nid in range(NIGHT - size.earlier_nights, NIGHT + 1):
            cursor.execute("select ensure_night(%s)", (nid,))
        _exposures(cursor, size)
        for name, statement in _STATEMENTS.items():
            say(name)
            cursor.execute(statement, _parameters(size))
        say("packets, day tasks, reprocessing")
        _packets(cursor)
        if archive is not None:
            _documents(cursor, size, archive)
    _vacuum(admin_dsn)
    say("summaries")
    _summaries(admin_dsn)
    _vacuum(admin_dsn)


def _vacuum(dsn: str) -> None:
    """What the database does by itself in the course of a night."""
    connection = database.connect(dsn, autocommit=True)
    with connection.cursor() as cursor:
        cursor.execute("vacuum analyze")
    connection.close()


def pointings(size: Size) -> list[tuple[int, int, int, str]]:
    """Night, field, filter number and filter code of every exposure, in order of time: each field in g, then in r."""
    grid = [f for f in fields.all_fields().values() if f.fieldid < 1000 and -25 < f.dec < 85]
    grid.sort(key=lambda f: (f.ra, f.dec))
    made = []
    for nid in range(NIGHT - size.earlier_nights, NIGHT + 1):
        n = size.exposures if nid == NIGHT else size.earlier_exposures
        first = 0 if nid == NIGHT else 3 * (nid % 3)
        made += [(nid, grid[(first + i // 2) % len(grid)].fieldid, *FILTERS[i % 2]) for i in range(n)]
    return made


def _exposures(cursor: database.Cursor, size: Size) -> None:
    """Exposures and nights; the last of the newest night are still in work, some are late, bad or incomplete."""
    rows, index, night = [], 0, None
    for nid, field, fid, code in pointings(size):
        index = index + 1 if nid == night else 0
        night = nid
        jd = ids.NID_ZERO_JD + nid + 0.125 + index * CADENCE_D
        stamp = ids.night_date(nid) + ids.filefracday(jd)[-6:]
        at, state = fields.get(field), "processed"
        if nid == NIGHT and index >= size.exposures - 3:
            state = "processing"
        elif index % 97 == 31:
            state = "incomplete"
        rows.append((f"ztf_{stamp}", ids.expid(jd), nid, field, fid, code, 1 + (index // 2) % 3, jd, at.ra, at.dec, state,
                     "differenced" if index % 61 == 17 else None))  # fmt: skip
    psycopg2.extras.execute_values(cursor, _EXPOSURE, rows)
    cursor.execute("update nights set state = 'closed', closed = opened + interval '14 hours' where nid < %s", (NIGHT,))


_EXPOSURE = """
    insert into exposures (exposure, expid, nid, field, fid, filtercode, imgtype, programid, obsjd, exptime, airmass, ra, dec, state,
                           late_stage, arrival, ingested, calibrated, differenced, processed, published)
    select v.exposure, expid, nid, field, fid, code, 'o', programid, jd, 30, 1.2, ra, dec, state, late_stage, t,
           t + interval '4 s', t + interval '80 s', t + interval '150 s', t + interval '152 s',
           case when state = 'processed' then t + interval '155 s' end
      from (values %s) v (exposure, expid, nid, field, fid, code, programid, jd, ra, dec, state, late_stage),
           lateral (select to_timestamp((jd - 2440587.5) * 86400) + interval '50 s' as t) at"""

_CARDS = ", ".join(f"'CARD{i:03d}', 'value {i} of a header card, {i * i}'" for i in range(45))
_CARDS_TOO = ", ".join(f"'MORE{i:03d}', {i * 1.7:.3f}" for i in range(45))
_Q = "exposures e cross join generate_series(0, 63) r"
_DATASET = "e.exposure || '/rcid' || lpad(r::text, 2, '0')"
_PRODUCT = """
    insert into products (provenance_id, kind, dataset, step, exposure, expid, nid, field, fid, ccdid, rcid, programid, filename, path,
                          bytes, sha256, version, vbest, status, infobits, swversion, created, meta)"""


def _product_values(step: str, version: str, vbest: int, meta: str) -> str:
    """The values of products of every quadrant, for the kinds of a table ``k``."""
    prefix = {"science": "sci", "difference": "diff"}[step]
    return f"""
        select md5('{step}' || ({version}) || e.exposure || r), k.kind, '{prefix}/' || {_DATASET}, '{step}', e.exposure, e.expid, e.nid,
               e.field, e.fid, r / 4 + 1, r, e.programid, e.exposure || '_c' || r || '_' || k.kind,
               'sci/2026/' || e.exposure || '/' || r || '/v' || ({version}) || '/' || k.kind || '.fits', 9000000, md5({_DATASET} || k.kind)
               || md5(k.kind), {version}, {vbest}, (hashtext(e.exposure || r) %% 50 <> 0)::integer,
               case when hashtext(e.exposure || r) %% 50 = 0 then 8 else 0 end, '{step}/1', e.arrival + interval '90 s', {meta}"""


_META = """case when k.kind = 'sciimg' then head.meta || jsonb_build_object('SEEING', 2.0 + random(), 'MAGLIM', 20.0 + random(),
        'MAGZP', 26.0 + random() / 10, 'CRVAL1', e.ra, 'CRVAL2', e.dec) else '{}' end"""
_HEAD = f"(select jsonb_build_object({_CARDS}) || jsonb_build_object({_CARDS_TOO}) as meta) head"
_VERSION = f"case when e.nid = {NIGHT} then 2 else 1 end"
_NORMAL = "(random() + random() + random() - 1.5) * 2"


def _kinds(kinds: tuple[str, ...]) -> str:
    """A table ``k`` of kinds."""
    return "(values " + ", ".join(f"('{kind}')" for kind in kinds) + ") k (kind)"


def _figures(step: str) -> str:
    """A table ``f`` of figures of a step with mean and scatter."""
    mine = [(f.name, *CENTRES[f.name]) for f in all_figures() if f.step == step]
    mine += [(f"{step}_figure_{i:02d}", 10.0 + i, 1.0) for i in range(OTHERS[step])]
    return (
        "(values "
        + ", ".join(f"('{name}', {mean}, {scatter})" for name, mean, scatter in mine)
        + ") f (name, mean, scatter)"
    )


def _metrics(step: str) -> str:
    """Figures of the served version of every quadrant."""
    return f"""
        insert into qa_metrics (provenance_id, step, exposure, rcid, nid, fid, name, value)
        select p.provenance_id, p.step, p.exposure, p.rcid, p.nid, p.fid, f.name, f.mean + f.scatter * {_NORMAL}
          from products p cross join {_figures(step)}
             where p.kind = '{"sciimg" if step == "science" else "scimrefdiffimg"}' and p.vbest > 0"""


_REFERENCE_GRID = """(select f.field, fid, r, (f.field::bigint * 100 + 12) * 10000 + fid * 100 + r as rfid
    from unnest(%(reference_fields)s) f (field), generate_series(1, 2) fid, generate_series(0, 63) r) g"""

_STATEMENTS = {
    "ccdfiles": f"""
        insert into ccdfiles (exposure, ccdid, filename, bytes, sha256, state, error_code, reason, run_id, arrival, ingested, calibrated,
                              differenced, processed, path, header)
        select e.exposure, c, e.exposure || '_' || lpad(e.field::text, 6, '0') || '_' || e.filtercode || '_c' || lpad(c::text, 2, '0')
               || '_o.fits.fz', 22000000, md5(e.exposure || c) || md5(c::text), s.state,
               case when s.state = 'bad' then 'bad_data' when s.state = 'failed' then 'bug' end,
               case when s.state in ('bad', 'failed') then 'too few stars for a solution: 12 of at least 20' end,
               'run_' || e.exposure, e.arrival, e.ingested, e.calibrated, e.differenced, e.processed, 'raw/' || e.exposure || c, head.meta
          from exposures e cross join generate_series(1, 16) c cross join {_HEAD},
               lateral (select case when e.state = 'incomplete' and c = 5 then 'failed' when e.state = 'incomplete' and c = 6 then 'bad'
                                    when e.state = 'processing' and c > 9 then 'ingested' else 'processed' end as state) s""",
    "receipts": """
        insert into receipts (filename, exposure, bytes, sha256, source, arrival, verdict, path)
        select filename, exposure, bytes, sha256, ccdfile_id::text, arrival, 'accepted', path from ccdfiles""",
    "manifests": """
        with made as (insert into manifests (nid, part, camera, filename, sha256)
            select nid, 'night', 'ZTF', 'manifest_' || nid, md5(nid::text) from nights returning manifest_id, nid)
        insert into manifest_files (manifest_id, nid, filename, bytes, sha256)
        select manifest_id, nid, filename, bytes, sha256 from made join exposures using (nid) join ccdfiles using (exposure)""",
    "references": f"""
        insert into references_ (rfid, field, rcid, fid, version, status, reason, infobits, nframes, jdstart, jdend, magzp, maglimit,
                                 provenance_id, fwhm_px, limits_version, remarks, regenerate)
        select g.rfid, g.field, g.r, g.fid, 1, (hashtext(g.rfid::text) %% 90 <> 0)::integer,
               case when hashtext(g.rfid::text) %% 90 = 0 then 'too few stars' end, 0, 20, 2461000, 2461200, 26.2, 22.1 + random() / 4,
               md5('reference' || g.rfid), 2.0 + random() / 3, 1,
                  case when hashtext(g.rfid::text) %% 70 = 1 then 'the seeing is 4.1 px' end,
               hashtext(g.rfid::text) %% 500 = 3
          from {_REFERENCE_GRID}""",
    "products of references": f"""
        {_PRODUCT}
        select r.provenance_id, k.kind, 'ref/' || r.rfid, 'reference', null, null, null, r.field, r.fid, r.rcid / 4 + 1, r.rcid, null,
               r.rfid || k.kind, 'ref/' || r.rfid || k.kind, 38000000, md5(r.rfid || k.kind),
                  1, 1, r.status, 0, 'reference/1', now(), '{{}}'
          from references_ r cross join {_kinds(("refimg", "refpsfcat"))}""",
    "figures of references": """
        insert into qa_metrics (provenance_id, step, rcid, fid, name, value)
        select provenance_id, 'reference', rcid, fid, 'reference_figure_' || i, random() from references_, generate_series(1, 25) i
         where reference_id %% 16 = 1""",
    "products of science images": f"""
        {_PRODUCT} {_product_values("science", _VERSION, 1, _META)} from {_Q} cross join {_kinds(SCIENCE_KINDS)} cross join {_HEAD}
         where e.state <> 'processing' or r < 36""",
    "superseded images of the newest night": f"""
        {_PRODUCT} {_product_values("science", "1", 0, "'{}'")} from {_Q} cross join {_kinds(("sciimg",))} where e.nid = {NIGHT}""",
    "products of differences": f"""
        {_PRODUCT} {_product_values("difference", "1", 1, "'{}'")} from {_Q} cross join {_kinds(DIFFERENCE_KINDS)}
         where e.state <> 'processing'""",
    "difference images": """
        insert into diffimages (pid, provenance_id, product_id, exposure, nid, field, fid, rcid, jd, programid, exptime, status, reason,
                                reference_id, diffmaglim, magzpsci, ra, dec, corners, hpx, ncandidates, nalertpackets)
        select (e.expid * 100 + p.rcid) * 100 + 15, p.provenance_id, p.product_id, p.exposure, p.nid, p.field, p.fid, p.rcid, e.obsjd,
               p.programid, 30, p.status, case when p.status = 0 then 'width of the score on blank sky 1.61' end, r.reference_id,
               20.4, 26.2, e.ra, e.dec, array[0, 0, 1, 0, 1, 1, 0, 1],
                  (hashtext(p.dataset)::bigint + 2147483648) * 100000, n.c, n.c - n.c / 3
          from products p join exposures e using (exposure) cross join (select %(candidates)s::integer as c) n
          left join references_ r on (r.field, r.fid, r.rcid) = (p.field, p.fid, p.rcid) and r.vbest > 0
         where p.kind = 'scimrefdiffimg'""",
    "parents": f"""
        insert into product_parents (product_id, parent_id)
        select p.product_id, s.product_id from products p join products s on s.exposure = p.exposure and s.rcid = p.rcid
           and s.kind = 'sciimg' and s.vbest > 0 where p.kind = any(array{list(DIFFERENCE_KINDS)})
        union all
        select p.product_id, s.product_id from products p join products s on (s.field, s.rcid, s.fid) = (p.field, p.rcid, p.fid)
           and s.kind = 'refimg' and s.vbest > 0 where p.kind = any(array{list(DIFFERENCE_KINDS)})""",
    "members of references": """
        insert into reference_members (reference_id, product_id, exposure)
        select r.reference_id, p.product_id, p.exposure from references_ r
          join products p on (p.field, p.rcid, p.fid) = (r.field, r.rcid, r.fid) and p.kind = 'sciimg' and p.vbest > 0
         where r.reference_id %% 4 = 1""",
    "figures of science images": _metrics("science"),
    "figures of differences": _metrics("difference"),
    "figures of superseded images": f"""
        insert into qa_metrics (provenance_id, step, exposure, rcid, nid, fid, name, value)
        select p.provenance_id, p.step, p.exposure, p.rcid, p.nid, p.fid, f.name, f.mean + f.scatter * {_NORMAL}
          from products p cross join {_figures("science")}
         where p.kind = 'sciimg' and p.vbest = 0 and f.name not like 'science%%'""",
    "jobs": """
        insert into jobs (step, dataset, exposure, rcid, run_id, host, pid, started, ended, cpu_s, wall_s, peak_mb, state)
        select p.step, p.dataset, p.exposure, p.rcid, 'run_' || p.exposure, 'worker' || p.rcid / 16, 1000 + p.rcid, p.created,
               p.created + interval '9 s', 8 + random(), 9 + random(), 900, 'done'
          from products p where p.kind in ('sciimg', 'scimrefdiffimg')""",
    "jobs that failed": """
        insert into jobs (step, dataset, exposure, rcid, run_id, host, pid, started, ended, cpu_s, wall_s, peak_mb, state, error_class,
                          error_text)
        select 'science', 'sci/' || c.exposure, c.exposure, 4 * (c.ccdid - 1), c.run_id, 'worker1', 77, c.arrival,
               c.arrival + interval '20 s', 8, 9, 900, 'error', c.error_code, c.reason
                  from ccdfiles c where c.state in ('bad', 'failed')""",
    "candidates": """
        insert into candidates (objectid, exposure, hpx, alerted, jd, fid, pid, diffmaglim, programid, candid, isdiffpos, nid, rcid,
                                field, xpos, ypos, ra, dec, magpsf, sigmapsf, chipsf, fwhm, rb, scorr,
                                   ndethist, ncovhist, magzpsci, exptime)
        select 'ZTF26' || substr(translate(md5(d.pid::text || i), '0123456789', 'ghijklmnop'), 1, 7), d.exposure,
           d.hpx + i, i %% 3 <> 0, d.jd,
               d.fid, d.pid, 20.4, d.programid, d.pid * 1000000 + 15000 + i, 't', d.nid, d.rcid, d.field, 100, 200, d.ra, d.dec, 19.2, 0.1,
               1, 2.1, random(), 5 + 9 * random(), 2, 30, 26.2, 30
          from diffimages d cross join generate_series(1, %(candidates)s) i where d.status = 1""",
    "alerts": """
        insert into alert_outbox (candid, objectid, exposure, rcid, topic, archive_path, bytes, nid, programid,
           created, state, attempt, acked)
        select c.candid, c.objectid, c.exposure, c.rcid, 'ztf_programid' || c.programid, 'alerts/' || c.nid, 40000, c.nid, c.programid,
               e.differenced, 'sent', 1, e.published from candidates c join exposures e using (exposure) where c.alerted""",
    "split_quality": f"""
        insert into split_quality (exposure, rcid, jd, fid, provenance_id, metrics, flags, reasons, created)
        select e.exposure, r, e.obsjd, e.fid, md5('split' || e.exposure || r),
               jsonb_build_object('overscan_mean_dn', 990 + random(), 'overscan_drift_dn', random(), 'read_noise_dn', 1.7 + random() / 10,
                   'median_dn', 350 + random(), 'row_structure_dn', random() / 9, 'saturated_percent', random() / 10, 'n_dead', 12)
               || jsonb_build_object({_CARDS_TOO}), (hashtext(e.exposure || r) %% 400 = 0)::integer,
               case when hashtext(e.exposure || r) %% 400 = 0 then 'overscan level 9 sigma off' end, e.ingested from {_Q}""",
    "channel_trends": """
        insert into channel_trends (provenance_id, caltype, rcid, fid, nid, jd, metrics, accepted)
        select md5(n.nid::text || t.caltype || t.fid || r), t.caltype, r, t.fid, n.nid, 2457754.5 + n.nid,
               jsonb_build_object('gain_e_per_dn', 6.2 + random() / 20, 'gain_error_e_per_dn', 0.03, 'read_noise_e', 10 + random() / 9,
                   'saturation_dn', 52000, 'unsaturated_to_dn', 51000), true
          from nights n, generate_series(0, 63) r, (values ('bias', 0), ('hifreqflat', 1), ('hifreqflat', 2)) t (caltype, fid)""",
    "tries": """
        insert into reference_tries (field, rcid, fid, inputs, last_input, reason, rejected)
        select 1500 + f, r, 3, 4, 1, 'too few images: 4 of 15', '[{"exposure": "x", "reason": "the seeing is 5.1 px"}]'
          from generate_series(1, 40) f, generate_series(0, 63) r""",
    "reference_queue": """
        insert into reference_queue (field, rcid, fid, origin, reason, who, state, reference_id)
        select field, rcid, fid, 'operator', 'ghost', 'ana', 'queued', reference_id from references_ where regenerate""",
    "task_outcomes": """
        insert into task_outcomes (task, subject, run_id, started, ended, state, line)
        select t, n.nid::text, t || n.nid || '_' || i, n.opened, n.opened + interval '1 min', 'ok', 'nothing to say of it'
          from nights n, unnest(array['backup', 'cleanup', 'coverage', 'health', 'database_care', 'night_files', 'downtime']) t,
               generate_series(1, 12) i""",
    "alarms": """
        insert into alarms (rule, severity, message, raised, last_seen, cleared)
        select 'rule' || i %% 20, 'warning', 'something was wrong', now() - i * interval '1 hour', now(), now() - i * interval '50 min'
          from generate_series(1, 2000) i""",
    "drills": """
        insert into drills (name, title, began, night, passed, files, files_lost, alerts, alerts_lost, alerts_doubled, recovery_s, wall_s,
                            states, alarms, problems, software)
        select 'drill' || d, 'Drill ' || d, now() - i * interval '7 days', '20261101',
           true, 300, 0, 900, 0, 0, 20, 100, '{}', '{a}', '{}', 'x'
          from generate_series(1, 20) d, generate_series(1, 20) i""",
    "reprocessing": f"""
        insert into reprocessing_requests (author, reason, selection, steps, state, preview)
        select 'ana', 'new flats', jsonb_build_object('nights', jsonb_build_array({NIGHT}), 'fields', '[]'::jsonb, 'rcids', '[]'::jsonb,
               'fids', '[]'::jsonb), '{{science}}', 'done', '{{}}' from generate_series(1, 30)""",
    "files of a request": f"""
        insert into reprocessing_items (request_id, filename, exposure, state, before, made, ended)
        select 30, c.filename, c.exposure, 'done',
           jsonb_build_object('products', jsonb_agg(p.product_id order by 1) filter (where p.vbest = 0)),
               jsonb_build_object('products', jsonb_agg(p.product_id order by 1) filter (where p.vbest > 0)), now()
          from ccdfiles c join products p on p.exposure = c.exposure and p.ccdid = c.ccdid and p.kind = 'sciimg' and p.nid = {NIGHT}
         where c.state = 'processed' group by 2, 3""",
    "verdicts": """
        insert into verdicts (exposure, rcid, verdict, analyst, comment)
        select exposure, 3, 'defective', 'ana', 'satellite' from exposures where state = 'incomplete'""",
    "setting_changes": """
        insert into setting_changes (purpose, risk, author, changes, differences, state)
        select 'better flats ' || i, 'low', 'ana', '{}', '{"list": [{"setting": "flat.frames", "before": 20, "after": 25}]}', 'in_force'
          from generate_series(1, 60) i""",
}  # fmt: skip
"""What is filled, in order."""


def _parameters(size: Size) -> dict[str, Any]:
    """Parameters of the statements: the fields with references are those that were observed, then others of the grid."""
    seen = list(dict.fromkeys(field for _, field, *_ in pointings(size)))
    others = [field for field in fields.all_fields() if field < 1000 and field not in set(seen)]
    return {"candidates": size.candidates, "reference_fields": (seen + others)[: size.reference_fields]}


def packet(rng: np.random.Generator) -> bytes:
    """An alert packet with three real-sized cutouts and nothing known."""
    stamps = {
        name: {"fileName": name, "stampData": pack_cutout(rng.normal(100, 10, (63, 63)).astype("f4"))}
        for name in CUTOUTS
    }
    filled = {field["name"]: _blank(field["type"]) for field in alert_schema()["fields"]}
    return write_container([{**filled, **stamps}], alert_schema())


def _blank(kind: Any) -> Any:
    """The emptiest value of an Avro type."""
    if isinstance(kind, list):
        return None if "null" in kind else _blank(kind[0])
    if isinstance(kind, dict):
        return {field["name"]: _blank(field["type"]) for field in kind["fields"]} if kind["type"] == "record" else []
    return {"string": "", "boolean": False, "bytes": b""}.get(kind, 0)


def _packets(cursor: database.Cursor) -> None:
    """Many candidates with whole packets on the first CCD of the newest finished exposure."""
    content = packet(np.random.default_rng(5))
    cursor.execute(
        "select d.pid, d.exposure, d.rcid, d.nid, d.field, d.fid, d.jd, d.ra, d.dec from diffimages d join exposures e using (exposure)"
        " where e.exposure = (select max(exposure) from exposures where state = 'processed') and d.rcid < 4"
    )
    for pid, exposure, rcid, nid, field, fid, jd, ra, dec in cursor.fetchall():
        for i in range(PACKET_CANDIDATES):
            candid = pid * 1_000_000 + 25_000 + i
            cursor.execute(
                "insert into candidates (objectid, exposure, hpx, alerted, jd, fid, pid, programid, candid, isdiffpos, nid, rcid, field,"
                " ra, dec, magpsf, sigmapsf, rb, scorr) values ('ZTF26abcdefg', %s, 1, true, %s, %s, %s, 1, %s, 't', %s, %s, %s, %s, %s,"
                " 18, 0.1, 0.9, 30)",
                (exposure, jd, fid, pid, candid, nid, rcid, field, ra, dec),
            )
            cursor.execute(
                "insert into alert_outbox (candid, objectid, exposure, rcid, topic, packet, bytes, nid, programid, state)"
                " values (%s, 'ZTF26abcdefg', %s, %s, 't', %s, %s, %s, 1, 'sent')",
                (candid, exposure, rcid, content, len(content), nid),
            )


def _documents(cursor: database.Cursor, size: Size, archive: Path) -> None:
    """Night reports and coverage maps of every night, with files."""
    from ztfds.operations.pages.render import png

    archive.mkdir(parents=True, exist_ok=True)
    (archive / "report.html").write_text("<!doctype html><title>report</title><p>a night</p>")
    (archive / "map.png").write_bytes(png(np.random.default_rng(1).normal(size=(880, 840))))
    rows = [{"filter": "zg", "program": "all", "quadrants": 900, "area_deg2": 900.0, "median_visits": 1, "most_visits": 3,
             "median_depth_mag": 20.5, "median_total_mag": 20.7}]  # fmt: skip
    files = {"nightreport_html": "report.html", "nightreport_txt": "report.html", "coverage_night": "map.png", "coverage_total": "map.png",
             "coverage_night_png": "map.png", "coverage_total_png": "map.png", "coverage_night_moc_zg": "map.png"}  # fmt: skip
    for nid in range(NIGHT - size.earlier_nights, NIGHT + 1):
        for kind, path in files.items():
            values = {"provenance_id": f"{kind}{nid}", "kind": kind, "dataset": f"document/{nid}", "step": "document", "nid": nid,
                      "filename": path, "path": path, "bytes": 1, "sha256": "0", "version": 1, "swversion": "document/1",
                      "meta": {"rows": rows}}  # fmt: skip
            database.insert(cursor, "products", values)


def _summaries(dsn: str) -> None:
    """The summaries of all nights, by the statements of the pipeline."""
    for row in database.fetch_all(dsn, "select nid from nights order by nid"):
        summaries.renew_night(dsn, row["nid"])
